"""Faces of the pocket world are told apart, and what they show is read."""

import numpy as np
import pytest

from evaluation.faces import Faces, library_faces, pocket_faces, score_faces
from evaluation.pocket import Edit
from flexip.faces import Face, FaceLibrary
from flexip.pocket.identity import identity
from flexip.pocket.world import Picture, render


def test_a_creature_is_itself_and_shows_what_was_asked():
    reader = pocket_faces()
    people = [identity("test", k) for k in range(4)]
    edits = (Edit("snow", "happy"), Edit("forest", "sad", "left"))
    first, second = ([render(edit.picture(who), 64).image for who in people] for edit in edits)
    wanted = [faces.embeddings for faces in reader.read(first)]
    found = reader.read([*second, render(Picture((), "snow"), 64).image])
    scores = [score_faces(f, w, ["sad"], ["left"]) for f, w in zip(found, wanted, strict=False)]
    strangers = [score_faces(f, wanted[0], ["happy"], [None]) for f in found[1:4]]
    assert np.mean([score.similarity for score in scores]) > np.mean([score.similarity for score in strangers]) + 0.3
    assert np.mean([score.expression for score in scores]) >= 0.75
    assert np.mean([score.pose for score in scores]) >= 0.75
    assert np.isnan(strangers[0].pose)
    nobody = score_faces(found[4], wanted[0], ["happy"], ["front"])
    assert (nobody.similarity, nobody.detected, nobody.expression, nobody.pose) == (0, 0, 0, 0)


def test_two_people_are_matched_before_their_expressions_are_compared():
    found = Faces(np.array([[0.0, 1.0], [1.0, 0.0]]), ("sad", "happy"), ("left", "front"))
    score = score_faces(found, np.eye(2), ["happy", "happy"], [None, "left"])
    assert (score.similarity, score.detected, score.expression, score.pose) == pytest.approx((1, 1, 0.5, 1))


def test_a_face_library_tells_identities_alone():
    """Faces that a library finds become rows to assign; a picture without one has none."""
    nobody, somebody = np.zeros((8, 8, 3), np.uint8), np.ones((8, 8, 3), np.uint8)
    one = Face((0, 0, 8, 8), 1.0, somebody, np.zeros((5, 2)), np.array([0.6, 0.8]))
    library = FaceLibrary("opencv", "", "00ff", 2, 5, lambda image: [one, one] if image.any() else [])
    reader = library_faces(library)
    none, two = reader.read([nobody, somebody])
    assert (none.embeddings.shape, two.embeddings.shape) == ((0, 2), (2, 2))
    assert (reader.weights, reader.tells_motion, two.poses) == ("00ff", False, (None, None))
    score = score_faces(two, np.array([[0.8, 0.6]]), [None], [None])
    assert (score.similarity, score.detected) == (pytest.approx(0.96), 1)
    assert np.isnan([score.expression, score.pose]).all()


def test_faces_are_kept_as_numbers_and_come_back():
    for faces in (
        Faces(np.array([[0.0, 1.0], [0.5, -1.0]], np.float32), ("sad", "happy"), ("left", "front")),
        Faces(np.zeros((0, 2), np.float32), (), ()),
        Faces(np.ones((1, 2), np.float32), (None,), (None,)),
    ):
        again = Faces.unpacked(faces.packed)
        np.testing.assert_array_equal(again.embeddings, faces.embeddings, strict=True)
        assert (again.expressions, again.poses) == (faces.expressions, faces.poses)
