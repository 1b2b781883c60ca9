"""People in the sampler, beside requests without any; and the checkpoint that they come from."""

import dataclasses
import json
from typing import Any

import numpy as np
import pytest
import torch
from people import crowd, portrait, save_people

from flexip.checkpoint import CONFIG, CheckpointError, load_checkpoint, load_people
from flexip.engine import Engine
from flexip.faces import FaceError, FaceLibrary, open_faces
from flexip.images import Rgb
from flexip.motion import Motion
from flexip.request import Request
from flexip.sampler import Drawing, sample

LEFT, RIGHT = (0.0, 0.0, 0.5, 1.0), (0.5, 0.0, 1.0, 1.0)


@pytest.fixture(scope="module")
def library() -> FaceLibrary:
    return open_faces("pocket")


@pytest.fixture(scope="module")
def engine(untrained_checkpoint, people_checkpoint, library) -> Engine:
    return load_people(load_checkpoint(untrained_checkpoint), people_checkpoint, library)


@pytest.fixture(scope="module")
def requests(engine, reference) -> dict[str, Request]:
    """Nobody, two people in boxes, one beside a subject of FlexIP, and one without guidance."""
    casting = engine.casting
    first = casting.person(portrait(0), box=LEFT)
    second = casting.person(portrait(1), Motion("happy", "left"), box=RIGHT)
    return {
        "nobody": Request("a creature on a beach", reference, 0.7, 0.3, guidance_scale=3.0, steps=5, seed=1),
        "two": Request("two creatures", guidance_scale=3.0, steps=5, seed=2, people=(first, second)),
        "both": Request("a creature", reference, 0.7, 0.3, guidance_scale=3.0, steps=3, seed=3, people=(first,)),
        "free": Request("a sad creature", guidance_scale=1.0, steps=4, seed=4, people=(second,)),
    }


def apart(one: Rgb, other: Rgb) -> int:
    return int(np.abs(one.astype(int) - other.astype(int)).max())


def test_requests_with_and_without_people_join_and_leave_and_each_picture_is_the_one_drawn_alone(engine, requests):
    alone = {key: sample(engine, [request])[0] for key, request in requests.items()}
    drawing, drawn = Drawing(engine), {}
    for begins in (["nobody"], ["two"], ["both", "free"], *[[]] * 4):
        drawing.add({key: requests[key] for key in begins})
        drawn |= drawing.step()
    assert len(drawing) == 0
    assert {key: apart(drawn[key], alone[key]) <= 1 for key in requests} == dict.fromkeys(requests, True)


def test_a_request_without_people_is_the_same_to_the_bit_with_and_without_such_neighbours(engine, requests):
    latents = []
    for neighbour in (requests["two"], dataclasses.replace(requests["two"], people=())):
        drawing = Drawing(engine)
        drawing.add({"ours": requests["nobody"], "theirs": neighbour})
        for _ in range(3):
            drawing.step()
        (batch,) = drawing._batches.values()
        latents.append(batch.latents)
    assert torch.equal(latents[0][0], latents[1][0])
    assert (latents[0][1] - latents[1][1]).abs().max() > 1e-2


def test_a_subject_s_gate_holds_beside_people(engine, requests):
    both = requests["both"]
    closed = dataclasses.replace(both, preservation=0.0, personalization=0.0)
    without = dataclasses.replace(both, reference=None)
    pictures = sample(engine, [both, closed, without])
    assert apart(pictures[1], pictures[2]) == 0  # a closed gate adds nothing
    assert apart(pictures[0], pictures[1]) > 1


def test_a_motion_changes_a_person_and_a_picture_must_show_one_face(engine):
    casting = engine.casting
    face = casting.library.only(portrait(0))
    (plain,) = casting.tokens([face])
    happy, sad = casting.moved(plain, face, [Motion("happy"), Motion("sad", "fully left")])
    assert (happy - sad).abs().max() > 1e-3
    assert torch.equal(casting.person(portrait(0)).tokens[0], plain)
    with pytest.raises(FaceError, match=r"subjects\[0\].image: no face found in the picture of 64x64"):
        casting.person(crowd(0), field="subjects[0].image")
    with pytest.raises(FaceError, match="image: 2 faces found where one is expected"):
        casting.person(crowd(2))


def test_people_need_a_casting_and_are_five_at_most(engine, requests):
    none = dataclasses.replace(engine, casting=None)
    with pytest.raises(ValueError, match="people: this engine casts none; load a DynamicID"):
        sample(none, [requests["two"]])
    with pytest.raises(ValueError, match="people: of another casting"):
        Drawing(none).add({"a": requests["two"]}, engine)
    with pytest.raises(ValueError, match="subjects: 6 people in one picture; at most 5"):
        dataclasses.replace(requests["two"], people=requests["two"].people * 3)


def test_a_checkpoint_gives_back_every_tensor_and_refuses_what_does_not_fit(
    engine, people_checkpoint, untrained_checkpoint, library, pocket_encoders, tmp_path
):
    again: Any = load_people(engine, people_checkpoint, library).casting
    assert again.digest == engine.casting.digest
    assert not again.model.training
    stored = engine.casting.model.stored()
    assert any(name.endswith("running_mean") for name in stored)
    assert all(torch.equal(tensor, stored[name]) for name, tensor in again.model.stored().items())
    with pytest.raises(CheckpointError, match="trained on faces encoder"):
        load_people(engine, people_checkpoint, dataclasses.replace(library, fingerprint="0123456789abcdef"))
    with pytest.raises(CheckpointError, match="holds adapters, no DynamicID"):
        load_people(engine, untrained_checkpoint, library)
    with pytest.raises(CheckpointError, match="method 'dynamicid'; known here: flexip"):
        load_checkpoint(people_checkpoint)
    first = save_people(tmp_path / "first", pocket_encoders, library, None)
    casting: Any = load_people(engine, first, library).casting
    with pytest.raises(ValueError, match="has had its first stage alone"):
        casting.person(portrait(0), Motion("happy"))
    config = json.loads((first / CONFIG).read_text())
    config["architecture"]["faces"]["tokens"] = 9
    (first / CONFIG).write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"of another shape: encoder\.queries\.2"):
        load_people(engine, first, library)
