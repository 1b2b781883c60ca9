"""What the service does with a request, without Ray and models: the application over an easel of one colour."""

import base64
import io
import json
import socket
import time
from typing import Any
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families
from service import ACCESS, EDITS, GENERATIONS, LIMITS, SIDE, SUBJECTS, ask, listening, receipt_of, stand

from flexip.checkpoint import CheckpointError
from flexip.images import decode_image, encode_png
from jobs.console import UserError
from jobs.receipt import DrawnCanvas, Receipt, read_receipt, sha256
from jobs.serve import ServeConfig, build
from jobs.serving.access import AccessConfig
from jobs.serving.deployment import Capacity, ScalingConfig, Settings, application
from jobs.serving.hooks import HooksConfig, load_hooks
from jobs.serving.models import RegistryConfig
from jobs.serving.subjects import SubjectsConfig
from jobs.serving.unanswered import middlewares

FORM = {"prompt": "x", "num_inference_steps": "4"}


def refuses_seed_7(picture: np.ndarray, receipt: Receipt) -> str:
    return "too green" if receipt.seed == 7 else ""


def blue(picture: np.ndarray, receipt: Receipt) -> np.ndarray:
    return np.stack([picture[:, :, 0], picture[:, :, 1], np.full_like(picture[:, :, 2], 255)], axis=2)


@pytest.mark.parametrize(
    ("said", "preservation", "personalization"),
    [
        ({}, 0.5, 0.5),
        ({"gate": 0.75}, 0.75, 0.25),
        ({"identity": 0.35}, 0.25, 0.75),
        ({"preservation": 1.0, "personalization": 0.5}, 1.0, 0.5),
        ({"gate": 0.75, "schedule": {"type": "constant"}}, 0.75, 0.25),
        ({"schedule": {"type": "linear", "first": 1, "last": 0.25}}, [1, 0.75, 0.5, 0.25], [0, 0.25, 0.5, 0.75]),
        ({"schedule": {"type": "list", "values": [0.5, 1]}}, [0.5, 1], [0.5, 0]),
        ({"gate": 1, "schedule": {"type": "window", "start": 0.25, "end": 0.75}}, [0, 1, 1, 0], [0, 0, 0, 0]),
        (
            {"preservation": 0.5, "personalization": 1, "schedule": {"type": "window", "start": 0, "end": 0.5}},
            [0.5, 0.5, 0, 0],
            [1, 1, 0, 0],
        ),
    ],
)
def test_every_way_to_say_a_gate_comes_to_the_sampler(client, service, picture, said, preservation, personalization):
    ask(client, subjects=[{"image": picture}], **said)
    ask(client, subjects=[{"image": picture} | said], gate=0.125)  # the subject's own words go first
    own = (0.125, 0.875) if not said else (preservation, personalization)
    for asked, right in zip(service.asked, ((preservation, personalization), own), strict=True):
        (subject,) = asked.subjects
        np.testing.assert_allclose(subject.preservation, right[0], atol=1e-6)
        np.testing.assert_allclose(subject.personalization, right[1], atol=1e-6)


def test_box_and_mask_say_where_the_subject_may_act(client, service, picture):
    ask(client, subjects=[{"image": picture, "box": [0.25, 0, 0.5, 1]}])
    half = np.zeros((8, 8, 3), np.uint8)
    half[:4] = 255
    ask(client, subjects=[{"image": picture, "mask": base64.b64encode(encode_png(half)).decode()}])
    box, mask = (asked.subjects[0].mask for asked in service.asked)
    assert box.shape == (SIDE, SIDE)
    assert box[:, 4:8].min() == 1
    assert box.sum() == 4 * SIDE
    np.testing.assert_array_equal(mask, half[:, :, 0] / 255)


def test_a_form_says_the_same_as_json_and_counts_its_uploads(client, service, png, picture):
    black = encode_png(np.zeros((8, 8, 3), np.uint8))
    subject = {"image": 1, "mask": 0, "schedule": {"type": "linear", "first": 1, "last": 0}}
    fields = {"prompt": "a creature", "num_inference_steps": "4", "seed": "5", "subjects": json.dumps([subject])}
    form = client.post(EDITS, data=fields, files=[("image[]", ("0.png", black)), ("image[]", ("1.png", png))])
    same = subject | {"image": picture, "mask": base64.b64encode(black).decode()}
    assert receipt_of(form) == receipt_of(ask(client, subjects=[same]))
    np.testing.assert_array_equal(service.asked[0].subjects[0].reference, service.asked[1].subjects[0].reference)


