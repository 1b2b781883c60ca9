"""People beside each other are read one by one, as well as single ones."""

import numpy as np
import pytest

from evaluation.people import (
    balanced_motions,
    box_of,
    joined,
    lineup,
    load_people_readings,
    picture_size,
    place_crops,
    read_people,
    save_people,
    scene_of,
)
from evaluation.people_scores import Case, score_people
from flexip.people import check_box
from flexip.pocket import weights_path
from flexip.pocket.captions import roll_call
from flexip.pocket.face_nets import load_face_net
from flexip.pocket.identity import identity
from flexip.pocket.pretrain_oracle import load_oracle
from flexip.pocket.world import render


def test_rendered_answers_are_read_right_and_readings_come_back(pocket_encoders, tmp_path):
    people, cells = 3, 4
    judges = [load_oracle(weights_path(), "residual")]
    source, target = balanced_motions(2, people, cells)
    who = [[identity("test", 3 * group + i) for i in range(people)] for group in range(2)]
    parts = []
    for group in range(2):
        asked = [lineup(who[group], target[group, c], scene_of(group, c)) for c in range(cells)]
        images = np.stack([render(one, picture_size(people)).image for one in asked])
        alone = [
            [lineup([one], motion[None], 0) for one, motion in zip(who[group], m, strict=True)] for m in target[group]
        ]
        sources = np.stack([np.stack([render(one, 64).image for one in cell]) for cell in alone])
        sentences = [roll_call(one) for one in asked]
        net = load_face_net(weights_path(), "identity")
        parts.append(read_people(judges, net, pocket_encoders, sources[None], sentences, images[None]))
    save_people(tmp_path / "readings.npz", joined(parts))
    readings = load_people_readings(tmp_path / "readings.npz")
    scores = score_people(readings, Case(who, source, target))
    for name in ("expression", "pose", "placed", "similarity"):
        assert scores[name].mean() >= 0.8, name
    assert scores["leaked"].mean() <= 0.1
    assert scores["text"].min() > 0.2
    assert np.array_equal(readings.values["pose"][:, 1], parts[1].values["pose"][:, 0])


def test_a_place_is_read_without_its_neighbours():
    motions = np.zeros((3, 2), int)
    whole = render(lineup([identity("test", k) for k in range(3)], motions, 0), picture_size(3)).image
    others = render(lineup([identity("test", k) for k in (7, 1, 8)], motions, 0), picture_size(3)).image
    left, right = whole.copy(), whole.copy()
    left[:, :32], right[:, 64:] = others[:, :32], others[:, 64:]
    for image in (left, right):
        assert np.array_equal(place_crops(image, 3)[1], place_crops(whole, 3)[1])
    alone = render(lineup([identity("test", 0)], motions[:1], 0), 64).image
    assert np.array_equal(place_crops(alone, 1)[0], alone)


def test_boxes_lie_beside_each_other_around_the_bodies():
    assert box_of(0, 1) is None
    boxes = [box_of(i, 3) for i in range(3)]
    frame = render(lineup([identity("test", k) for k in range(3)], np.zeros((3, 2), int), 0), picture_size(3))
    for i, (box, landmarks) in enumerate(zip(boxes, frame.landmarks, strict=True)):
        check_box(box)
        assert box is not None
        x, y = landmarks[:, 0] / 96, landmarks[:, 1] / 64
        assert ((box[0] <= x) & (x <= box[2]) & (box[1] <= y) & (y <= box[3])).all()
        assert box[0] == pytest.approx(i / 3)


def test_a_roll_call_counts_and_says_motions_only_when_asked():
    asked = lineup([identity("test", k) for k in range(3)], np.array([[3, 2], [5, 0], [0, 4]]), scene=3)
    assert roll_call(asked) == "a flat drawing of a creature and a creature and a creature, in the snow"
    assert roll_call(asked, motions=True) == (
        "a flat drawing of a happy creature, looking ahead and a sad creature, looking fully left and an afraid"
        " creature, looking fully right, in the snow"
    )
