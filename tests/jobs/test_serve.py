"""The service as a client meets it: a real Ray Serve application, an untrained checkpoint, real HTTP."""

import base64
import io
import json
import re
import shutil
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest
from PIL import Image

from flexip.calibration import Calibration
from flexip.checkpoint import store_calibration
from flexip.images import decode_image, encode_jpeg, encode_png
from jobs import generate
from jobs.config import RayConfig
from jobs.console import UserError
from jobs.serve import ServeConfig, serving
from jobs.serving.requests import LimitsConfig

README = Path(__file__).parents[2] / "README.md"
STEPS = 3
LIMITS = LimitsConfig(images=4, steps=30, prompt=100, body_mb=1, image_megapixels=0.5)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


@pytest.fixture(scope="module")
def checkpoint(untrained_checkpoint, tmp_path_factory) -> Path:
    checkpoint = shutil.copytree(untrained_checkpoint, tmp_path_factory.mktemp("calibrated") / "checkpoint")
    store_calibration(checkpoint, Calibration([0.0, 1.0], [0.2, 0.8], "dino", 4, "abc"))
    return checkpoint


@pytest.fixture(scope="module")
def client(checkpoint) -> Iterator[httpx.Client]:
    config = ServeConfig(
        checkpoint=checkpoint, port=free_port(), limits=LIMITS, batch_rows=6, ray=RayConfig(num_cpus=2)
    )
    with serving(config) as url, httpx.Client(base_url=url, timeout=300) as client:
        yield client


@pytest.fixture(scope="module")
def picture(reference) -> str:
    return base64.b64encode(encode_png(reference)).decode()


def body(image: str | None = None, **fields: Any) -> dict[str, Any]:
    subjects = {"subjects": [{"image": image}]} if image is not None else {}
    return {"prompt": "a creature on a beach", "num_inference_steps": STEPS, "seed": 5, **subjects} | fields


def draw(client: httpx.Client, **fields: Any) -> list[np.ndarray]:
    answer = client.post("/v1/images/generations", json=body(**fields))
    assert answer.status_code == 200, answer.text
    return [decode_image(base64.b64decode(item["b64_json"])) for item in answer.json()["data"]]


def refused(answer: httpx.Response) -> tuple[int, str | None, str]:
    """(status, param, message) of an error, whose shape is OpenAI's."""
    error = answer.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    assert "\n" not in error["message"]
    return answer.status_code, error["param"], error["message"]


def test_a_taken_port_is_one_line(untrained_checkpoint):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with (
            pytest.raises(UserError, match=f"port = {port}"),
            serving(ServeConfig(checkpoint=untrained_checkpoint, port=port)),
        ):
            pytest.fail("it started")


def test_a_prompt_alone_gives_a_picture(client):
    answer = client.post("/v1/images/generations", json=body())
    (item,) = answer.json()["data"]
    assert answer.json()["created"] > 1.7e9
    assert item["seed"] == 5
    assert decode_image(base64.b64decode(item["b64_json"])).shape == (64, 64, 3)


def test_the_answer_is_what_the_sampler_draws(client, picture, reference, untrained_checkpoint):
    from flexip.checkpoint import load_checkpoint
    from flexip.request import Request
    from flexip.sampler import sample

    request = Request("a creature on a beach", reference, 0.8, 0.3, "dark", 4.0, STEPS, seed=5)
    (expected,) = sample(load_checkpoint(untrained_checkpoint), [request])
    (found,) = draw(
        client,
        image=picture,
        preservation=0.8,
        personalization=0.3,
        negative_prompt="dark",
        guidance_scale=4.0,
    )
    np.testing.assert_allclose(found.astype(int), expected.astype(int), atol=1)


def test_requests_with_different_gates_share_a_batch_and_do_not_change_each_other(client, picture):
    asked = [
        {"image": picture, "gate": 0.0},
        {"image": picture, "gate": 1.0, "guidance_scale": 2.0},
        {"image": picture, "gate": 0.5, "num_inference_steps": 5, "seed": 6},
        {"guidance_scale": 1.0},
    ]
    alone = [draw(client, **fields)[0] for fields in asked]
    before = client.get("/healthz").json()
    with ThreadPoolExecutor(len(asked)) as pool:
        together = [images[0] for images in pool.map(lambda fields: draw(client, **fields), asked)]
    after = client.get("/healthz").json()
    assert after["images"] - before["images"] == len(asked)
    steps = sum(fields.get("num_inference_steps", STEPS) for fields in asked)
    assert after["drawn"] - before["drawn"] == steps
    assert after["calls"] - before["calls"] < steps
    assert after["encoded"] <= before["encoded"] + 1
    assert after["not_encoded_again"] > before["not_encoded_again"]
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_allclose(one.astype(int), other.astype(int), atol=1)
    assert np.abs(alone[0].astype(int) - alone[1]).max() > 5  # the gates are not without effect