@pytest.mark.parametrize("file_format", ["png", "jpeg", "webp"])
def test_an_image_holds_its_receipt_and_says_that_it_is_generated(client, png, picture, file_format):
    subject = {"image": picture, "gate": 0.7, "box": [0, 0, 0.5, 1]}
    answer = ask(client, subjects=[subject], negative_prompt="snöw", output_format=file_format, n=2, solver="dpm++2m")
    receipt = receipt_of(answer)
    told = answer.json()["data"]
    assert [item["receipt"]["seed"] for item in told] == [item["seed"] for item in told] == [5, 6]
    assert receipt == read_receipt(base64.b64decode(told[0]["b64_json"]))
    assert (receipt.prompt, receipt.negative_prompt, receipt.steps) == ("a creature", "snöw", 4)
    assert (receipt.model, receipt.weights, receipt.solver) == ("flexip", "0" * 64, "dpm++2m")
    (drawn,) = receipt.subjects
    assert (drawn.sha256, drawn.cut_out, drawn.preservation, drawn.box) == (sha256(png), True, 0.7, (0, 0, 0.5, 1))
    assert b"trainedAlgorithmicMedia" in base64.b64decode(told[0]["b64_json"])


def test_several_subjects_come_into_one_picture_each_with_its_own_gate_and_place(client, service, png, picture):
    upright = client.post(SUBJECTS, files={"image": ("who.png", png)}).json()["id"]
    subjects = [{"image": picture, "gate": 0.75, "box": [0, 0, 0.5, 1]}, {"subject_id": upright}, {"image": picture}]
    receipt = receipt_of(ask(client, subjects=subjects, preservation=1, personalization=0.5))
    (asked,) = service.asked
    assert [(s.preservation, s.personalization) for s in asked.subjects] == [(0.75, 0.25), (1, 0.5), (1, 0.5)]
    assert [s.mask is None for s in asked.subjects] == [False, True, True]
    assert [s.box for s in receipt.subjects] == [(0, 0, 0.5, 1), None, None]
    form = client.post(EDITS, data=FORM, files=[("image[]", ("0.png", png)), ("image[]", ("1.png", png))])
    assert [s.preservation for s in receipt_of(form).subjects] == [0.5, 0.5]


def test_a_mask_makes_the_first_image_a_canvas(client, service, png):
    holes = np.full((16, 16, 4), 255, np.uint8)
    holes[:8, :, 3] = 0
    see_through, white = io.BytesIO(), (holes[:, :, 3:] == 0).repeat(3, axis=2).astype(np.uint8) * 255
    Image.fromarray(holes).save(see_through, "PNG")
    fields = FORM | {"strength": "0.5"}
    for mask in (see_through.getvalue(), encode_png(white)):
        files = [("image[]", ("0.png", encode_png(white))), ("image[]", ("1.png", png)), ("mask", ("m.png", mask))]
        receipt = receipt_of(client.post(EDITS, data=fields, files=files))
        assert receipt.canvas == DrawnCanvas(sha256(encode_png(white)), sha256(mask), 0.5)
        assert [subject.sha256 for subject in receipt.subjects] == [sha256(png)]
    for asked in service.asked:
        np.testing.assert_array_equal(asked.canvas.image, white)
        np.testing.assert_array_equal(asked.canvas.mask, white[:, :, 0] / 255)
        assert asked.calls == 2
    alone = [("image", ("0.png", png)), ("mask", ("m.png", png))]
    assert receipt_of(client.post(EDITS, data=FORM, files=alone)).subjects == ()


def test_a_receipt_that_a_jpeg_cannot_hold_is_refused_before_anything_is_drawn(tmp_path, picture):
    limits = LIMITS.model_copy(update={"steps": 1000, "body_mb": 9})
    schedule = {"type": "list", "values": [1 / 3] * 900}
    body = {"prompt": "x", "num_inference_steps": 1000, "subjects": [{"image": picture, "schedule": schedule}] * 3}
    with TestClient(stand(tmp_path, limits=limits).app) as client:
        refused = client.post(GENERATIONS, json=body | {"output_format": "jpeg"})
        assert (refused.status_code, refused.json()["error"]["param"]) == (422, "output_format")
        assert len(receipt_of(client.post(GENERATIONS, json=body | {"output_format": "webp"})).subjects) == 3


