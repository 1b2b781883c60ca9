"""The oracles' side that needs no training: what they are asked, what counts as visible, how pictures are spoilt."""

import dataclasses

import numpy as np
import pytest
import torch

from flexip.pocket.identity import identity
from flexip.pocket.oracle import ATTRIBUTES, NEEDS_CREATURE, ORACLES, build_oracle, read, truth_of, visible
from flexip.pocket.pretrain_oracle import mirror, smear, spoil
from flexip.pocket.world import Picture, Placement, random_picture


def picture(**changes: object) -> Picture:
    who = dataclasses.replace(
        identity("train", 0),
        colour="red",
        second="blue",
        pattern="striped",
        top="horns",
        eyes="round eyes",
        mark="no mark",
    )
    placed = Placement(who, size=0.6)
    return Picture((dataclasses.replace(placed, **changes),))  # pyright: ignore[reportArgumentType]


def test_the_truth_names_every_attribute_of_the_foremost_creature() -> None:
    shown = picture(expression="sad", yaw=-0.5, accessory="a scarf", action="waving")
    found = {name: ATTRIBUTES[name][index] for name, index in truth_of(shown).items()}
    assert found["subject"] == "creature"
    assert (found["colour"], found["second"], found["top"]) == ("red", "blue", "horns")
    assert (found["expression"], found["pose"]) == ("sad", "left")
    assert (found["accessory"], found["action"]) == ("a scarf", "waving")
    empty = truth_of(Picture((), scene="snow"))
    assert {name for name, index in empty.items() if index < 0} == set(NEEDS_CREATURE)
    assert ATTRIBUTES["subject"][empty["subject"]] == "nothing"


def test_what_cannot_be_seen_does_not_count_as_visible() -> None:
    assert visible(picture()) >= {"shape", "colour", "second", "pattern", "top", "eyes", "expression", "pose"}
    bare = picture(identity=dataclasses.replace(picture().creatures[0].identity, pattern="plain", top="no ears"))
    assert "second" not in visible(bare)
    hidden = dataclasses.replace(picture(), creatures=(*picture(x=3.0).creatures,))
    assert visible(hidden) == set()


@pytest.mark.parametrize("name", ORACLES)
def test_an_oracle_gives_probabilities_of_every_attribute(name) -> None:
    reading = read(build_oracle(name).eval(), torch.zeros(3, 3, 64, 64))
    assert set(reading.probabilities) == set(ATTRIBUTES)
    for attribute, values in ATTRIBUTES.items():
        p = reading.probabilities[attribute]
        assert p.shape == (3, len(values))
        torch.testing.assert_close(p.sum(dim=1), torch.ones(3))
        assert set(reading.values(attribute)) <= set(values)


def test_the_two_oracles_are_no_copies_of_each_other() -> None:
    kinds = [{type(module).__name__ for module in build_oracle(name).modules()} for name in ORACLES]
    assert "BasicBlock" in kinds[0] - kinds[1]


def test_spoiling_keeps_range_and_place_and_repeats_with_its_seed() -> None:
    images = torch.rand(4, 3, 64, 64) * 2 - 1
    first, again = (spoil(images, np.random.default_rng(3)) for _ in range(2))
    assert torch.equal(first, again)
    assert first.shape == images.shape
    assert not torch.equal(first, images)


def test_smeared_pictures_keep_their_colours_and_lose_every_label_but_one() -> None:
    truth = truth_of(random_picture(np.random.default_rng(0), creatures=1))
    labels = np.array([list(truth.values())] * 2)
    images = torch.rand(2, 3, 64, 64) * 2 - 1
    spoilt, changed = smear(images, labels, np.array([False, True]), np.random.default_rng(0))
    assert torch.equal(spoilt[0], images[0])
    assert (changed[0] == labels[0]).all()
    assert changed[1].tolist() == [0] + [-1] * (len(ATTRIBUTES) - 1)
    torch.testing.assert_close(spoilt[1].mean(dim=(1, 2)), images[1].mean(dim=(1, 2)), atol=0.05, rtol=0.0)


def test_a_mirrored_picture_looks_the_other_way_and_is_the_same_in_all_else() -> None:
    truth = truth_of(picture(yaw=-0.5))
    empty = truth_of(Picture(()))
    labels = np.array([list(row.values()) for row in (truth, truth, empty)])
    images = torch.rand(3, 3, 64, 64)
    mirrored, changed = mirror(images, labels, np.array([False, True, True]))
    assert torch.equal(mirrored[0], images[0])
    assert torch.equal(mirrored[1], images[1].flip(2))
    pose = list(ATTRIBUTES).index("pose")
    assert [ATTRIBUTES["pose"][value] for value in changed[:2, pose]] == ["left", "right"]
    assert (np.delete(changed, pose, axis=1) == np.delete(labels, pose, axis=1)).all()
    assert (changed[2] == labels[2]).all()


@pytest.mark.parametrize("name", ORACLES)
def test_a_picture_and_its_mirror_image_are_read_alike(name) -> None:
    oracle, images = build_oracle(name).eval(), torch.rand(2, 3, 64, 64) * 2 - 1
    here, there = read(oracle, images).probabilities, read(oracle, images.flip(-1)).probabilities
    for attribute in ATTRIBUTES:
        expected = here[attribute].flip(1) if attribute == "pose" else here[attribute]
        torch.testing.assert_close(there[attribute], expected)
