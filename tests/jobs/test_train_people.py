"""Both stages of DynamicID by the workers' loop: from shards of faces to a checkpoint, interrupted and gone on with."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file
from training_data import write_dataset, write_faces
from training_job import job_of

from flexip.checkpoint import build_people, load_adapters, read_config
from flexip.encoders import load_unet
from jobs.console import UserError
from jobs.tracking import history, open_client
from jobs.training import store
from jobs.training.assignment import Assignment, Place
from jobs.training.config import OptimizerConfig, PeopleConfig, TrainConfig
from jobs.training.features import feature_source, open_data
from jobs.training.record import run_identity
from jobs.training.setup import check_start
from jobs.training.stages import stage_of
from pipelines.shards import DatasetError

STEPS = 3
SMALL = PeopleConfig(
    tokens=2,
    depth=1,
    heads=2,
    dim_head=16,
    lora_rank=2,
    motion_tokens=2,
    motion_width=32,
    motion_heads=2,
    motion_channels=[2, 2, 4, 4, 8, 8],
    text="a creature",
)


@pytest.fixture(scope="module")
def dataset(pocket_encoders, tmp_path_factory) -> Path:
    return write_faces(tmp_path_factory.mktemp("faces"), pocket_encoders)


def configuration(dataset: Path, output: Path, **changes: Any) -> TrainConfig:
    settings = {
        "dataset": dataset,
        "output": output,
        "stage": "anchoring",
        "people": SMALL,
        "optimizer": OptimizerConfig(learning_rate=1e-2, warmup=1),
        "steps": STEPS,
        "batch_size": 4,
        "workers": 1,
        "log_every": 1,
    }
    return TrainConfig(**(settings | changes))


def trained(job: Assignment) -> Path:
    from jobs.training.worker import train

    assert train(job, Place(0, 1, "cpu")).step == STEPS
    found = store.newest(job.folder).path
    assert found is not None
    return found


@pytest.fixture(scope="module")
def anchored(dataset, pocket_encoders, tmp_path_factory) -> Path:
    """A checkpoint of the first stage."""
    config = configuration(dataset, tmp_path_factory.mktemp("anchoring"))
    return trained(job_of(config, pocket_encoders, checked=True))


def tensors(checkpoint: Path) -> dict[str, torch.Tensor]:
    return load_file(checkpoint / "adapters.safetensors")


def test_anchoring_trains_every_part_and_its_checkpoint_is_a_dynamicid(anchored, dataset, pocket_encoders):
    config = read_config(anchored)
    assert config["architecture"]["method"] == "dynamicid"
    assert config["architecture"]["reconfigurator"] is None
    assert config["fingerprints"]["faces"] == "library"
    assert set(config["fingerprints"]) == {"hidden", "text", "vae", "faces"}
    unet = load_unet()
    model = build_people(unet, config, anchored)
    load_adapters(model, anchored)
    moments = load_file(anchored / "training_state.safetensors")
    assert {name for name in moments if name.startswith("exp_avg_sq.")} == {
        f"exp_avg_sq.{n}" for n in model.trainable()
    }
    assert [name for name in model.trainable() if not moments[f"exp_avg_sq.{name}"].any()] == []


def test_reconfiguration_goes_on_from_it_and_leaves_it_as_it_was(anchored, dataset, pocket_encoders, tmp_path):
    config = configuration(dataset, tmp_path, stage="reconfiguration", start=str(anchored), checkpoint_every=1)
    quiet = trained(job_of(config.model_copy(update={"name": "quiet"}), pocket_encoders, checked=True))
    job = job_of(config.model_copy(update={"name": "cut"}), pocket_encoders)
    last = trained(job)
    before, after = tensors(anchored), tensors(quiet)
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    first = tensors(job.folder / store.name_of(1))
    moved = [name for name in after if name.startswith("reconfigurator.") and not torch.equal(after[name], first[name])]
    assert any(name.endswith("running_mean") for name in moved)
    assert any("entangle" in name for name in moved)
    assert all(name.startswith("reconfigurator.") or name in before for name in after)
    store.remove(last)
    again = tensors(trained(job))
    assert [name for name in after if not torch.equal(after[name], again[name])] == []
    losses = history(open_client(job.tracking_uri), job.run_id, "loss")
    assert [step for step, _ in losses] == [1, 2, 3]
    assert not history(open_client(job.tracking_uri), job.run_id, "tflops_per_worker")  # it is not counted


@pytest.mark.parametrize("stage", ["anchoring", "reconfiguration"])
def test_a_global_batch_is_the_same_however_many_workers_share_it(stage, anchored, dataset, pocket_encoders, tmp_path):
    start = str(anchored) if stage == "reconfiguration" else None
    job = job_of(configuration(dataset, tmp_path, stage=stage, start=start, name=stage), pocket_encoders)
    source = feature_source(job.config, open_data(job.config), job.names, "cpu")
    model = stage_of(job.config).build(job, load_unet())
    make = stage_of(job.config).parts
    (whole,) = make(job, Place(0, 1, "cpu"), source, model, 5)
    halves = [make(job, Place(rank, 2, "cpu"), source, model, 5) for rank in range(2)]
    assert torch.equal(torch.cat([part.noisy for (part,) in halves]), whole.noisy)
    parts = replace(job, config=job.config.model_copy(update={"accumulate": 2}))
    assert [len(part.noisy) for part in make(parts, Place(0, 1, "cpu"), source, model, 5)] == [2, 2]
    (other,) = make(job, Place(0, 1, "cpu"), source, model, 6)
    assert not torch.equal(other.noisy, whole.noisy)


def test_what_does_not_fit_a_stage_is_told_before_it_begins(
    anchored, dataset, pocket_encoders, untrained_checkpoint, tmp_path
):
    with pytest.raises(ValidationError, match="start: missing; reconfiguration goes on from a checkpoint of anchoring"):
        configuration(dataset, tmp_path, stage="reconfiguration")
    with pytest.raises(ValidationError, match="validate_every = 5: is for the stage adapters"):
        configuration(dataset, tmp_path, validate_every=5)
    pairs = write_dataset(tmp_path / "pairs", pocket_encoders, train=2, val=0)
    with pytest.raises(DatasetError, match="holds pairs and no faces"):
        open_data(configuration(pairs, tmp_path))
    with pytest.raises(DatasetError, match="holds faces, for DynamicID, and no pairs"):
        open_data(configuration(dataset, tmp_path, stage="adapters"))
    adapters = configuration(dataset, tmp_path, stage="reconfiguration", start=str(untrained_checkpoint))
    with pytest.raises(UserError, match="no checkpoint of anchoring"):
        check_start(adapters, pocket_encoders)
    wider = configuration(dataset, tmp_path, start=str(anchored), people=SMALL.model_copy(update={"tokens": 3}))
    with pytest.raises(UserError, match=r"has people.tokens = 2; this run has 3"):
        check_start(wider, pocket_encoders)
    lonely = write_faces(tmp_path / "lonely", pocket_encoders, people=2, pictures=1)
    with pytest.raises(UserError, match="nobody to train on has two pictures"):
        job_of(configuration(lonely, tmp_path), pocket_encoders)


def test_saa_can_be_left_out_and_the_checkpoint_says_so(dataset, pocket_encoders, tmp_path):
    config = configuration(dataset, tmp_path, people=SMALL.model_copy(update={"activated": False}))
    model = stage_of(config).build(job_of(config, pocket_encoders), load_unet())
    again = build_people(load_unet(), {"architecture": asdict(model.config)}, tmp_path)
    assert [one.faces([()], (4, 4)).activated for one in (model, again)] == [False, False]


def test_a_run_is_known_by_the_fields_of_its_own_stage(dataset, tmp_path):
    ours = run_identity(configuration(dataset, tmp_path))
    theirs = run_identity(configuration(dataset, tmp_path, stage="adapters"))
    assert ours["stage"] == "anchoring"
    assert not any(key.startswith(("adapter.", "gate.", "mixture.")) for key in ours)
    assert not any(key.startswith(("stage", "people.")) for key in theirs)
