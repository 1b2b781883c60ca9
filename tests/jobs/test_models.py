"""Models by name and alias: a real registry, several adapters in one UNet call, a new champion between two requests."""

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
from registry import crown, open_registry
from safetensors.torch import load_file, save_file

from flexip.checkpoint import CheckpointError
from flexip.request import Request
from flexip.sampler import sample
from jobs.receipt import Receipt
from jobs.serve import ServeConfig
from jobs.serving.deployment import JobDrawing
from jobs.serving.models import Registry, Shelf, load_models, refresh
from jobs.serving.rows import Job

CHAMPION = "models:/creatures@champion"


@pytest.fixture(scope="module")
def retrained(untrained_checkpoint, tmp_path_factory) -> Path:
    """The same adapters with other weights."""
    folder = shutil.copytree(untrained_checkpoint, tmp_path_factory.mktemp("retrained") / "checkpoint")
    weights = load_file(folder / "adapters.safetensors")
    save_file({name: tensor * 1.5 for name, tensor in weights.items()}, folder / "adapters.safetensors")
    return folder


def job(shelf: Shelf, name: str, request: Request) -> Job:
    model = shelf.get(name)
    assert model is not None
    receipt = Receipt(name, model.engine.digest, request.prompt, "", request.seed, 1.0, request.steps, request.solver)
    return Job(receipt, request, model.engine)


def test_a_new_champion_takes_over_between_requests_that_share_their_calls(
    untrained_checkpoint, retrained, reference, tmp_path
):
    client, uri = open_registry(tmp_path, "creatures")
    sources = {"creatures": CHAMPION, "pinned": str(retrained)}
    first = crown(client, "creatures", untrained_checkpoint)
    registry = Registry(uri)
    shelf, passed_over = load_models(sources, registry, "cpu", 10**7), {}
    ask = Request("a happy creature", reference, 0.9, 0.5, guidance_scale=2.0, steps=4, seed=5)
    before, pinned = job(shelf, "creatures", ask), job(shelf, "pinned", dataclasses.replace(ask, seed=6))
    drawing = JobDrawing(before.engine)
    drawing.add({"before": before, "pinned": pinned})
    drawing.step()
    refresh(shelf, sources, registry, passed_over)
    assert [model.version for model in shelf.all()] == [first, ""]
    second = crown(client, "creatures", retrained)
    refresh(shelf, sources, registry, passed_over)
    assert [model.version for model in shelf.all()] == [second, ""]
    after = job(shelf, "creatures", ask)
    drawing.add({"after": after})
    drawn = {}
    while len(drawn) < 3:
        drawn |= drawing.step()
    for key, asked in {"before": before, "pinned": pinned, "after": after}.items():
        (alone,) = sample(asked.engine, [asked.request])
        assert np.abs(drawn[key].astype(int) - alone.astype(int)).max() <= 1
    assert after.engine.digest == pinned.engine.digest != before.engine.digest
    assert np.abs(drawn["before"].astype(int) - drawn["after"]).max() > 1
    references = shelf.all()[0].engine.references
    assert references is not None
    assert references.encoded == 1  # for all three

    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text("{}")
    broken = crown(client, "creatures", tmp_path / "broken")
    refresh(shelf, sources, registry, passed_over)
    assert (shelf.all()[0].version, passed_over) == (second, {"creatures": broken})
    with pytest.raises(CheckpointError, match="models:/creatures@challenger: the registry knows no such"):
        registry.version("models:/creatures@challenger")
    with pytest.raises(ZeroDivisionError):
        drawing.add({"good": after, "bad": dataclasses.replace(pinned, request=Unlucky("a", steps=1))})
    assert drawing.step() == {}


class Unlucky(Request):
    """Cannot be begun."""

    @property
    def unet_rows(self) -> int:
        """Fails."""
        raise ZeroDivisionError


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"checkpoint": "models:/x"}, "write models:/NAME@ALIAS"),
        ({"checkpoint": CHAMPION}, "registry.tracking_uri: missing"),
        ({"adapters": {"flexip": "somewhere"}}, "is the name of the checkpoint too"),
        ({"scaling": {"max_replicas": 2}, "replicas": 3}, "from scaling.min_replicas, 1, to scaling.max_replicas, 2"),
        ({"hooks": {"safety": "no path"}}, "pattern"),
    ],
)
def test_a_configuration_that_cannot_be_is_refused(fields, said):
    with pytest.raises(ValueError, match=said):
        ServeConfig(**({"checkpoint": "somewhere"} | fields))
