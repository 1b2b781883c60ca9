import json
import shutil

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from flexip.calibration import Calibration
from flexip.checkpoint import (
    CheckpointError,
    load_checkpoint,
    load_training_state,
    save_checkpoint,
    store_calibration,
)
from flexip.encoders import load_unet
from flexip.model import FlexIP, adapter_config
from flexip.request import Request
from flexip.sampler import sample
from flexip.training import new_state, update_average


@pytest.fixture
def copied(untrained_checkpoint, tmp_path):
    return shutil.copytree(untrained_checkpoint, tmp_path / "checkpoint")


def edit_config(directory, edit) -> None:
    config = json.loads((directory / "config.json").read_text())
    edit(config)
    (directory / "config.json").write_text(json.dumps(config))


def test_saved_and_loaded_again_draws_the_same_picture(untrained_checkpoint, reference, tmp_path):
    engine = load_checkpoint(untrained_checkpoint)
    ask = [Request("a happy creature", reference, 0.9, 0.1, steps=3, seed=5)]
    again = save_checkpoint(
        tmp_path / "again",
        engine.model,
        names=engine.encoders.names,
        fingerprints=engine.encoders.fingerprints,
        training={"steps": 7},
    )
    np.testing.assert_array_equal(sample(engine, ask)[0], sample(load_checkpoint(again), ask)[0])
    assert json.loads((again / "config.json").read_text())["training"] == {"steps": 7}


def test_the_file_holds_adapters_alone_with_a_header(untrained_checkpoint):
    with safe_open(untrained_checkpoint / "adapters.safetensors", "pt") as file:
        assert file.metadata()["modelspec.architecture"] == "stable-diffusion-v1/flexip"
        prefixes = {name.split(".")[0] for name in file.keys()}  # noqa: SIM118 - not a dict
    assert prefixes == {"adapters", "attention"}


def test_missing_unknown_and_misshapen_tensors_are_listed(copied):
    path = copied / "adapters.safetensors"
    tensors = load_file(path)
    first, second, *_ = sorted(tensors)
    del tensors[first]
    tensors[second] = torch.zeros(1, 2, 3)
    tensors["adapters.surprise"] = torch.zeros(1)
    save_file(tensors, path)
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(copied)
    message = str(caught.value)
    assert f"1 missing: {first}" in message
    assert "1 unknown: adapters.surprise" in message
    assert f"1 of another shape: {second} (1, 2, 3)" in message


def test_another_architecture_is_refused(copied):
    edit_config(copied, lambda config: config["architecture"].update(context_width=768))
    with pytest.raises(CheckpointError, match="of another architecture: context_width: 768; the UNet's"):
        load_checkpoint(copied)


def test_an_unknown_architecture_field_is_named(copied):
    edit_config(copied, lambda config: config["architecture"].update(mixture_of_experts=8))
    with pytest.raises(CheckpointError, match="mixture_of_experts"):
        load_checkpoint(copied)


def test_another_encoder_is_refused(copied):
    edit_config(copied, lambda config: config["fingerprints"].update(dino="0123456789abcdef"))
    with pytest.raises(CheckpointError, match="trained on dino encoder 0123456789abcdef"):
        load_checkpoint(copied)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda d: shutil.rmtree(d), "no config.json there"),
        (lambda d: (d / "config.json").write_text("{oh"), "not JSON"),
        (lambda d: edit_config(d, lambda c: c.update(format=99)), "format 99; this version reads format 1"),
        (lambda d: (d / "adapters.safetensors").write_bytes(b"\0" * 100), "cannot be read"),
        (lambda d: (d / "adapters.safetensors").unlink(), "cannot be read"),
    ],
)
def test_damaged_checkpoints_say_what_is_wrong(copied, damage, message):
    damage(copied)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(copied)


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_training_state_comes_back_whole(pocket_encoders, tmp_path, ema):
    def fresh():
        unet = load_unet()
        model = FlexIP(unet, adapter_config(unet, pocket_encoders.shapes, queries=2, depth=1, heads=2, dim_head=16))
        return new_state(model, learning_rate=1e-3, weight_decay=0.01, ema=ema)

    state = fresh()
    for parameter in state.model.trainable().values():
        parameter.grad = torch.randn_like(parameter)
    state.optimizer.step()
    update_average(state.average, state.model.trainable(), ema, 17)
    state.step = 17
    save_checkpoint(
        tmp_path, state.model, names=pocket_encoders.names, fingerprints=pocket_encoders.fingerprints, state=state
    )
    stored = load_file(tmp_path / "adapters.safetensors")
    assert all(torch.equal(stored[name], value) for name, value in (state.average or state.model.trainable()).items())
    restored = fresh()
    load_training_state(restored, tmp_path)
    assert restored.step == 17
    for (name, ours), theirs in zip(restored.model.trainable().items(), state.model.trainable().values(), strict=True):
        assert torch.equal(ours, theirs), name
        for key, value in state.optimizer.state[theirs].items():
            assert torch.equal(restored.optimizer.state[ours][key], value), (name, key)
    assert restored.average.keys() == state.average.keys()
    assert all(torch.equal(restored.average[name], value) for name, value in state.average.items())


def test_a_calibration_is_kept_in_the_checkpoint(copied):
    calibration = Calibration([0.0, 0.5, 1.0], [0.2, 0.3, 0.7], "dino", 4, "abc")
    assert load_checkpoint(copied).calibration is None
    store_calibration(copied, calibration)
    engine = load_checkpoint(copied)
    assert engine.calibration == calibration
    assert engine.model.config == load_checkpoint(copied).model.config
    with pytest.raises(CheckpointError, match=r"no config\.json there"):
        store_calibration(copied / "nowhere", calibration)


def test_a_checkpoint_for_inference_cannot_resume(untrained_checkpoint, pocket_encoders):
    engine = load_checkpoint(untrained_checkpoint)
    with pytest.raises(CheckpointError, match="inference, not for resume"):
        load_training_state(new_state(engine.model, 1e-3, 0.0), untrained_checkpoint)
