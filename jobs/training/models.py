"""Checkpoints as MLflow sees them: a LoggedModel each, with its scores and the dataset; the best one registered."""

import shutil
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flexip.checkpoint import CONFIG, WEIGHTS
from jobs.training import store
from jobs.training.assignment import Assignment
from jobs.training.validation import Findings, kept

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

CHAMPION = "champion"  # the alias that serving reads


def log_dataset(client: "MlflowClient", run_id: str, dataset: Path, digest: str) -> None:
    """Link the dataset to the run, known by its manifest's digest."""
    from mlflow.entities import Dataset, DatasetInput

    entry = Dataset(name=dataset.name, digest=digest, source_type="local", source=f'{{"uri": "{dataset.as_uri()}"}}')
    client.log_inputs(run_id, [DatasetInput(entry)])


def log_findings(client: "MlflowClient", job: Assignment, checkpoint: Path, findings: Findings) -> str:
    """Log a validated checkpoint as a LoggedModel, and register it when it is the best so far; returns the model's id.

    The weights go to MLflow only with the best: on disk the rule of the store decides.
    """
    from mlflow.entities import Metric
    from mlflow.exceptions import MlflowException

    step = store.step_of(checkpoint)
    run: Any = client.get_run(job.run_id)
    tags = {"step": str(step), "checkpoint.path": str(checkpoint)}
    name = f"{job.config.name}-{checkpoint.name}"
    model = client.create_logged_model(run.info.experiment_id, name, job.run_id, tags, model_type="flexip-adapters")
    now, [link] = int(time.time() * 1000), run.inputs.dataset_inputs
    linked = {"model_id": model.model_id, "dataset_name": link.dataset.name, "dataset_digest": link.dataset.digest}
    metrics = [Metric(key, value, now, step, **linked) for key, value in findings.metrics.items()]
    client.log_batch(job.run_id, metrics=metrics)
    if findings.sheet is not None:
        client.log_image(job.run_id, findings.sheet, key="sweep", step=step)
    champion = checkpoint in kept(job.config, job.folder)
    if champion:
        _upload(client, model.model_id, checkpoint)
    client.finalize_logged_model(model.model_id, "READY")
    if champion and job.config.registered_model:
        try:
            client.create_registered_model(job.config.registered_model)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        _crown(client, job, model.model_id)
    return model.model_id


def _upload(client: "MlflowClient", model_id: str, checkpoint: Path) -> None:
    """What inference needs, and no training state."""
    with tempfile.TemporaryDirectory() as folder:
        for name in (WEIGHTS, CONFIG):
            shutil.copy2(checkpoint / name, folder)
        client.log_model_artifacts(model_id, folder)


def _crown(client: "MlflowClient", job: Assignment, model_id: str) -> None:
    name = job.config.registered_model
    assert name is not None
    source = client.get_logged_model(model_id).artifact_location
    tags = {"model_id": model_id}  # database stores do not give the version's own field back
    version = client.create_model_version(name, source, job.run_id, tags=tags, model_id=model_id)
    client.set_registered_model_alias(name, CHAMPION, version.version)