def test_n_pictures_have_seeds_of_their_own_that_repeat_them(client):
    answer = client.post("/v1/images/generations", json=body(n=3)).json()
    assert [item["seed"] for item in answer["data"]] == [5, 6, 7]
    (again,) = draw(client, seed=7)
    third = decode_image(base64.b64decode(answer["data"][2]["b64_json"]))
    np.testing.assert_allclose(again.astype(int), third.astype(int), atol=1)


def test_without_a_seed_the_answer_tells_the_one_it_drew(client):
    first = client.post("/v1/images/generations", json={"prompt": "x", "num_inference_steps": 1}).json()["data"][0]
    other = client.post("/v1/images/generations", json={"prompt": "x", "num_inference_steps": 1}).json()["data"][0]
    assert first["seed"] != other["seed"]


def test_edits_take_an_upload_and_agree_with_generations(client, picture, reference):
    fields = {name: str(value) for name, value in body(gate=0.7, output_format="jpeg").items()}
    for name in ("image", "image[]"):
        files = {name: ("who.png", encode_png(reference), "image/png")}
        answer = client.post("/v1/images/edits", data=fields, files=files)
        assert answer.status_code == 200, answer.text
        data = base64.b64decode(answer.json()["data"][0]["b64_json"])
        assert data[:3] == b"\xff\xd8\xff"
        (expected,) = draw(client, image=f"data:image/png;base64,{picture}", gate=0.7)
        assert np.abs(decode_image(data).astype(int) - expected).mean() < 12  # JPEG of a noisy picture


@pytest.fixture(scope="module")
def official(client) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{client.base_url}/v1", api_key="any", max_retries=0) as official:
        yield official


MORE = {"num_inference_steps": STEPS, "seed": 5}


def test_the_official_client_generates(official, client, picture):
    subjects = [{"image": picture, "gate": 0.7}]
    answer = official.images.generate(
        model="flexip",
        prompt="a creature on a beach",
        n=2,
        size="auto",
        quality="auto",
        response_format="b64_json",
        extra_body=MORE | {"subjects": subjects},
    )
    expected = draw(client, n=2, subjects=subjects)
    for item, right in zip(answer.data or [], expected, strict=True):
        found = decode_image(base64.b64decode(item.b64_json or ""))
        assert np.abs(found.astype(int) - right.astype(int)).max() <= 1
    with pytest.raises(openai.UnprocessableEntityError) as refusal:
        official.images.generate(model="flexip", prompt="x", n=99)
    assert refusal.value.param == "n"


def test_the_official_client_edits(official, client, picture, reference):
    png = encode_png(reference)
    (expected,) = draw(client, subjects=[{"image": picture, "gate": 0.7, "mask": picture}])
    told = json.dumps([{"image": 0, "gate": 0.7, "mask": 1}])
    for images, more in ((png, {"gate": 0.7}), ([png, png], {"subjects": told})):
        answer = official.images.edit(image=images, prompt="a creature on a beach", extra_body=MORE | more)
        (item,) = answer.data or []
        found = decode_image(base64.b64decode(item.b64_json or ""))
        if more == {"subjects": told}:
            assert np.abs(found.astype(int) - expected.astype(int)).max() <= 1


def test_the_official_client_paints_into_a_canvas_beside_other_requests(official, client, picture, reference):
    holes = np.full((64, 64, 4), 255, np.uint8)
    holes[:32, :, 3] = 0
    mask, canvas = io.BytesIO(), np.full((64, 64, 3), 90, np.uint8)
    Image.fromarray(holes).save(mask, "PNG")
    (neighbour,) = draw(client, image=picture, gate=0.7)

    def paint() -> np.ndarray:
        answer = official.images.edit(
            image=[encode_png(canvas), encode_png(reference)],
            mask=("mask.png", mask.getvalue()),
            prompt="a creature on a beach",
            extra_body=MORE,
        )
        (item,) = answer.data or []
        return decode_image(base64.b64decode(item.b64_json or ""))

    alone = paint()
    with ThreadPoolExecutor(2) as pool:
        painted, drawn = pool.submit(paint), pool.submit(draw, client, image=picture, gate=0.7)
    assert (alone[32:] == 90).all()
    assert np.abs(painted.result().astype(int) - alone.astype(int)).max() <= 1
    assert np.abs(drawn.result()[0].astype(int) - neighbour.astype(int)).max() <= 1
    assert np.abs(alone[:32].astype(int) - 90).mean() > 5


