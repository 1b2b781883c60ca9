"""Every kind of bad request gets the right 4xx, with the field named and the remedy told in one line."""

import base64
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from service import stand

from flexip.images import encode_jpeg, encode_png

GENERATIONS, EDITS, SUBJECTS = "/v1/images/generations", "/v1/images/edits", "/v1/subjects"
NOISE = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
PNG, JPEG = encode_png(NOISE), encode_jpeg(NOISE)
HUGE = encode_png(np.zeros((400, 400, 3), np.uint8))  # 160,000 pixels in half a kilobyte
BLACK = encode_png(np.zeros((16, 16, 3), np.uint8))
SVG = b'<svg xmlns="http://www.w3.org/2000/svg" width="64" height="64"/>'
NOBODY = "subj_" + "0" * 24


@pytest.fixture(scope="module")
def client(tmp_path_factory) -> Iterator[TestClient]:
    with TestClient(stand(tmp_path_factory.mktemp("subjects")).app) as client:
        yield client


def base64_of(data: bytes) -> str:
    return base64.b64encode(data).decode()


def subject(**fields: Any) -> dict[str, Any]:
    return {"subjects": [{"image": base64_of(PNG)} | fields]}


def check(answer: Any, status: int, param: str | None, said: str) -> None:
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert error["type"] == "invalid_request_error"
    assert error["param"] == param
    assert said in error["message"]
    assert "\n" not in error["message"]
    assert len(error["message"]) < 600
    if param:
        assert param in error["message"]