def test_a_model_is_picked_by_its_name(client, service):
    listed = client.get("/v1/models").json()["data"]
    assert [(model["id"], model["weights"][0]) for model in listed] == [("flexip", "0"), ("other", "1")]
    for name, weights in ((None, "0"), ("flexip", "0"), ("other", "1")):
        receipt = receipt_of(ask(client, **({"model": name} if name else {})))
        assert (receipt.model, receipt.weights) == (name or "flexip", weights * 64)


def test_a_refused_picture_leaves_in_no_way_and_a_mark_is_in_every_one(tmp_path):
    hooks = load_hooks(HooksConfig(safety=f"{__name__}:refuses_seed_7", watermark=f"{__name__}:blue"))
    with TestClient(stand(tmp_path, hooks=hooks).app) as client:
        good = client.post(GENERATIONS, json={"prompt": "x", "num_inference_steps": 2, "seed": 6})
        assert decode_image(base64.b64decode(good.json()["data"][0]["b64_json"]))[0, 0].tolist() == [2, 6, 255]
        shown = [data["b64_json"] for _, data in events(ask(client, stream=True, seed=6, partial_images=1))]
        assert [decode_image(base64.b64decode(file))[0, 0, 2] for file in shown] == [255, 255]
        for more in ({"n": 1}, {"n": 2, "seed": 6}):
            refused = ask(client, **({"seed": 7} | more))
            error = refused.json()["error"]
            assert (refused.status_code, error["code"]) == (400, "content_policy_violation")
            assert "too green" in error["message"]
        ((name, data),) = events(ask(client, stream=True, seed=7, partial_images=2))
        assert (name, data["error"]["code"]) == ("error", "content_policy_violation")


def test_a_hook_that_cannot_be_found_or_that_fails_lets_nothing_out(tmp_path):
    for path in ("nowhere.at_all:x", "json:nothing", "json:__name__"):
        with pytest.raises(UserError, match=r"hooks\.safety = .*give package\.module:function"):
            load_hooks(HooksConfig(safety=path))
    hooks = load_hooks(HooksConfig(watermark="json:dumps"))
    with TestClient(stand(tmp_path, hooks=hooks).app, raise_server_exceptions=False) as client:
        assert ask(client).json()["error"]["code"] == "internal_error"


def test_what_comes_back_from_the_replicas_without_an_answer_is_a_503_to_be_sent_again(service):
    async def died(scope: Any, receive: Any, send: Any) -> None:
        """As Serve's proxy does when the replica has ended: no message at all."""

    around: Any = middlewares()[0]
    answer = ask(TestClient(around.cls(died)))
    error = answer.json()["error"]
    assert (answer.status_code, error["type"], error["code"]) == (503, "server_error", "replica_ended")
    assert int(answer.headers["retry-after"]) >= 1
    with TestClient(around.cls(service.app)) as behind:
        assert receipt_of(ask(behind)).seed == 5
        assert ask(behind, n=99).status_code == 422


def test_the_number_of_replicas_is_fixed_or_follows_the_load():
    settings = Settings({"flexip": "x"}, RegistryConfig(), LIMITS, ACCESS, SubjectsConfig(), HooksConfig())

    def told(replicas: int, **scaling: Any) -> Any:
        """What Serve is told of the deployment."""
        capacity = Capacity(batch_rows=6, queue_rows=8, cache_mb=1)
        app: Any = application(settings, capacity, replicas=replicas, scaling=ScalingConfig(**scaling), cpus=1, gpus=0)
        return app._bound_deployment._deployment_config

    assert (told(3).num_replicas, told(3).autoscaling_config) == (3, None)
    found = told(1, min_replicas=0, max_replicas=4, up_seconds=5, down_seconds=60).autoscaling_config
    assert (found.min_replicas, found.initial_replicas, found.max_replicas) == (0, 1, 4)
    assert (found.target_ongoing_requests, found.upscale_delay_s, found.downscale_delay_s) == (6, 5, 60)
    assert told(1, max_replicas=2, target_requests=3).autoscaling_config.target_ongoing_requests == 3


def test_a_deployment_by_yaml_needs_keys_and_a_shared_folder(tmp_path):
    whole: dict[str, Any] = {"checkpoint": tmp_path, "access": ACCESS, "subjects": SubjectsConfig(folder=tmp_path)}
    without: dict[str, Any] = {"access": AccessConfig(), "subjects": SubjectsConfig()}
    for name, default in without.items():
        with pytest.raises(UserError, match=f"{name}.*: missing"):
            build(ServeConfig(**{**whole, name: default}))
    with pytest.raises(CheckpointError, match="no config"):
        build(ServeConfig(**whole))