def test_the_official_client_streams(official, client):
    stream = official.images.generate(
        prompt="a creature on a beach", stream=True, partial_images=2, extra_body=MORE | {"num_inference_steps": 6}
    )
    events = list(stream)
    partial = "image_generation.partial_image"
    assert [event.type for event in events] == [partial, partial, "image_generation.completed"]
    assert [event.partial_image_index for event in events[:2]] == [0, 1]
    first, second, last = (decode_image(base64.b64decode(event.b64_json)).astype(int) for event in events)
    (expected,) = draw(client, num_inference_steps=6)
    assert np.abs(last - expected).max() <= 1
    assert 1 < np.abs(second - last).mean() < np.abs(first - last).mean()


def test_what_the_readme_tells_the_official_client_works(client, reference, tmp_path, monkeypatch):
    (tmp_path / "subject.png").write_bytes(encode_png(reference))
    monkeypatch.chdir(tmp_path)
    (block,) = re.findall(r"```python\n(from openai.+?)```", README.read_text(), re.DOTALL)
    names: dict[str, Any] = {}
    exec(compile(block.replace("http://localhost:8000", str(client.base_url)), "README.md", "exec"), names)
    assert decode_image(base64.b64decode(names["answer"].data[0].b64_json)).shape == (64, 64, 3)


def test_a_receipt_draws_the_picture_again_bit_for_bit(client, checkpoint, picture, reference, tmp_path):
    subjects = [{"image": picture, "box": [0, 0, 0.5, 1], "schedule": {"type": "linear", "first": 1, "last": 0.1}}]
    item = client.post("/v1/images/generations", json=body(subjects=subjects, size="96x64")).json()["data"][0]
    served, subject = tmp_path / "served.png", tmp_path / "subject.png"
    served.write_bytes(base64.b64decode(item["b64_json"]))
    subject.write_bytes(encode_png(reference))
    words = ["--from", str(served), "--subject", str(subject), "--output", str(tmp_path)]
    generate.main([*words, "--checkpoint", str(checkpoint)])
    assert (tmp_path / "00005.png").read_bytes() == served.read_bytes()
    assert decode_image(served.read_bytes()).shape == (64, 96, 3)


def test_models_and_health(client):
    assert [model["id"] for model in client.get("/v1/models").json()["data"]] == ["flexip"]
    assert client.get("/healthz").json()["status"] == "ok"
    paths = client.get("/openapi.json").json()["paths"]
    assert "image" in str(paths["/v1/images/edits"]["post"]["requestBody"])


@pytest.mark.parametrize(
    ("fields", "status", "param", "said"),
    [
        ({"gatte": 0.5}, 422, "gatte", "did you mean gate?"),
        ({"gate": 1.5}, 422, "gate", "gate = 1.5: input should be less than or equal to 1"),
        ({"n": 9}, 422, "n", "less than or equal to 4"),
        ({"n": "many"}, 422, "n", "valid integer"),
        ({"num_inference_steps": 31}, 422, "num_inference_steps", "less than or equal to 30"),
        ({"size": "512x512"}, 422, "size", "at most 16384"),
        ({"model": "dall-e-3"}, 404, "model", "'flexip'"),
        ({"prompt": " "}, 422, "prompt", "what to draw"),
        ({"prompt": "x" * 101}, 422, "prompt", "at most 100"),
        ({"prompt": None}, 422, "prompt", "valid string"),
        ({"seed": -1}, 422, "seed", "greater than or equal to 0"),
        ({"response_format": "url"}, 422, "response_format", "b64_json"),
        ({"image": "!!!"}, 400, "subjects[0].image", "not base64"),
        ({"image": base64.b64encode(b"just some text").decode()}, 400, "subjects[0].image", "not an image"),
        ({"image": "https://example.org/cat.png"}, 400, "subjects[0].image", "fetches no URLs"),
        ({"gate": 0.5}, 422, "gate", "no subject"),
        ({"identity": 0.5}, 422, "identity", "no subject"),
    ],
)
def test_a_wrong_field_is_named_with_its_remedy(client, fields, status, param, said):
    found = refused(client.post("/v1/images/generations", json=body(**fields)))
    assert found[:2] == (status, param)
    assert said in found[2]
    assert len(found[2]) < 400


