"""Training on two workers and on one, for real: Ray Train, gloo, MLflow, checkpoints on the pocket models."""

import json
import shutil
import socket
from itertools import pairwise
from types import SimpleNamespace
from typing import cast

import pytest
import torch
from mlflow.tracking import MlflowClient
from safetensors.torch import load_file
from training_data import write_dataset

from evaluation.baselines import load_baseline
from flexip.checkpoint import CheckpointError, load_checkpoint
from flexip.encoders import EncoderNames
from flexip.training import TrainState, batch_rows
from jobs.cluster import ray_session
from jobs.config import MLflowConfig, RayConfig
from jobs.console import UserError
from jobs.train import TrainResult, run
from jobs.training import store
from jobs.training.config import AdapterSizes, Mixture, OptimizerConfig, TrainConfig, ValidationConfig
from jobs.training.features import families, feature_source
from jobs.training.feeding import features_of
from jobs.training.worker import learning_rate_schedule
from pipelines.shards import DatasetError, open_dataset

STEPS = 6


@pytest.fixture(scope="module")
def dataset(pocket_encoders, tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("dataset"), pocket_encoders)


@pytest.fixture(scope="module")
def ray_up():
    with ray_session(RayConfig(object_store_mb=128)):
        yield


def configuration(dataset, output, **changes) -> TrainConfig:
    settings = {
        "dataset": dataset,
        "output": output,
        "adapter": AdapterSizes(queries=2, cls_tokens=2, depth=1, heads=2, dim_head=16),
        "optimizer": OptimizerConfig(learning_rate=1e-3),
        "steps": STEPS,
        "batch_size": 4,
        "log_every": 2,
        "checkpoint_every": 4,
        "seed": 3,
    }
    return TrainConfig(**(settings | changes))


@pytest.fixture(scope="module")
def two_workers(ray_up, dataset, tmp_path_factory) -> tuple[TrainConfig, TrainResult]:
    validation = ValidationConfig(subjects=0, rows=2)
    output = tmp_path_factory.mktemp("two")
    config = configuration(dataset, output, validate_every=4, validation=validation, system_metrics_every=0.2)
    return config, run(config)


def test_checkpoint_loads_and_holds_the_trained_parameters_alone(two_workers):
    config, result = two_workers
    assert result.checkpoint == config.output / "checkpoint"
    engine = load_checkpoint(result.checkpoint)
    stored = load_file(result.checkpoint / "adapters.safetensors")
    assert set(stored) == set(engine.model.trainable())
    assert not any(name.startswith("unet.") for name in stored)
    state = load_file(result.checkpoint / "training_state.safetensors")
    assert {int(value) for name, value in state.items() if name.startswith("step.")} == {STEPS}


def test_checkpoint_carries_the_whole_configuration(two_workers):
    config, result = two_workers
    stored = json.loads((result.checkpoint / "config.json").read_text())["training"]
    assert TrainConfig(**stored) == config


def test_training_changes_every_parameter(two_workers):
    config, result = two_workers
    [first] = (config.output / "runs" / config.name).glob("step-00000004")
    before, after = (load_file(folder / "adapters.safetensors") for folder in (first, result.checkpoint))
    assert [name for name in after if torch.equal(before[name], after[name])] == []
    moments = load_file(result.checkpoint / "training_state.safetensors")
    assert [name for name in after if not moments[f"exp_avg_sq.{name}"].any()] == []  # each has had a gradient


def test_mlflow_run_is_finished_and_has_each_step_once(two_workers):
    config, result = two_workers
    client = MlflowClient(result.tracking_uri)
    finished = client.get_run(result.run_id)
    assert finished.info.status == "FINISHED"
    assert [m.step for m in client.get_metric_history(result.run_id, "loss")] == [1, 2, 3, 4, 5, 6]
    assert [m.step for m in client.get_metric_history(result.run_id, "samples_per_second")] == [2, 4, 6]
    assert finished.data.params["optimizer.learning_rate"] == "0.001"
    assert finished.data.tags["dataset.path"] == str(config.dataset)
    assert [a.path for a in client.list_artifacts(result.run_id)] == ["config.yaml"]
    assert finished.data.metrics["system/node_0/system_memory_usage_megabytes"] > 0
    assert (config.output / "mlflow-artifacts").is_dir()  # and not below the working directory
    assert len(result.losses) == STEPS
    assert torch.tensor(result.losses).isfinite().all()


