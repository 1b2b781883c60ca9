"""People over HTTP: who is cast, what the receipt says, and what is wrong with a picture of somebody."""

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from service import EDITS, Sitters, Stand, ask, receipt_of, stand, upload

from flexip.images import encode_png


def shows(faces: int) -> bytes:
    """A picture that shows so many faces."""
    picture = np.full((32, 32, 3), 255, np.uint8)
    picture[0, 0, 0] = faces
    return encode_png(picture)


ONE = base64.b64encode(shows(1)).decode()


@pytest.fixture
def service(tmp_path: Path) -> Stand:
    return stand(tmp_path, casting=Sitters())


@pytest.fixture
def client(service) -> Iterator[TestClient]:
    with TestClient(service.app) as client:
        yield client


def test_people_come_with_boxes_expressions_and_poses_beside_other_subjects(service, client):
    subjects: list[dict[str, Any]] = [
        {"image": ONE, "box": [0, 0, 0.5, 1], "expression": "surprised, looking left", "gate": 0.2},
        {"image": ONE, "box": [0.5, 0, 1, 1], "expression": "happy", "pose": "fully right"},
        {"image": ONE, "person": True},
        {"image": base64.b64encode(shows(0)).decode(), "gate": 0.9},
    ]
    receipt = receipt_of(ask(client, subjects=subjects))
    assert [(s.person, s.expression, s.pose) for s in receipt.subjects] == [
        (True, "surprised", "left"),
        (True, "happy", "fully right"),
        (True, "", ""),
        (False, "", ""),
    ]
    assert receipt.people == "5" * 64
    (request,) = service.asked
    assert [person.box for person in request.people] == [(0, 0, 0.5, 1), (0.5, 0, 1, 1), None]
    assert [person.tokens.mean().item() for person in request.people] == [1, 1, 0]  # as it is, where nothing is said
    assert [subject.preservation for subject in request.subjects] == [0.2, 0.5, 0.5, 0.9]  # each keeps its gate


def test_a_receipt_without_people_names_no_dynamicid(client):
    assert receipt_of(ask(client, subjects=[{"image": ONE}])).people == ""


def test_people_come_by_id_and_by_upload_too(service, client):
    subject = upload(client, shows(1), data={"cut_out": "false"}).json()["id"]
    assert receipt_of(ask(client, subjects=[{"subject_id": subject, "person": True}])).subjects[0].person
    files = [("image[]", ("a.png", shows(1))), ("image[]", ("b.png", shows(1)))]
    told = {"prompt": "two", "subjects": '[{"image": 0, "pose": "left"}, {"image": 1, "person": true}]'}
    answer = client.post(EDITS, data=told | {"num_inference_steps": "4"}, files=files)
    assert [subject.pose for subject in receipt_of(answer).subjects] == ["left", ""]
    assert [len(request.people) for request in service.asked] == [1, 2]


@pytest.mark.parametrize(
    ("subjects", "status", "param", "said"),
    [
        ([{"image": ONE}, {"image": "NONE", "person": True}], 422, "subjects[1].image", "no face found in the picture"),
        ([{"image": "TWO", "pose": "left"}], 422, "subjects[0].image", "2 faces found where one is expected"),
        ([{"image": ONE, "person": True, "box": [0, 0, 1]}], 422, "subjects[0].box[3]", "missing"),
        ([{"image": ONE, "person": True, "box": [0, 0, 1.5, 1]}], 422, "subjects[0].box[2]", "less than or equal to 1"),
        ([{"image": ONE, "person": True, "box": [0.5, 0, 0.5, 1]}], 422, "subjects[0].box", "empty; send left < right"),
        ([{"image": ONE, "person": True}] * 6, 422, "subjects", "6 of them; at most 5 come into one picture"),
        ([{"image": ONE, "expression": "bored"}], 422, "subjects[0].expression", "expressions are afraid, angry"),
        ([{"image": ONE, "pose": "up"}], 422, "subjects[0].pose", "'up' must be one of fully left"),
        ([{"image": ONE, "expresion": "sad"}], 422, "subjects[0].expresion", "did you mean expression?"),
    ],
)
def test_what_is_wrong_is_told(client, subjects, status, param, said):
    named = {"NONE": base64.b64encode(shows(0)).decode(), "TWO": base64.b64encode(shows(2)).decode()}
    subjects = [subject | {"image": named.get(subject["image"], subject["image"])} for subject in subjects]
    answer = ask(client, subjects=subjects)
    assert (answer.status_code, answer.json()["error"]["param"]) == (status, param), answer.text
    assert said in answer.json()["error"]["message"]


def test_a_model_that_draws_no_people_says_so(client):
    answer = ask(client, model="other", subjects=[{"image": ONE, "expression": "sad"}])
    assert answer.status_code == 422
    assert answer.json()["error"] | {"type": ""} == {
        "message": "subjects[0].expression: this model draws no people; leave person, expression and pose out",
        "type": "",
        "param": "subjects[0].expression",
        "code": "no_people",
    }
