"""The pocket benchmark's arithmetic, on readings whose truth is known."""

import re

import numpy as np
import pytest

from evaluation.pocket import EDITS, ceiling, edit_obeyed, identity_kept, truth_of
from flexip.pocket.identity import COLOURS, SHAPES, identity
from flexip.pocket.oracle import ATTRIBUTES, IDENTITY
from flexip.pocket.oracle import truth_of as truth_of_picture

CREATURES = [identity("test", k) for k in range(5)]


@pytest.fixture(scope="module")
def truth():
    return truth_of(CREATURES)


@pytest.fixture
def perfect() -> dict[str, np.ndarray]:
    """What an oracle without mistakes reads from the ceiling: (creatures, edits)."""
    rows = [[truth_of_picture(edit.picture(who)) for edit in EDITS] for who in CREATURES]
    return {name: np.array([[cell[name] for cell in row] for row in rows]) for name in ATTRIBUTES}


def test_prompts_never_say_who():
    names = set(COLOURS) | {shape.replace("-", " ") for shape in SHAPES}
    for edit in EDITS:
        prompt = edit.prompt(CREATURES[0])
        assert prompt == edit.prompt(CREATURES[1])
        assert not set(re.findall(r"[a-z]+", prompt)) & names
    asked = {name for edit in EDITS for name in edit.stated}
    assert asked == {"scene", "expression", "pose", "style"}
    assert EDITS[4].prompt(CREATURES[0]) == "a flat drawing of a sad creature, looking fully right, on a beach"


def test_a_perfect_answer_scores_one(truth, perfect):
    np.testing.assert_allclose(identity_kept(perfect, truth), 1)
    np.testing.assert_allclose(edit_obeyed(perfect, truth), 1)
    assert len(ceiling(CREATURES)) == len(CREATURES) * len(EDITS)


def test_another_creature_in_the_right_picture_keeps_the_edit_and_not_the_identity(truth, perfect):
    swapped = {name: np.roll(values, 1, axis=0) for name, values in perfect.items()}
    np.testing.assert_allclose(edit_obeyed(swapped, truth), 1)
    assert identity_kept(swapped, truth).mean() < 0.5


def test_the_reference_in_another_picture_keeps_the_identity_and_not_the_edit(truth, perfect):
    copied = {name: np.roll(values, 1, axis=1) for name, values in perfect.items()}
    np.testing.assert_allclose(identity_kept(copied, truth), 1)
    assert edit_obeyed(copied, truth).mean() < 0.3


def test_what_does_not_show_does_not_count(truth, perfect):
    hidden = [(name, *where) for name in IDENTITY for where in np.argwhere(~truth.visible[name])]
    assert hidden  # a second colour on a plain creature without ears, an eye from behind, ...
    for name, creature, edit in hidden:
        perfect[name][creature, edit] = (perfect[name][creature, edit] + 1) % len(IDENTITY[name])
    np.testing.assert_allclose(identity_kept(perfect, truth), 1)


def test_further_axes_are_kept(truth, perfect):
    many = {name: np.stack([values, np.roll(values, 1, axis=0)], axis=-1) for name, values in perfect.items()}
    kept = identity_kept(many, truth)
    assert kept.shape == (5, 8, 2)
    np.testing.assert_allclose(kept[..., 0], 1)
    assert kept[..., 1].mean() < 0.5
    assert edit_obeyed(many, truth).shape == (5, 8, 2)
