"""The tables of people in pictures: readings with known answers give known scores."""

import numpy as np
import pytest

from evaluation.people import CELLS, PeopleReadings, balanced_motions, scene_of
from evaluation.people_scores import (
    Case,
    Standing,
    assigned_places,
    copying,
    guessing,
    people_table,
    people_verdicts,
    score_people,
)
from flexip.pocket.identity import identity
from flexip.pocket.oracle import IDENTITY

GROUPS, ORACLES = 3, 2


def case_of(people: int, cells: int = 4) -> Case:
    who = [[identity("test", group * people + i) for i in range(people)] for group in range(GROUPS)]
    return Case(who, *balanced_motions(GROUPS, people, cells))


def perfect(case: Case, swapped: bool = False) -> PeopleReadings:
    """Everything right; `swapped`: everybody stands in the next one's place."""
    cells = case.target.shape[1]
    order = np.roll(np.arange(case.people), 1) if swapped else np.arange(case.people)
    values = {name: np.broadcast_to(true, case.target.shape[:3]) for name, true in case.attributes.items()}
    values |= {"expression": case.target[..., 0], "pose": case.target[..., 1]}
    values["subject"] = np.ones_like(values["pose"])
    scenes = np.array([[scene_of(g, c) for c in range(cells)] for g in range(GROUPS)])
    return PeopleReadings(
        {name: np.stack([array[..., order]] * ORACLES).astype(np.int8) for name, array in values.items()},
        np.broadcast_to(np.eye(case.people)[order], (GROUPS, cells, case.people, case.people)).astype(np.float32),
        np.stack([scenes] * ORACLES)[..., None].astype(np.int8),
        np.full((GROUPS, cells), 0.5, np.float32),
    )


@pytest.mark.parametrize("people", [1, 2, 3])
def test_every_source_meets_every_target_once_and_neighbours_differ(people):
    source, target = balanced_motions(CELLS, people)
    for i in range(people):
        pairs = np.concatenate([source[:, :, i], target[:, :, i]], axis=-1).reshape(-1, 4)
        assert len(np.unique(pairs, axis=0)) == CELLS**2
        for j in range(i):
            assert (target[:, :, i] != target[:, :, j]).all()
    everybody = [[identity("test", 0)] * people] * CELLS
    copied = copying(Case(everybody, source, target))
    assert copied["expression"].mean() == pytest.approx(1 / 7)
    assert copied["pose"].mean() == pytest.approx(1 / 5)
    assert not copied["new expression"].any()


def test_perfect_pictures_score_one_and_the_places_do_not_matter_to_faces():
    case = case_of(3)
    for swapped in (False, True):
        scores = score_people(perfect(case, swapped), case)
        for name in ("similarity", "kept", "expression", "new expression", "pose", "new pose", "scene"):
            np.testing.assert_allclose(scores[name], 1, err_msg=name)
        np.testing.assert_allclose(scores["leaked"], 0)
        np.testing.assert_allclose(scores["borrowed"], 0)
        np.testing.assert_allclose(scores["placed"], float(not swapped))
        np.testing.assert_allclose(scores["text"], 0.5)


def test_a_copy_is_right_where_the_source_shows_what_is_asked_for():
    case = case_of(1, CELLS)
    readings = perfect(case)
    for n, name in enumerate(("expression", "pose")):
        readings.values[name][:] = case.source[..., n]
    scores = score_people(readings, case)
    for name in ("expression", "pose"):
        np.testing.assert_allclose(scores[name], copying(case)[name])
        np.testing.assert_allclose(scores[f"new {name}"], 0)
    assert np.isnan(scores["leaked"]).all()
    assert np.isnan(scores["placed"]).all()


def test_what_one_oracle_does_not_see_counts_half():
    case = case_of(1)
    readings = perfect(case)
    readings.values["subject"][0] = 0
    scores = score_people(readings, case)
    for name in ("similarity", "kept", "expression", "pose"):
        np.testing.assert_allclose(scores[name], 0.5, err_msg=name)
    np.testing.assert_allclose(scores["scene"], 1)


def test_one_face_on_both_leaks_to_one_of_them():
    case = case_of(2)
    readings = perfect(case)
    readings.faces[..., :] = [0.9, 0.2]  # in both places, everywhere, the face of the first
    for name, true in case.attributes.items():
        readings.values[name][:] = true[..., :1]
    scores = score_people(readings, case)
    np.testing.assert_allclose(scores["leaked"], 0.5)
    np.testing.assert_allclose(scores["similarity"], 0.55, atol=1e-6)
    np.testing.assert_allclose(scores["borrowed"], 0.5)  # all of the second's, none of the first's
    same = [np.mean([true[g, 0, 0] == true[g, 0, 1] for true in case.attributes.values()]) for g in range(GROUPS)]
    np.testing.assert_allclose(scores["kept"], (1 + np.array(same)) / 2, atol=1e-6)
    readings.values["subject"][:, :, :, 1] = 0  # nobody there whose face could leak
    np.testing.assert_allclose(score_people(readings, case)["leaked"], 0)


def test_an_attribute_of_nobody_is_not_borrowed():
    case = case_of(2)
    readings = perfect(case)
    shapes = case.attributes["shape"]
    strange = next(k for k in range(len(IDENTITY["shape"])) if not (shapes == k).any())
    readings.values["shape"][:] = strange
    np.testing.assert_allclose(score_people(readings, case)["borrowed"], 0)


def test_the_best_assignment_of_three_is_not_the_greedy_one():
    faces = np.array([[0.9, 0.8, 0.0], [0.8, 0.1, 0.0], [0.0, 0.0, 0.3]])[None, None]
    assert assigned_places(faces).ravel().tolist() == [1, 0, 2]


def test_the_table_has_a_line_for_each_and_no_column_that_says_nothing():
    single, double = case_of(1), case_of(2)
    for case, columns in ((single, 9), (double, 12)):
        table = people_table(
            [
                Standing("dynamicid", "DynamicID", score_people(perfect(case), case)),
                Standing("guessing", "guessing", guessing(case)),
            ],
            case.people,
        )
        assert {line.count("|") for line in table} == {columns + 1}
        assert "| DynamicID | 1.000 |" in table[2]
        assert "0.143" in table[3]
    assert "| 0.500 | – |" in table[3]  # leakage of guessing between two


def test_what_was_hoped_for_is_compared_with_the_right_rows():
    single, double = case_of(1), case_of(2)
    whole, leaking = perfect(single), perfect(double)
    leaking.faces[..., :] = [0.9, 0.2]
    worse = perfect(single)
    worse.values["expression"][:] = (single.target[..., 0] + 1) % 7
    ones = {
        "dynamicid": Standing("dynamicid", "", score_people(worse, single)),
        "anchored": Standing("anchored", "", score_people(whole, single)),
    }
    twos = {
        "dynamicid": Standing("dynamicid", "", score_people(perfect(double), double)),
        "plain": Standing("plain", "", score_people(leaking, double)),
    }
    lines = people_verdicts(ones, twos)
    said = ["**reached**" in line for line in lines]
    assert said == [False, True, True, True, True]
    assert "leakage" in lines[-1]
    assert len(people_verdicts(ones, None)) == 4