@pytest.mark.parametrize(
    ("weights", "param"),
    [
        ({"gate": 0.5, "preservation": 0.5, "personalization": 0.5}, "gate"),
        ({"preservation": 0.5}, "personalization"),
        ({"preservation": 0.5, "personalization": 2}, "personalization"),
    ],
)
def test_a_gate_is_one_dial_or_two_weights(client, picture, weights, param):
    assert refused(client.post("/v1/images/generations", json=body(image=picture, **weights)))[:2] == (422, param)


def test_identity_is_asked_for_by_its_amount(client, picture):
    (asked,), (dialled,) = draw(client, image=picture, identity=0.35), draw(client, image=picture, gate=0.25)
    assert np.abs(asked.astype(int) - dialled.astype(int)).max() <= 1
    for fields, said in (({"identity": 0.9}, "keeps 0.200 to 0.800"), ({"identity": 0.5, "gate": 0.5}, "one of")):
        status, param, message = refused(client.post("/v1/images/generations", json=body(image=picture, **fields)))
        assert (status, param) == (422, "gate" if "gate" in fields else "identity")
        assert said in message


def test_what_is_not_json_is_a_400(client):
    headers = {"content-type": "application/json"}
    answer = client.post("/v1/images/generations", content=b'{"prompt": "x",', headers=headers)
    assert refused(answer)[0] == 400
    answer = client.post("/v1/images/generations", content=b'{"prompt": "x", "guidance_scale": NaN}', headers=headers)
    assert refused(answer)[:2] == (422, "guidance_scale")


def test_uploads_that_are_no_pictures_are_refused(client, reference):
    large = np.zeros((800, 800, 3), np.uint8)
    whole = encode_jpeg(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8))
    for data, status, said in (
        (b"a text file", 400, "not an image"),
        (whole[: len(whole) // 2], 400, "incomplete"),
        (encode_png(reference[:1, :1]), 400, "at least"),
        (encode_png(large), 413, "at most"),
    ):
        answer = client.post("/v1/images/edits", data={"prompt": "x"}, files={"image": ("who.png", data)})
        found = refused(answer)
        assert found[:2] == (status, "subjects[0].image")
        assert said in found[2]


def test_a_form_is_checked_like_json(client, reference):
    files = {"image": ("who.png", encode_png(reference))}
    assert refused(client.post("/v1/images/edits", data={"prompt": "x"}, files={}))[0] == 415
    assert refused(client.post("/v1/images/edits", data={"prompt": "x", "gatte": "1"}, files=files))[:2] == (
        422,
        "gatte",
    )
    assert refused(client.post("/v1/images/edits", data={"gate": "0.5"}, files=files))[:2] == (422, "prompt")
    assert refused(client.post("/v1/images/edits", files={"prompt": (None, "x")}))[:2] == (422, "image")
    six = [("image[]", ("a.png", files["image"][1]))] * 6
    assert refused(client.post("/v1/images/edits", data={"prompt": "x"}, files=six))[:2] == (422, "subjects")


def test_a_body_beyond_the_limit_is_a_413_announced_or_not(client):
    blob = b'{"prompt": "' + b"x" * 1_100_000 + b'"}'
    headers = {"content-type": "application/json"}
    announced = client.post("/v1/images/generations", content=blob, headers=headers)
    chunked = client.post("/v1/images/generations", content=iter([blob[:600_000], blob[600_000:]]), headers=headers)
    for answer in (announced, chunked):
        status, _, message = refused(answer)
        assert status == 413
        assert "1 MB" in message


def test_unknown_routes_and_methods_have_the_same_shape(client):
    assert refused(client.get("/v2/images"))[0] == 404
    assert refused(client.get("/v1/images/edits"))[0] == 405


def test_a_refused_request_leaves_the_service_working(client):
    before = client.get("/healthz").json()
    client.post("/v1/images/generations", json=body(gate=7))
    assert len(draw(client)) == 1
    assert client.get("/healthz").json()["process"] == before["process"]


def test_a_queue_too_small_for_one_request_is_refused(tmp_path):
    with pytest.raises(ValueError, match="queue_rows"):
        ServeConfig(checkpoint=tmp_path, queue_rows=3)