def events(answer: Any) -> list[tuple[str, dict[str, Any]]]:
    assert answer.headers["content-type"].startswith("text/event-stream")
    blocks = [block.split("\n") for block in answer.text.strip().split("\n\n")]
    return [(name.removeprefix("event: "), json.loads(data.removeprefix("data: "))) for name, data in blocks]


def test_a_stream_shows_the_picture_as_it_grows(client, png):
    found = events(ask(client, stream=True, partial_images=3))
    partial, completed = "image_generation.partial_image", "image_generation.completed"
    assert [name for name, _ in found] == [partial] * 3 + [completed]
    assert [data["type"] for _, data in found] == [name for name, _ in found]
    assert [data.get("partial_image_index") for _, data in found] == [0, 1, 2, None]
    pictures = [decode_image(base64.b64decode(data["b64_json"])) for _, data in found]
    assert [picture[0, 0].tolist() for picture in pictures] == [[step, 5, 0] for step in (1, 2, 3, 4)]
    assert {(data["size"], data["output_format"]) for _, data in found} == {(f"{SIDE}x{SIDE}", "png")}
    assert found[-1][1]["receipt"]["seed"] == 5
    fields = {"prompt": "x", "num_inference_steps": "2", "stream": "true"}
    edit = client.post(EDITS, data=fields, files={"image": ("who.png", png)})
    assert [name for name, _ in events(edit)] == ["image_edit.completed"]


def test_what_fails_in_mid_stream_is_told_as_an_event(client):
    ((name, data),) = events(ask(client, stream=True, prompt="boom"))
    assert (name, data["error"]["type"]) == ("error", "server_error")


def test_a_client_that_leaves_in_mid_stream_has_its_image_given_up(tmp_path):
    body = {"prompt": "x", "num_inference_steps": 60, "stream": True, "partial_images": 3}
    limits = LIMITS.model_copy(update={"steps": 60})
    with listening(stand(tmp_path, limits=limits, pause=0.05).app) as url:
        with httpx.stream("POST", url + GENERATIONS, json=body, timeout=30) as answer:
            assert next(answer.iter_lines()) == "event: image_generation.partial_image"
        end = time.monotonic() + 20
        while (health := httpx.get(f"{url}/healthz").json())["abandoned"] == 0 and time.monotonic() < end:
            time.sleep(0.05)
    assert (health["abandoned"], health["images"], health["failed"]) == (1, 0, 0)


def test_a_body_that_comes_too_slowly_is_a_408(tmp_path):
    head = f"POST {GENERATIONS} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 99\r\n\r\n{{"
    limits = LIMITS.model_copy(update={"body_seconds": 0.5})
    with listening(stand(tmp_path, limits=limits).app) as url:
        address = urlsplit(url)
        with socket.create_connection((address.hostname, address.port), timeout=20) as client:
            client.sendall(head.encode())
            answer = b""
            while b"body_too_slow" not in answer and (part := client.recv(4096)):
                answer += part
    assert answer.startswith(b"HTTP/1.1 408")
    assert b"body: not here after 0.5 s" in answer


def test_what_is_not_ready_in_time_is_given_up(tmp_path):
    with TestClient(stand(tmp_path, limits=LIMITS.model_copy(update={"seconds": 1e-9})).app) as client:
        answer, stream = ask(client), ask(client, stream=True)
    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "deadline_passed")
    ((name, data),) = events(stream)
    assert (name, data["error"]["code"]) == ("error", "deadline_passed")


def test_metrics_count_what_was_done(client, picture):
    for _ in range(2):
        ask(client, subjects=[{"image": picture}], n=2)
    text = client.get("/metrics").text
    samples = {
        (sample.name, sample.labels.get("stage")): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert samples["flexip_images_total", None] == 4
    assert samples["flexip_unet_rows_total", None] == 16
    assert samples["flexip_unet_calls_total", None] == 8
    assert samples["flexip_references_encoded_total", None] == 1
    assert samples["flexip_queue_rows", None] == 0
    stages = {stage: samples["flexip_stage_seconds_count", stage] for stage in ("decode", "wait", "draw", "encode")}
    assert stages == {"decode": 2, "wait": 4, "draw": 4, "encode": 2}
