"""The frozen models of a configuration as places that they can be loaded from; what MLflow holds is brought here."""

import hashlib
import os
import shutil
from pathlib import Path

from flexip.encoders import EncoderNames
from jobs.config import ModelsConfig
from jobs.console import UserError, say

SCHEMES = ("models:/", "runs:/", "mlflow-artifacts:/")
CACHE = Path("~/.cache/flexip/mlflow")


def encoder_names(models: ModelsConfig) -> EncoderNames:
    """Names of the frozen models, those in MLflow as folders below `CACHE`; MLFLOW_TRACKING_URI says which MLflow.

    Raises:
        UserError: MLflow does not give one, or its name can stand for another tomorrow.
    """
    return EncoderNames(**{part: _place(f"models.{part}", name) for part, name in models.model_dump().items()})


def _place(field: str, name: str) -> str:
    if not name.startswith(SCHEMES):
        return name
    if "@" in name:
        raise UserError(f"{field} = {name}: an alias moves on, a frozen model must not; write models:/NAME/VERSION")
    folder = CACHE.expanduser() / hashlib.sha256(name.encode()).hexdigest()[:16]
    if not folder.is_dir():
        _fetch(field, name, folder)
        say("models", f"{name} is in {folder}")
    return str(folder)


def _fetch(field: str, name: str, folder: Path) -> None:
    """All of it or nothing: a half-fetched folder has another name."""
    import mlflow
    from mlflow.exceptions import MlflowException

    draft = folder.with_name(f"{folder.name}.{os.getpid()}")
    draft.mkdir(parents=True)
    try:
        found = Path(mlflow.artifacts.download_artifacts(artifact_uri=name, dst_path=str(draft)))
        os.replace(found, folder)
    except (MlflowException, OSError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(
            f"{field} = {name}: not to be had from MLflow at {mlflow.get_tracking_uri()} ({reason}); "
            "set MLFLOW_TRACKING_URI to the one that has it"
        ) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
