"""A model registry in a fresh SQLite store, filled as training fills it."""

from pathlib import Path
from typing import Any

from jobs.tracking import open_client


def open_registry(folder: Path, name: str) -> tuple[Any, str]:
    """A client of a fresh store with one registered model, and the store's address."""
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    client = open_client(uri)
    client.create_experiment("models", artifact_location=(folder / "files").as_uri())
    client.create_registered_model(name)
    return client, uri


def crown(client: Any, name: str, checkpoint: Path) -> str:
    """Registers a checkpoint's files with the alias champion; returns the version."""
    experiment = client.get_experiment_by_name("models").experiment_id
    model = client.create_logged_model(experiment, "adapters")
    client.log_model_artifacts(model.model_id, str(checkpoint))
    client.finalize_logged_model(model.model_id, "READY")
    source = client.get_logged_model(model.model_id).artifact_location
    version = client.create_model_version(name, source).version
    client.set_registered_model_alias(name, "champion", version)
    return str(version)
