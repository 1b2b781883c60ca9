"""A training's record on a real MLflow server with PostgreSQL: started here on loopback, and stopped again."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow.artifacts import download_artifacts
from mlflow_server import missing, mlflow_server
from training_data import write_dataset

from flexip.checkpoint import load_checkpoint
from jobs.config import MLflowConfig
from jobs.tracking import history, open_client, running, system_metrics
from jobs.training import store
from jobs.training.assignment import Assignment, Place
from jobs.training.config import AdapterSizes, TrainConfig, ValidationConfig
from jobs.training.models import log_findings
from jobs.training.record import open_record
from jobs.training.setup import assignment, with_mlflow_run
from jobs.training.validation import validate
from jobs.training.worker import train
from pipelines.shards import open_dataset

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing())


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with mlflow_server() as url:
        yield url


def job_on(url: str, output: Path, encoders: Any) -> Assignment:
    config = TrainConfig(
        dataset=write_dataset(output / "dataset", encoders, train=4, val=2),
        output=output,
        mlflow=MLflowConfig(tracking_uri=url),
        adapter=AdapterSizes(queries=2, cls_tokens=2, depth=1, heads=2, dim_head=16),
        steps=4,
        batch_size=2,
        workers=1,
        log_every=1,
        validate_every=2,
        validation=ValidationConfig(subjects=0, rows=2),
        registered_model="adapters",
    )
    record = with_mlflow_run(open_record(config), config, open_client(url))
    return assignment(config, open_dataset(config.dataset), encoders, record, url)


def test_one_run_with_its_metrics_models_and_champion(url, pocket_encoders, tmp_path):
    job, client = job_on(url, tmp_path, pocket_encoders), open_client(url)
    with running(client, job.run_id), system_metrics(url, job.run_id, 0.5, "node_0"):
        train(job, Place(0, 1, "cpu"))
        for path in reversed(store.stored(job.folder)):
            findings = validate(job, path)
            store.store_scores(path, findings.metrics)
            log_findings(client, job, path, findings)
    [run] = client.search_runs([client.get_run(job.run_id).info.experiment_id])
    assert run.info.status == "FINISHED"
    assert [step for step, _ in history(client, job.run_id, "loss")] == [1, 2, 3, 4]
    assert run.data.metrics["system/node_0/system_memory_usage_megabytes"] > 0
    assert run.data.params["steps"] == "4"
    assert run.data.tags["dataset.path"] == str(job.config.dataset)
    scores = history(client, job.run_id, "val_loss")
    best, _ = min(scores, key=lambda pair: pair[1])
    champion = client.get_model_version_by_alias("adapters", "champion")
    models = {model.model_id: model for model in client.search_logged_models([run.info.experiment_id])}
    assert sorted(model.tags["step"] for model in models.values()) == ["2", "4"]
    assert models[champion.tags["model_id"]].tags["step"] == str(best)
    uri = client.get_model_version_download_uri("adapters", champion.version)
    assert load_checkpoint(download_artifacts(uri, tracking_uri=url)).model.config.queries == 2
    assert not (tmp_path / "mlflow.db").exists()