def test_checkpoints_are_validated_beside_the_training(two_workers):
    config, result = two_workers
    client = MlflowClient(result.tracking_uri)
    assert [m.step for m in client.get_metric_history(result.run_id, "val_loss")] == [4, 6]
    folder = config.output / "runs" / config.name
    assert [store.step_of(path) for path in store.stored(folder)] == [6, 4]
    keys = {"val_loss", "val_loss_invariant", "val_loss_variant"}
    assert all(store.scores(path).keys() == keys for path in store.stored(folder))
    assert not (result.checkpoint / store.SCORES).exists()


def test_a_baseline_is_trained_by_the_same_job(ray_up, dataset, tmp_path):
    sizes = AdapterSizes(method="ip-adapter-plus", queries=2, depth=1, heads=2, dim_head=16)
    result = run(configuration(dataset, tmp_path, adapter=sizes, workers=1))
    engine = load_baseline(result.checkpoint)
    assert engine.encoders.detail == engine.model.config.detail == "hidden"
    assert len(result.losses) == STEPS


def test_a_dataset_without_the_features_that_a_baseline_needs_is_refused(dataset, tmp_path):
    copied = shutil.copytree(dataset, tmp_path / "dataset")
    manifest = json.loads((copied / "manifest.json").read_text())
    del manifest["fingerprints"]["hidden"]
    (copied / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match=r"has no hidden features, .* curate with --shards\.hidden true"):
        run(configuration(copied, tmp_path / "out", adapter=AdapterSizes(method="ip-adapter-plus")))


def test_one_worker_sees_the_same_batches_as_two(two_workers, ray_up, dataset, tmp_path):
    _, two = two_workers
    one = run(configuration(dataset, tmp_path / "one", workers=1))
    assert one.losses == pytest.approx(two.losses, rel=1e-4)
    ours, theirs = (load_file(r.checkpoint / "adapters.safetensors") for r in (one, two))
    # AdamW turns a gradient near zero into a step of its full size, so that rounding shows: 6 steps of 1e-3 at most
    assert max(float((ours[name] - theirs[name]).abs().max()) for name in ours) < 6e-3
    assert max(float((ours[name] - theirs[name]).abs().mean()) for name in ours) < 1e-4


def test_a_second_start_of_a_complete_run_says_so_and_trains_nothing(two_workers, capsys):
    config, first = two_workers
    before = (config.output / "runs" / config.name / "run.json").stat().st_mtime_ns
    again = run(config.model_copy(update={"log_every": 1}))
    assert "is complete already" in capsys.readouterr().out
    assert again == first
    assert (config.output / "runs" / config.name / "run.json").stat().st_mtime_ns == before


def test_another_configuration_under_the_same_name_is_refused(two_workers):
    config, _ = two_workers
    changed = config.model_copy(update={"steps": 8, "seed": 4})
    with pytest.raises(UserError, match="seed was 3, now 4, steps was 6, now 8; give another --name"):
        run(changed)


def rates(config: TrainConfig, first: int) -> list[float]:
    """The learning rate of every step from `first` on."""
    weight = torch.nn.Parameter(torch.ones(1))
    state = SimpleNamespace(optimizer=torch.optim.AdamW([weight], lr=1.0), step=first)
    schedule, found = learning_rate_schedule(config, cast(TrainState, state)), []
    for _ in range(first, config.steps):
        found.append(state.optimizer.param_groups[0]["lr"])
        state.optimizer.step()
        schedule.step()
    return found


