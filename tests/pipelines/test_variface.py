"""One person in many expressions and poses: cells are drawn, looked at, counted, and become columns of training."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from flexip.faces import FaceLibrary, open_faces
from flexip.images import decode_image
from flexip.motion import POCKET_WORDING
from flexip.pocket.face import EXPRESSIONS, POSES
from flexip.pocket.identity import identity
from flexip.pocket.world import Picture, Placement, render
from flexip.rows import FaceRow
from flexip.training import Drops, Noising
from flexip.training_faces import build_anchoring_batch, build_reconfiguration_batch, draw_group
from pipelines.variface import Cell, by_person, count_faces, face_columns, face_rows, pocket_cells


@pytest.fixture(scope="module")
def library() -> FaceLibrary:
    return open_faces("pocket")


@pytest.fixture(scope="module")
def cells() -> list[Cell]:
    return list(pocket_cells(identity("train", 3), seed=1, size=64))


@pytest.fixture(scope="module")
def rows(cells, library) -> list[FaceRow]:
    """Two that can be used, an empty scene and a crowd."""
    two = (Placement(identity("train", k), x=0.27 + 0.46 * k, size=0.45) for k in range(2))
    empty, crowd = (render(Picture(tuple(who), "beach"), 64).image for who in ((), two))
    asked = [cells[2], cells[17], replace(cells[3], picture=empty), replace(cells[4], picture=crowd)]
    return face_rows(asked, library, size=64)


def test_everybody_has_every_expression_in_every_pose_in_scenes_of_their_own(cells):
    assert {(cell.expression, cell.pose) for cell in cells} == {(e, p) for e in EXPRESSIONS for p in POSES}
    assert len(cells) == 35
    assert {(cell.person, cell.split) for cell in cells} == {(identity("train", 3).key, "train")}
    again = next(pocket_cells(identity("train", 3), seed=1, size=64))
    other = next(pocket_cells(identity("train", 3), seed=2, size=64))
    np.testing.assert_array_equal(again.picture, cells[0].picture)
    assert np.abs(other.picture.astype(int) - again.picture).mean() > 1
    with pytest.raises(ValueError, match="expression: 'bored' must be one of"):
        replace(cells[0], expression="bored")


def test_each_cell_has_a_row_and_those_without_one_face_say_why(rows, cells, library):
    assert [row.reason for row in rows] == ["", "", "no_face", "several_faces"]
    count = count_faces(rows)
    assert (count.accepted, count.rejected, count.total) == (2, {"no_face": 1, "several_faces": 1}, 4)
    assert len({row.key for row in rows}) == 4
    first = rows[0]
    assert decode_image(first.picture).shape == (64, 64, 3)
    assert len(first.identity) == library.identity_width
    assert len(first.landmarks) == 2 * library.landmarks
    assert first.similarity > 0.5
    stranger = face_rows([cells[2], replace(cells[17], picture=cells[2].picture)], library, 64, least_similarity=1.01)
    assert {row.reason for row in stranger} == {"another_person"}
    with pytest.raises(ValueError, match="cells: of 2 people"):
        face_rows([cells[0], replace(cells[1], person="b")], library, 64)


def test_accepted_rows_become_the_columns_of_both_stages(rows, pocket_encoders):
    columns = face_columns(pocket_encoders, rows[:2], POCKET_WORDING)
    shapes = pocket_encoders.shapes
    assert columns["map"].shape == (2, 1, 96, 96)
    assert {name: columns[name].shape[1:] for name in ("hidden", "text", "vae")} == {
        name: shapes[name] for name in ("hidden", "text", "vae")
    }
    noising = Noising(torch.linspace(0.99, 0.01, 100), "epsilon", 1.0, torch.zeros(shapes["text"]))
    nobody = torch.zeros(shapes["hidden"])
    batch = build_anchoring_batch(columns, nobody, Drops(), noising, np.arange(2))
    assert batch.noisy.shape == (2, 4, 16, 16)
    (person,) = by_person(columns, rows[:2]).values()
    person["tokens"] = np.zeros((2, 4, 128), np.float32)
    second = build_reconfiguration_batch(person, draw_group(0, 0, [2], targets=3), nobody[:5], noising)
    assert second.target.prompts.shape == (3, 128)
    with pytest.raises(ValueError, match="1 of 2 are not accepted"):
        face_columns(pocket_encoders, rows[1:3], POCKET_WORDING)
