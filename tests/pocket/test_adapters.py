"""The pocket adapters: they fit the pocket models, keep identity, and do not say where they were made."""

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from flexip.checkpoint import CONFIG, WEIGHTS, load_checkpoint, read_config
from flexip.encoders import Encoders
from flexip.engine import Engine
from flexip.pocket import adapters_path
from flexip.request import Request
from flexip.sampler import sample
from jobs.config import load
from jobs.console import UserError
from jobs.pocket_adapters import AdaptersConfig, run
from jobs.reproduction.worlds import held_out
from jobs.train import TrainConfig
from jobs.training.setup import check_start

LIMIT = 6_000_000  # bytes
DEMO = Path(__file__).parents[2] / "configs/pocket/demo.yaml"


@pytest.fixture(scope="module")
def engine() -> Engine:
    return load_checkpoint("pocket")


def test_they_are_small_half_precision_and_name_no_place() -> None:
    weights = load_file(adapters_path() / WEIGHTS)
    assert {tensor.dtype for tensor in weights.values()} == {torch.float16}
    assert sum(tensor.nbytes for tensor in weights.values()) <= LIMIT
    assert not re.search(r'"[^"]*(/home|/root|/tmp|/work)[^"]*"', (adapters_path() / CONFIG).read_text())


def test_the_demo_s_training_begins_with_them(pocket_encoders: Encoders) -> None:
    config = load(TrainConfig, ["--config", str(DEMO)])
    assert config.start == "pocket"
    check_start(config, pocket_encoders)


def test_pictures_at_gamma_1_are_nearest_to_their_own_reference(engine: Engine) -> None:
    creatures = held_out("test", 6)
    requests = [
        Request("a creature on a beach", creature.reference, gamma, 1 - gamma, guidance_scale=3.0, steps=8, seed=1)
        for gamma in (0.0, 1.0)
        for creature in creatures
    ]
    drawn = sample(engine, requests)
    references = engine.encoders.encode_references([creature.reference for creature in creatures])[1].mean(dim=1)
    seen = engine.encoders.encode_references(drawn)[1].mean(dim=1)
    similarity = torch.nn.functional.normalize(seen, dim=1) @ torch.nn.functional.normalize(references, dim=1).T
    at_0, at_1 = similarity.split(len(creatures))
    assert (at_1.argmax(dim=1) == torch.arange(len(creatures))).sum() >= 5
    assert at_1.diagonal().mean() > at_0.diagonal().mean() + 0.05


def test_a_checkpoint_becomes_adapters_without_its_paths(untrained_checkpoint: Path, tmp_path: Path) -> None:
    source = tmp_path / "checkpoint"
    source.mkdir()
    stored = read_config(untrained_checkpoint) | {"calibration": {"gamma": [0, 1]}}
    stored["training"] = {"dataset": "/somewhere/dataset", "output": "/elsewhere", "steps": 7}
    (source / CONFIG).write_text(json.dumps(stored))
    (source / WEIGHTS).write_bytes((untrained_checkpoint / WEIGHTS).read_bytes())
    folder = run(AdaptersConfig(checkpoint=source, output=tmp_path / "adapters"))
    made = read_config(folder)
    assert made["training"] == {"steps": 7}
    assert made["architecture"] == stored["architecture"]
    assert "calibration" not in made
    before, after = load_file(source / WEIGHTS), load_file(folder / WEIGHTS)
    for name, tensor in before.items():
        assert torch.equal(tensor.half(), after[name])


@pytest.mark.parametrize(
    ("change", "message"),
    [({"encoders": {"base": "other"}}, "base model other"), ({"architecture": {"method": "plus-dino"}}, "plus-dino")],
)
def test_what_cannot_be_pocket_adapters_is_refused(
    untrained_checkpoint: Path, tmp_path: Path, change: dict[str, dict[str, str]], message: str
) -> None:
    stored = read_config(untrained_checkpoint)
    (tmp_path / CONFIG).write_text(
        json.dumps(
            {key: value | change.get(key, {}) for key, value in stored.items() if isinstance(value, dict)}
            | {"format": stored["format"]}
        )
    )
    with pytest.raises(UserError, match=message):
        run(AdaptersConfig(checkpoint=tmp_path, output=tmp_path / "adapters"))
    assert not (tmp_path / "adapters").exists()