@pytest.mark.parametrize(
    ("fields", "status", "param", "said"),
    [
        ({"prompt": None}, 422, "prompt", "valid string"),
        ({"prompt": ""}, 422, "prompt", "at least 1"),
        ({"prompt": " \t"}, 422, "prompt", "what to draw"),
        ({"prompt": ["a", "b"]}, 422, "prompt", "valid string"),
        ({"prompt": "x" * 101}, 422, "prompt", "at most 100"),
        ({"negative_prompt": "x" * 101}, 422, "negative_prompt", "at most 100"),
        ({"promt": "x"}, 422, "promt", "did you mean prompt?"),
        ({"model": "dall-e-3"}, 404, "model", "'flexip' or 'other'"),
        ({"model": ""}, 404, "model", "'flexip' or 'other'"),
        ({"style": "vivid"}, 422, "style", "say it in the prompt"),
        ({"moderation": "low"}, 422, "moderation", "the operator decides"),
        ({"output_compression": 50}, 422, "output_compression", "choose output_format"),
        ({"quality": "hd"}, 422, "quality", "auto"),
        ({"mask": base64_of(PNG)}, 422, "mask", "unknown field"),
        ({"strength": 0.5}, 422, "strength", "unknown field"),
        ({"n": 0}, 422, "n", "greater than or equal to 1"),
        ({"n": 5}, 422, "n", "less than or equal to 4"),
        ({"n": 1.5}, 422, "n", "valid integer"),
        ({"n": "many"}, 422, "n", "valid integer"),
        ({"size": "512x512"}, 422, "size", "262144 pixels; at most 1024 are drawn here"),
        ({"size": "8x136"}, 422, "size", "1088 pixels"),
        ({"size": "30x20"}, 422, "size", "multiples of 8 pixels; 32x16 would be"),
        ({"size": "3x3"}, 422, "size", "8x8 would be"),
        ({"size": "0x16"}, 422, "size", "WIDTHxHEIGHT in pixels"),
        ({"size": "large"}, 422, "size", "auto or WIDTHxHEIGHT"),
        ({"size": "16"}, 422, "size", "WIDTHxHEIGHT"),
        ({"size": [16, 16]}, 422, "size", "valid string"),
        ({"num_inference_steps": 0}, 422, "num_inference_steps", "greater than or equal to 1"),
        ({"num_inference_steps": 11}, 422, "num_inference_steps", "less than or equal to 10"),
        ({"guidance_scale": 0.5}, 422, "guidance_scale", "greater than or equal to 1"),
        ({"guidance_scale": 31}, 422, "guidance_scale", "less than or equal to 30"),
        ({"seed": -1}, 422, "seed", "greater than or equal to 0"),
        ({"seed": 2**32}, 422, "seed", "less than or equal to"),
        ({"solver": "euler"}, 422, "solver", "dpm++2m"),
        ({"response_format": "url"}, 422, "response_format", "b64_json"),
        ({"output_format": "gif"}, 422, "output_format", "png"),
        ({"background": "transparent"}, 422, "background", "opaque"),
        ({"stream": True, "n": 2}, 422, "n", "with stream"),
        ({"stream": True, "partial_images": 4}, 422, "partial_images", "less than or equal to 3"),
        ({"partial_images": 1}, 422, "partial_images", "only with stream"),
        ({"gate": 0.5}, 422, "gate", "no subject"),
        ({"schedule": {"type": "constant"}}, 422, "schedule", "no subject"),
        ({"subjects": {"image": "x"}}, 422, "subjects", "valid list"),
        ({"subjects": [{}]}, 422, "subjects[0].image", "send image or subject_id"),
        ({"subjects": [{"image": "x"}] * 100}, 422, "subjects", "100 of them"),
        (subject(subject_id=NOBODY), 422, "subjects[0].image", "given together"),
        ({"subjects": [{"subject_id": NOBODY}]}, 404, "subjects[0].subject_id", "no such subject"),
        ({"subjects": [{"subject_id": "../../etc/passwd"}]}, 422, "subjects[0].subject_id", "pattern"),
        (subject(gaet=0.5), 422, "subjects[0].gaet", "did you mean gate?"),
        (subject(gate=1.5), 422, "subjects[0].gate", "less than or equal to 1"),
        (subject(gate=-0.1), 422, "subjects[0].gate", "greater than or equal to 0"),
        (subject(gate="half"), 422, "subjects[0].gate", "valid number"),
        (subject(preservation=0.5), 422, "subjects[0].personalization", "both weights"),
        (subject(gate=0.5, identity=0.5), 422, "subjects[0].gate", "one of them"),
        (subject(gate=0.5, preservation=0.5, personalization=0.5), 422, "subjects[0].gate", "the two weights"),
        (subject(identity=0.9), 422, "subjects[0].identity", "keeps 0.200 to 0.800"),
        (subject(schedule={"type": "sine"}), 422, "subjects[0].schedule", "'linear'"),
        (subject(schedule="linear"), 422, "subjects[0].schedule", "dictionary"),
        (subject(schedule={"type": "linear", "first": 0}), 422, "subjects[0].schedule.linear.last", "missing"),
        (
            subject(gate=1, schedule={"type": "linear", "first": 0, "last": 1}),
            422,
            "subjects[0].gate",
            "leave gate out",
        ),
        (
            subject(schedule={"type": "window", "start": 0.8, "end": 0.2}),
            422,
            "subjects[0].schedule.start",
            "after the end",
        ),
        (
            subject(schedule={"type": "list", "values": [0.5] * 26}),
            422,
            "subjects[0].schedule.values",
            "at most 5",
        ),
        (subject(box=[0, 0, 1]), 422, "subjects[0].box[3]", "missing"),
        (subject(box=[0, 0, 64, 64]), 422, "subjects[0].box[2]", "less than or equal to 1"),
        (subject(box=[0.5, 0, 0.5, 1]), 422, "subjects[0].box", "left < right"),
        (subject(box=[0, 0, 1, 1], mask=base64_of(PNG)), 422, "subjects[0].box", "together with mask"),
        (subject(mask=base64_of(encode_png(NOISE[:32]))), 422, "subjects[0].mask", "needs its aspect"),
        (subject(mask=base64_of(PNG)) | {"size": "16x24"}, 422, "subjects[0].mask", "the picture is 16x24"),
        (subject(mask=base64_of(SVG)), 400, "subjects[0].mask", "not an image"),
        (subject(image="!!!"), 400, "subjects[0].image", "not base64"),
        (subject(image="https://example.org/cat.png"), 400, "subjects[0].image", "fetches no URLs"),
        (subject(image="data:text/plain,hello"), 400, "subjects[0].image", "base64"),
        (subject(image="file:///etc/passwd"), 400, "subjects[0].image", "fetches no URLs"),
        (subject(image=base64_of(b"just some text")), 400, "subjects[0].image", "not an image"),
        (subject(image=base64_of(SVG)), 400, "subjects[0].image", "not an image"),
        (subject(image=base64_of(PNG[:2000])), 400, "subjects[0].image", "incomplete"),
        (subject(image=base64_of(JPEG[: len(JPEG) // 2])), 400, "subjects[0].image", "incomplete"),
        (subject(image=base64_of(encode_png(NOISE[:1, :1]))), 400, "subjects[0].image", "at least"),
        (subject(image=base64_of(HUGE)), 413, "subjects[0].image", "at most"),
        (subject(image=7), 422, "subjects[0].image", "valid string"),
    ],
)
def test_a_bad_field_of_a_generation(client, fields, status, param, said):
    check(client.post(GENERATIONS, json={"prompt": "x", "num_inference_steps": 5} | fields), status, param, said)


@pytest.mark.parametrize(
    ("content", "status", "param", "said"),
    [
        (b'{"prompt": "x",', 400, None, "not JSON"),
        (b"[1, 2]", 422, None, "body"),
        (b"", 422, None, "required"),
        (b'{"prompt": "x", "guidance_scale": NaN}', 422, "guidance_scale", "finite"),
        (b'{"prompt": "x", "gate": Infinity}', 422, "gate", "finite"),
        (b'{"prompt": "x", "gate": NaN}', 422, "gate", "finite"),
        (b'{"prompt": "\xff"}', 400, None, "body"),
        (b'{"prompt": "' + b"x" * 300_000 + b'"}', 413, None, "0.2 MB"),
    ],
)
def test_a_bad_body(client, content, status, param, said):
    answer = client.post(GENERATIONS, content=content, headers={"content-type": "application/json"})
    check(answer, status, param, said)


@pytest.mark.parametrize(
    ("fields", "files", "status", "param", "said"),
    [
        ({}, [("image", PNG)], 422, "prompt", "missing"),
        ({"prompt": "x", "gaet": "1"}, [("image", PNG)], 422, "gaet", "did you mean gate?"),
        ({"prompt": "x", "gate": "nan"}, [("image", PNG)], 422, "gate", "finite"),
        ({"prompt": ["x", "y"]}, [("image", PNG)], 422, "prompt", "given twice"),
        ({"prompt": "x"}, [("mask", PNG)], 422, "image", "the canvas"),
        ({"prompt": "x"}, [("image", PNG), ("mask", PNG), ("mask", PNG)], 422, "mask", "given twice"),
        ({"prompt": "x", "mask": "x"}, [("image", PNG)], 422, "mask", "as a file"),
        ({"prompt": "x"}, [("image", PNG), ("mask", BLACK)], 422, "mask", "nothing is to be painted"),
        ({"prompt": "x"}, [("image", PNG), ("mask", encode_png(NOISE[:32]))], 422, "mask", "needs its aspect"),
        ({"prompt": "x"}, [("image", encode_png(NOISE[:32])), ("mask", PNG)], 422, "image[0]", "needs its aspect"),
        ({"prompt": "x", "size": "16x32"}, [("image", PNG), ("mask", PNG)], 422, "image[0]", "the picture is 16x32"),
        ({"prompt": "x", "size": "wide"}, [("image", PNG)], 422, "size", "WIDTHxHEIGHT"),
        ({"prompt": "x"}, [("image", PNG), ("mask", SVG)], 400, "mask", "not an image"),
        ({"prompt": "x"}, [("image", PNG), ("mask", PNG[:2000])], 400, "mask", "incomplete"),
        ({"prompt": "x"}, [("image", PNG), ("mask", HUGE)], 413, "mask", "at most"),
        ({"prompt": "x", "strength": "0.5"}, [("image", PNG)], 422, "strength", "no canvas"),
        ({"prompt": "x", "strength": "0"}, [("image", PNG), ("mask", PNG)], 422, "strength", "greater than 0"),
        ({"prompt": "x", "strength": "0.1"}, [("image", PNG), ("mask", PNG)], 422, "strength", "less than one"),
        ({"prompt": "x", "input_fidelity": "high"}, [("image", PNG)], 422, "input_fidelity", "send gate"),
        ({"prompt": "x"}, [("image[]", PNG)] * 6, 422, "subjects", "6 of them"),
        ({"prompt": "x"}, [("picture", PNG)], 422, "picture", "image"),
        ({"prompt": "x"}, [("image", b"a text")], 400, "subjects[0].image", "not an image"),
        ({"prompt": "x", "subjects": "[{"}, [("image", PNG)], 422, "subjects", "JSON"),
        ({"prompt": "x", "subjects": '[{"image": "0"}, 7]'}, [("image", PNG)], 422, "subjects[1]", "dictionary"),
        ({"prompt": "x", "subjects": '[{"image": 1}]'}, [("image", PNG)], 422, "image[0]", "names this upload"),
        ({"prompt": "x", "subjects": '[{"image": 0, "mask": 1}]'}, [("image", PNG)], 422, "subjects[0].mask", "from 0"),
        ({"prompt": "x", "schedule": "linear"}, [("image", PNG)], 422, "schedule", "JSON"),
    ],
)
def test_a_bad_form(client, fields, files, status, param, said):
    uploads = [(name, ("who.png", data)) for name, data in files]
    check(client.post(EDITS, data={"num_inference_steps": "5"} | fields, files=uploads), status, param, said)


def test_a_form_without_a_picture_or_of_another_kind(client):
    check(client.post(EDITS, data={"prompt": "x"}), 415, "content-type", "multipart/form-data")
    check(client.post(EDITS, files={"prompt": (None, "x")}), 422, "image", "missing")
    check(client.post(EDITS, files={"prompt": (None, "x"), "image": (None, "x")}), 422, "image", "as a file")
    many = [("image[]", ("who.png", b"x"))] * 40
    assert client.post(EDITS, data={"prompt": "x"}, files=many).status_code == 400
    broken = client.post(EDITS, content=b"--x\r\nnonsense", headers={"content-type": "multipart/form-data; boundary=x"})
    assert broken.status_code in (400, 422)


@pytest.mark.parametrize(
    ("files", "status", "param"),
    [
        ({}, 422, "image"),
        ({"image": (None, "text")}, 422, "image"),
        ({"image": ("a.svg", SVG)}, 400, "image"),
        ({"image": ("a.png", HUGE)}, 413, "image"),
        ({"image": ("a.png", PNG), "cut_out": (None, "perhaps")}, 422, "cut_out"),
    ],
)
def test_a_bad_upload_of_a_subject(client, files, status, param):
    check(client.post(SUBJECTS, files=files), status, param, param)
    assert client.get(SUBJECTS).json()["data"] == []


@pytest.mark.parametrize("name", ["..%2F..%2Fetc", "subj_", "subj_" + "G" * 24, NOBODY + ".png", "%00"])
def test_a_subject_by_another_name_than_ours(client, name):
    for method in ("GET", "DELETE"):
        assert client.request(method, f"{SUBJECTS}/{name}").status_code in (404, 422)


def test_another_route_or_method_has_the_same_shape(client):
    check(client.get("/v2/images"), 404, None, "Not Found")
    check(client.get(EDITS), 405, None, "Not Allowed")


def test_json_is_no_upload_and_nothing_was_drawn_or_kept(client):
    assert client.post(SUBJECTS, content=json.dumps({"image": base64_of(PNG)})).status_code == 422
    health = client.get("/healthz").json()
    assert (health["images"], health["waiting"], health["failed"]) == (0, 0, 0)