def test_a_run_begins_with_the_adapters_of_another(two_workers, ray_up, dataset, tmp_path):
    _, first = two_workers
    start = str(first.checkpoint)
    begun = configuration(
        dataset, tmp_path, start=start, steps=1, optimizer=OptimizerConfig(learning_rate=1e-9), workers=1, log_every=1
    )
    after = load_file(run(begun).checkpoint / "adapters.safetensors")
    for name, before in load_file(first.checkpoint / "adapters.safetensors").items():
        torch.testing.assert_close(after[name], before, atol=1e-6, rtol=0)


def test_adapters_of_another_size_are_no_beginning(two_workers, dataset, tmp_path):
    _, first = two_workers
    other = AdapterSizes(queries=3, cls_tokens=2, depth=1, heads=2, dim_head=16)
    with pytest.raises(UserError, match=r"start = .*: has adapter\.queries = 2; this run has 3"):
        run(configuration(dataset, tmp_path, start=str(first.checkpoint), adapter=other))
    with pytest.raises(CheckpointError, match=r"no config\.json there"):
        run(configuration(dataset, tmp_path, start=str(tmp_path / "nowhere")))


def test_the_learning_rate_is_a_function_of_the_step_alone(tmp_path):
    optimizer = OptimizerConfig(learning_rate=0.1, schedule="cosine", warmup=4)
    config = configuration(tmp_path, tmp_path, optimizer=optimizer, steps=12)
    whole = rates(config, 0)
    assert rates(config, 7) == whole[7:]
    assert whole[:5] == pytest.approx([0.0, 0.025, 0.05, 0.075, 0.1])
    assert all(later < earlier for earlier, later in pairwise(whole[4:]))
    assert rates(configuration(tmp_path, tmp_path), 0) == [1e-3] * STEPS  # constant, without a warm-up


def test_rows_are_read_in_the_order_of_the_batch(dataset, tmp_path):
    data = open_dataset(dataset)
    rows = batch_rows(0, 5, 8, {"invariant": 12, "variant": 12}, {"invariant": 1.0, "variant": 2.0})
    assert {row.dataset for row in rows} == {"invariant", "variant"}
    columns = features_of(feature_source(configuration(dataset, tmp_path), data, EncoderNames(), "cpu"), rows)
    needed = families("dino")
    assert columns.keys() == set(needed)
    for i, row in enumerate(rows):
        alone = data.read(row.dataset, "train", [row.row], needed)
        assert all((columns[family][i] == alone[family][0]).all() for family in needed)


def test_a_missing_dataset_is_refused(tmp_path):
    with pytest.raises(DatasetError, match="no dataset"):
        run(configuration(tmp_path / "nothing", tmp_path))


def test_a_dataset_of_other_encoders_is_refused(dataset, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    for part in dataset.iterdir():
        if part.is_dir():
            (other / part.name).symlink_to(part)
    manifest = json.loads((dataset / "manifest.json").read_text())
    manifest["fingerprints"] |= {"clip": "0" * 16, "vae": "1" * 16}
    (other / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError) as caught:
        run(configuration(other, tmp_path / "out"))
    lines = str(caught.value).splitlines()
    assert len(lines) == 2
    assert "its clip features come from encoder 0000000000000000, models.clip = pocket is" in lines[0]
    assert "its vae features come from encoder 1111111111111111, models.base = pocket is" in lines[1]


def test_a_dataset_without_rows_for_the_mixture_is_refused(pocket_encoders, tmp_path):
    empty = write_dataset(tmp_path / "empty", pocket_encoders, train=0, val=1)
    with pytest.raises(UserError, match="leave no rows to train on; curate more"):
        run(configuration(empty, tmp_path / "out", mixture=Mixture(invariant=1, variant=0)))


def test_an_mlflow_server_that_does_not_answer_is_refused_at_once(dataset, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(UserError, match=r"mlflow.tracking_uri = http://127.0.0.1:\d+: .*refused"):
        run(configuration(dataset, tmp_path, mlflow=MLflowConfig(tracking_uri=uri)))


def test_names_of_the_frozen_models_reach_the_checkpoint(two_workers):
    _, result = two_workers
    stored = json.loads((result.checkpoint / "config.json").read_text())
    assert EncoderNames(**stored["encoders"]) == EncoderNames()
