"""Who may do what at the service: subjects of a key, keys and their rates, and what a log may know."""

import logging
import os
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient
from service import ACCESS, EDITS, GENERATIONS, KEYS, SUBJECTS, ask, receipt_of, stand, upload

from jobs.receipt import sha256
from jobs.serve import ServeConfig
from jobs.serving.access import AccessConfig, Rate
from jobs.serving.subjects import SubjectStore


@pytest.fixture
def guarded(tmp_path) -> Iterator[TestClient]:
    with TestClient(stand(tmp_path / "subjects", ACCESS).app) as client:
        yield client


def bearer(name: str) -> dict[str, str]:
    return {"authorization": f"Bearer {KEYS[name]}"}


def test_a_subject_is_uploaded_once_and_used_by_its_id(client, service, png, picture):
    kept = upload(client, png).json()
    assert kept["sha256"] == sha256(png)
    assert client.get(SUBJECTS).json()["data"] == [kept]
    assert client.get(f"{SUBJECTS}/{kept['id']}").json() == kept
    by_id, by_picture = ask(client, subjects=[{"subject_id": kept["id"]}]), ask(client, subjects=[{"image": picture}])
    assert receipt_of(by_id) == receipt_of(by_picture)
    np.testing.assert_array_equal(service.asked[0].subjects[0].reference, service.asked[1].subjects[0].reference)
    assert (service.references.encoded, service.references.hits) == (1, 1)


def test_a_subject_is_visible_to_its_key_alone(guarded, png):
    kept = upload(guarded, png, headers=bearer("alice")).json()["id"]
    assert guarded.get(SUBJECTS, headers=bearer("bob")).json()["data"] == []
    body = {"prompt": "x", "num_inference_steps": 1, "subjects": [{"subject_id": kept}]}
    answers = [guarded.post(GENERATIONS, json=body, headers=bearer("bob"))]
    answers += [guarded.request(method, f"{SUBJECTS}/{kept}", headers=bearer("bob")) for method in ("GET", "DELETE")]
    found = {(answer.status_code, answer.json()["error"]["code"]) for answer in answers}
    assert found == {(404, "subject_not_found")}
    assert answers[0].json()["error"]["param"] == "subjects[0].subject_id"
    assert guarded.get(f"{SUBJECTS}/{kept}", headers=bearer("alice")).status_code == 200


def test_a_deleted_subject_is_gone_from_every_replica_and_its_cache(service, tmp_path, png):
    other = stand(tmp_path / "subjects")
    with TestClient(service.app) as here, TestClient(other.app) as there:
        kept = upload(here, png).json()["id"]
        for client in (here, there):
            receipt_of(ask(client, subjects=[{"subject_id": kept}]))
        assert other.references.bytes > 0
        assert here.delete(f"{SUBJECTS}/{kept}").json()["deleted"] is True
        assert service.references.bytes == 0
        assert ask(there, subjects=[{"subject_id": kept}]).status_code == 404
        other.store.sweep()
        assert other.references.bytes == 0
        other.references.encode(other.asked[-1].subjects[0].references)  # by a request that was on its way
        other.store.sweep()
        assert other.references.bytes == 0
        assert here.delete(f"{SUBJECTS}/{kept}").status_code == 404


def test_subjects_expire_and_are_deleted_then_but_nothing_else_is(tmp_path, reference):
    now = [1000.0]
    store = SubjectStore(tmp_path, seconds=60, most=2, clock=lambda: now[0])
    first = store.add("alice", reference, "0" * 64, True)
    assert (first.created_at, first.expires_at) == (1000, 1060)
    now[0] = 1030
    second = store.add("alice", reference, "1" * 64, False)
    foreign = tmp_path / "alice" / "notes.txt"
    foreign.write_text("kept")
    os.utime(foreign, (0, 0))
    assert store.all("alice") == [first, second]
    now[0] = 1061
    assert store.all("alice") == [second]
    store.sweep()
    assert sorted(path.name for path in tmp_path.glob("*/*")) == ["notes.txt", f"{second.id}.png"]


def test_a_key_has_room_for_so_many_subjects(client, png):
    assert [upload(client, png).status_code for _ in range(4)] == [200, 200, 200, 403]
    kept = client.get(SUBJECTS).json()["data"]
    client.delete(f"{SUBJECTS}/{kept[0]['id']}")
    assert upload(client, png).status_code == 200


def test_without_its_key_a_client_gets_nothing_but_health(guarded, png):
    for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": f"Basic {KEYS['bob']}"}):
        for method, path in (("POST", GENERATIONS), ("POST", EDITS), ("GET", SUBJECTS), ("GET", "/metrics")):
            answer = guarded.request(method, path, headers=headers)
            assert (answer.status_code, answer.json()["error"]["param"]) == (401, "authorization")
            assert answer.headers["www-authenticate"] == "Bearer"
    assert guarded.get("/healthz").status_code == 200
    assert guarded.get("/v1/models", headers=bearer("bob")).status_code == 200


def test_a_key_that_asks_too_often_is_told_when_to_come_back(tmp_path):
    access = AccessConfig(keys=ACCESS.keys, per_minute=2)
    with TestClient(stand(tmp_path, access).app) as client:
        body = {"prompt": "x", "num_inference_steps": 1}
        answers = [client.post(GENERATIONS, json=body, headers=bearer("alice")) for _ in range(3)]
        assert [answer.status_code for answer in answers] == [200, 200, 429]
        assert 1 <= int(answers[2].headers["retry-after"]) <= 30
        assert client.post(GENERATIONS, json=body, headers=bearer("bob")).status_code == 200


def test_a_rate_fills_again_with_time():
    now = [0.0]
    rate = Rate(per_minute=30, clock=lambda: now[0])
    assert [rate.wait("a") for _ in range(30)] == [0.0] * 30
    assert rate.wait("a") == pytest.approx(2)
    now[0] = 1.5
    assert rate.wait("a") == pytest.approx(0.5)
    now[0] = 2.1
    assert rate.wait("a") == 0
    assert rate.wait("a") > 1.8


@pytest.mark.parametrize(("host", "open_to_all"), [("127.0.0.1", True), ("localhost", True), ("0.0.0.0", False)])
def test_only_a_loopback_service_needs_no_keys(tmp_path, host, open_to_all):
    assert ServeConfig(checkpoint=tmp_path, host=host, access=ACCESS).access.keys
    with nullcontext() if open_to_all else pytest.raises(ValueError, match="give access"):
        ServeConfig(checkpoint=tmp_path, host=host)


def test_nothing_that_a_client_sent_is_logged(client, picture, caplog, tmp_path):
    with caplog.at_level(logging.DEBUG, "ray.serve"):
        assert ask(client, prompt="boom secret").status_code == 500
        ask(client, prompt="a secret", subjects=[{"image": picture}])
        ask(client, prompt="a secret", gate=7)
        client.get(f"{SUBJECTS}/secret")
    logged = "\n".join(record.getMessage() + str(record.exc_text) for record in caplog.records if "ray" in record.name)
    assert "ZeroDivisionError" in logged
    assert "secret" not in logged
    assert not list(Path(tmp_path).rglob("*secret*"))
