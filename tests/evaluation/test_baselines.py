"""The baselines share everything with FlexIP but the adapters."""

import shutil

import numpy as np
import pytest
import torch

from evaluation.baselines import ADAPTERS, PlusOverDino, load_baseline
from flexip.adapters import AdapterConfig, Adapters
from flexip.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from flexip.encoders import Detail, load_unet
from flexip.model import FlexIP, adapter_config
from flexip.request import Request
from flexip.sampler import sample
from flexip.training import Drops, batch_loss, build_batch, load_noising, new_state, train_step
from jobs.training.config import AdapterSizes

SIZES = {"queries": 4, "depth": 1, "heads": 2, "dim_head": 32}


BASELINES = [name for name in ADAPTERS if name != "flexip"]


def detail_of(name: str) -> Detail:
    return AdapterSizes(method=name).detail  # type: ignore[arg-type]


def build(name: str, shapes) -> FlexIP:
    torch.manual_seed(0)
    unet = load_unet()
    return FlexIP(unet, adapter_config(unet, shapes, detail_of(name), method=name, **SIZES), ADAPTERS[name])


@pytest.mark.parametrize("name", BASELINES)
def test_a_baseline_is_saved_loaded_and_obeys_its_scale(pocket_encoders, reference, tmp_path, name):
    model = build(name, pocket_encoders.shapes)
    save_checkpoint(tmp_path, model, names=pocket_encoders.names, fingerprints=pocket_encoders.fingerprints)
    engine = load_baseline(tmp_path)
    asks = [Request("a creature", reference, scale, steps=3, seed=1) for scale in (0.0, 0.5, 1.5)]
    off, half, strong = (image.astype(int) for image in sample(engine, asks))
    (base,) = sample(engine, [Request("a creature", None, steps=3, seed=1)])
    assert np.abs(off - base).max() <= 1
    assert np.abs(half - off).mean() > 1
    assert np.abs(strong - half).mean() > 1
    with pytest.raises(CheckpointError, match=f"method '{name}'; known here: flexip"):
        load_checkpoint(tmp_path)


def test_flexip_loads_beside_the_baselines(untrained_checkpoint, tmp_path):
    copied = shutil.copytree(untrained_checkpoint, tmp_path / "checkpoint")
    assert load_baseline(copied).model.config.method == "flexip"


@pytest.mark.parametrize("name", BASELINES)
def test_a_baseline_learns_by_the_same_step(pocket_encoders, name):
    model = build(name, pocket_encoders.shapes)
    rng = np.random.default_rng(0)
    columns = {
        family: rng.normal(size=(4, *shape)).astype(np.float16) for family, shape in pocket_encoders.shapes.items()
    }
    config = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
    noising = load_noising(pocket_encoders, config)
    batch = build_batch(columns, torch.ones(4), Drops(0, 0, 0), noising, np.arange(4), detail=detail_of(name))
    state = new_state(model, learning_rate=3e-3, weight_decay=0.0)
    first = batch_loss(model, batch).mean().item()
    for _ in range(12):
        loss = train_step(state, batch)
    assert loss.item() < first
    assert all(parameter.grad is not None for parameter in model.trainable().values())


@pytest.mark.parametrize("config", [AdapterConfig(), AdapterConfig(256, 512, 384, 8, 4, 2, 4, 64)])
def test_the_matched_baseline_has_flexip_s_parameters_within_a_twentieth(config):
    ours, theirs = (sum(p.numel() for p in module(config).parameters()) for module in (Adapters, PlusOverDino))
    assert abs(theirs / ours - 1) < 0.05
