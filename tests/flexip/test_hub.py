"""Checkpoints go to a Hub and come back, with a card that says what they are."""

import json
import shutil

import pytest
import torch
import yaml
from hub import running_hub
from huggingface_hub import constants
from huggingface_hub.errors import RepositoryNotFoundError

from flexip.calibration import Calibration
from flexip.card import model_card
from flexip.checkpoint import CheckpointError, load_checkpoint, read_config, store_calibration
from flexip.hub import from_pretrained, push_to_hub, save_pretrained


@pytest.fixture
def checkpoint(untrained_checkpoint, tmp_path):
    """Calibrated, and with a training state that nobody else needs."""
    copied = shutil.copytree(untrained_checkpoint, tmp_path / "checkpoint")
    store_calibration(copied, Calibration([0.0, 0.5, 1.0], [0.31, 0.42, 0.5], "cosine of something", 16, "abc"))
    (copied / "training_state.safetensors").write_bytes(b"moments")
    return copied


def test_a_checkpoint_goes_to_the_hub_and_comes_back_whole(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    folder = save_pretrained(checkpoint, tmp_path / "release", name="me/flexip")
    with running_hub() as hub:
        url = push_to_hub(folder, "me/flexip", token="hf_secret", endpoint=hub.endpoint)
        assert url.startswith(f"{hub.endpoint}/me/flexip/commit/")
        assert hub.private == {"me/flexip": True}
        assert hub.tokens == {"Bearer hf_secret"}
        assert set(hub.repositories["me/flexip"]) == {"README.md", "adapters.safetensors", "config.json"}
        options = {"endpoint": hub.endpoint, "cache_dir": tmp_path / "cache", "token": "hf_secret"}
        engine = from_pretrained("me/flexip", **options)
        with pytest.raises(RepositoryNotFoundError):
            from_pretrained("me/nothing", **options)
    ours = load_checkpoint(checkpoint)
    assert engine.digest == ours.digest
    assert engine.calibration == ours.calibration
    for name, parameter in ours.model.trainable().items():
        assert torch.equal(engine.model.trainable()[name], parameter)


def test_a_folder_holds_what_inference_needs_and_is_not_mixed_with_other_files(checkpoint, tmp_path):
    folder = save_pretrained(checkpoint, tmp_path / "release")
    assert {path.name for path in folder.iterdir()} == {"README.md", "adapters.safetensors", "config.json"}
    save_pretrained(checkpoint, folder)  # again, in its place
    assert from_pretrained(folder).digest == load_checkpoint(checkpoint).digest
    (folder / "notes.txt").touch()
    with pytest.raises(FileExistsError, match=r"holds notes\.txt, which is no part of a checkpoint"):
        save_pretrained(checkpoint, folder)
    with pytest.raises(CheckpointError, match=r"no config\.json there"):
        push_to_hub(tmp_path, "me/flexip")


def test_the_card_tells_data_licence_calibration_and_limits(checkpoint):
    config = read_config(checkpoint)
    config["encoders"]["base"] = "stable-diffusion-v1-5/stable-diffusion-v1-5"
    config["training"] = {"steps": 7, "mixture": {"invariant": 0.5, "variant": 0.5}}
    card = model_card(config, "me/flexip", "cc-by-4.0", ["pairs, variant: 12 train"], {"x.bin": "something"})
    _, head, body = card.split("---\n", 2)
    metadata = yaml.safe_load(head)
    assert metadata["license"] == "cc-by-4.0"
    assert metadata["base_model"] == "stable-diffusion-v1-5/stable-diffusion-v1-5"
    told = [
        'from_pretrained("me/flexip")',
        "* pairs, variant: 12 train",
        "* steps: 7",
        "* mixture: invariant 0.5, variant 0.5",
        "cosine of something, mean over 16 subjects held out",
        "| 0.5 | 0.420 |",
        config["fingerprints"]["dino"],
        "* `x.bin`: something",
        "## Limits",
        "The adapters: cc-by-4.0.",
    ]
    assert [line for line in told if line not in body] == []


def test_the_card_of_a_checkpoint_that_says_little_says_so(untrained_checkpoint):
    card = model_card(json.loads((untrained_checkpoint / "config.json").read_text()), "it", "mit")
    assert "base_model" not in card  # a path or a name of our own says nothing to others
    assert "Not told by who made this card." in card
    assert "Not measured; `python -m jobs.calibrate`" in card
