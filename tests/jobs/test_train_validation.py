"""A checkpoint validated as the training's Ray task does it, and what MLflow then knows."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mlflow.tracking import MlflowClient
from training_data import write_dataset
from training_job import job_of

from evaluation.validation import held_out_loss
from flexip.checkpoint import load_checkpoint
from flexip.images import encode_png
from jobs.tracking import history, open_client
from jobs.training import store
from jobs.training.assignment import Assignment, Place
from jobs.training.config import AdapterSizes, TrainConfig, ValidationConfig
from jobs.training.features import feature_source
from jobs.training.models import log_findings
from jobs.training.record import open_record
from jobs.training.validation import Findings, held_out, kept, validate, validation_due
from jobs.training.worker import train
from pipelines.shards import open_dataset

SWEEP = ValidationConfig(subjects=2, prompts=["on a beach"], gammas=[0.0, 1.0], steps=2, rows=3)


@pytest.fixture(scope="module")
def job(pocket_encoders, tmp_path_factory) -> Assignment:
    root = tmp_path_factory.mktemp("validation")
    picture = np.full((64, 64, 3), 255, np.uint8)
    picture[16:48, 16:48] = (200, 40, 40)
    config = TrainConfig(
        dataset=write_dataset(root / "dataset", pocket_encoders, train=4, val=2, reference=encode_png(picture)),
        output=root,
        adapter=AdapterSizes(queries=2, cls_tokens=2, depth=1, heads=2, dim_head=16),
        steps=3,
        batch_size=2,
        workers=1,
        validate_every=2,
        validation=SWEEP,
        registered_model="pocket-adapters",
    )
    job = job_of(config, pocket_encoders)
    train(job, Place(0, 1, "cpu"))
    return job


def test_checkpoints_are_written_where_validation_is_due(job):
    assert [store.step_of(path) for path in store.stored(job.folder)] == [3, 2]
    assert [validation_due(job.config, step) for step in (1, 2, 3)] == [False, True, True]
    assert not validation_due(job.config.model_copy(update={"validate_every": 0}), 3)


def test_the_held_out_loss_repeats_and_is_of_held_out_rows(job):
    model, dataset = load_checkpoint(store.stored(job.folder)[0]).model, open_dataset(job.config.dataset)
    source = feature_source(job.config, dataset, job.names, "cpu")
    first, again = (held_out_loss(model, held_out(job, source, "variant", 2, "cpu")) for _ in range(2))
    assert first == again
    [batch] = held_out(job, source, "variant", 2, "cpu")
    assert len(batch.timesteps) == 2
    assert batch.keep.all()
    [other] = held_out(job, source, "invariant", 2, "cpu")
    assert not np.array_equal(batch.timesteps, other.timesteps)


def test_a_checkpoint_is_validated_logged_and_crowned(job):
    newest, earlier = store.stored(job.folder)
    client = open_client(job.tracking_uri)
    found = validate(job, newest)
    assert found.sheet is not None
    assert {"val_loss", "val_loss_invariant", "val_loss_variant", "val_identity", "val_text"} < found.metrics.keys()
    assert all(np.isfinite(value) for value in found.metrics.values())
    worse = Findings(found.metrics | {"val_hypervolume": -1.0}, None)
    ids = []
    for path, findings in ((newest, found), (earlier, worse)):
        store.store_scores(path, findings.metrics)
        ids.append(log_findings(client, job, path, findings))
    assert kept(job.config, job.folder) == [newest]
    assert_logged(client, job, ids, found)


def assert_logged(client: MlflowClient, job: Assignment, ids: list[str], found: Findings) -> None:
    experiment = client.get_run(job.run_id).info.experiment_id
    models = client.search_logged_models([experiment])
    assert {model.model_id for model in models} == set(ids)
    [best] = [model for model in models if model.model_id == ids[0]]
    assert best.metrics is not None
    logged = {metric.key: metric.value for metric in best.metrics}
    assert logged == pytest.approx(found.metrics)
    digest = open_record(job.config).identity["dataset manifest"]
    assert {metric.dataset_digest for metric in best.metrics} == {digest}
    run: Any = client.get_run(job.run_id)
    [link] = run.inputs.dataset_inputs
    assert link.dataset.digest == digest
    champion = client.get_model_version_by_alias("pocket-adapters", "champion")
    assert champion.tags["model_id"] == ids[0]
    assert [step for step, _ in history(client, job.run_id, "val_loss")] == [2, 3]
    assert any(artifact.path == "images" for artifact in client.list_artifacts(job.run_id))
    from mlflow.artifacts import download_artifacts

    uri = client.get_model_version_download_uri("pocket-adapters", champion.version)
    folder = download_artifacts(uri, tracking_uri=job.tracking_uri)
    assert load_checkpoint(Path(folder)).model.config.queries == 2


def test_without_a_sweep_the_loss_decides(job):
    settings = job.config.model_copy(update={"validation": SWEEP.model_copy(update={"subjects": 0})})
    found = validate(replace(job, config=settings), store.stored(job.folder)[0])
    assert found.sheet is None
    assert found.metrics.keys() == {"val_loss", "val_loss_invariant", "val_loss_variant"}
