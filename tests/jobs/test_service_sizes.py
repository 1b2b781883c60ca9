"""Pictures of any size over HTTP: what is asked for comes to the sampler and the receipt; all are drawn together."""

import asyncio
import base64
import functools
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from service import EDITS, GENERATIONS, Sitters, ask, receipt_of, stand

from flexip.checkpoint import load_checkpoint
from flexip.images import decode_image, encode_png
from flexip.request import Request
from flexip.sampler import sample
from jobs.receipt import Receipt
from jobs.serving.batching import Batcher
from jobs.serving.deployment import JobDrawing
from jobs.serving.rows import Job

HALVES = np.zeros((16, 24, 3), np.uint8)
HALVES[:, 12:] = 255
WIDE = encode_png(HALVES)


def test_a_size_comes_to_the_sampler_and_back_in_the_answer(client, service, picture):
    subjects = [
        {"image": picture, "box": [0, 0, 0.5, 0.5]},
        {"image": picture, "mask": base64.b64encode(WIDE).decode()},
    ]
    answer = ask(client, size="24x16", subjects=subjects)
    assert answer.json()["size"] == receipt_of(answer).size == "24x16"
    assert decode_image(base64.b64decode(answer.json()["data"][0]["b64_json"])).shape == (16, 24, 3)
    (asked,) = service.asked
    assert asked.size == (16, 24)
    box, mask = (subject.mask for subject in asked.subjects)
    np.testing.assert_array_equal(box, np.pad(np.ones((8, 12)), ((0, 8), (0, 12))))
    np.testing.assert_array_equal(mask, HALVES[:, :, 0] / 255)


@pytest.mark.parametrize("said", [{}, {"size": "auto"}, {"size": "16x16"}])
def test_auto_is_the_models_own_size(client, service, said):
    assert receipt_of(ask(client, **said)).size == "16x16"
    assert service.asked[0].size == (16, 16)


def test_a_canvas_has_the_aspect_of_the_size_and_is_fitted_to_it(client, service, png):
    canvas = encode_png(np.full((32, 48, 3), 90, np.uint8))
    files = [("image[]", ("0.png", canvas)), ("image[]", ("1.png", png)), ("mask", ("m.png", WIDE))]
    form = {"prompt": "x", "num_inference_steps": "4", "size": "24x16"}
    assert receipt_of(client.post(EDITS, data=form, files=files)).size == "24x16"
    (asked,) = service.asked
    assert (asked.size, asked.canvas.image.shape, asked.canvas.mask.shape) == ((16, 24), (32, 48, 3), (16, 24))
    refused = client.post(EDITS, data=form | {"size": "auto"}, files=files).json()["error"]
    assert refused["param"] == "image[0]"
    assert "48x32 pixels; the picture is 16x16, and this needs its aspect" in refused["message"]


def test_streams_tell_the_size_that_was_asked_for(client):
    answer = client.post(GENERATIONS, json={"prompt": "x", "num_inference_steps": 2, "stream": True, "size": "8x32"})
    assert '"size": "8x32"' in answer.text


def test_models_tell_their_sizes_and_whether_they_draw_people(tmp_path):
    def told(app: Any) -> list[dict[str, Any]]:
        with TestClient(app) as client:
            models = client.get("/v1/models").json()["data"]
            page = client.get("/playground/service.json").json()["models"]
        assert page == {model["id"]: {name: model[name] for name in ("sizes", "people")} for model in models}
        return models

    first, other = told(stand(tmp_path, casting=Sitters()).app)
    assert first["sizes"] == other["sizes"] == {"own": "16x16", "multiples_of": 8, "most_pixels": 1024}
    assert other["people"] is None
    assert "happy" in first["people"]["expressions"]
    assert "fully left" in first["people"]["poses"]


def test_sizes_are_drawn_together_by_the_services_own_code(untrained_checkpoint, reference):
    engine = load_checkpoint(untrained_checkpoint)
    ask = functools.partial(Request, "a happy creature", reference, 0.9, 0.5, guidance_scale=2.0, steps=2)
    requests = [ask(seed=5, size=(64, 64)), ask(seed=6, size=(64, 96)), ask(seed=7)]
    receipt = Receipt("flexip", engine.digest, "a happy creature", "", 5, 2.0, 2, "ddim")

    async def scenario() -> tuple[list[np.ndarray], Any]:
        batcher: Batcher[Job, np.ndarray] = Batcher(lambda: JobDrawing(engine), max_rows=4, max_waiting=4)
        return await batcher.submit([Job(receipt, request, engine) for request in requests]), batcher.counters

    pictures, counters = asyncio.run(scenario())
    assert [picture.shape for picture in pictures] == [(64, 64, 3), (64, 96, 3), (64, 64, 3)]
    assert (counters.calls, counters.drawn) == (4, 6)
    for picture, request in zip(pictures, requests, strict=True):
        assert np.abs(picture.astype(int) - sample(engine, [request])[0]).max() <= 1
