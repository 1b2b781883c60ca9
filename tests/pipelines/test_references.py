"""A user's picture becomes a reference as curation would have made it."""

import numpy as np

from flexip.pocket.identity import identity
from flexip.pocket.world import Picture, Placement, place, render
from pipelines.references import prepare_reference


def test_the_subject_is_cut_out_on_white():
    kept, missed = [], []
    for k in range(6):
        picture = place([identity("test", k)], np.random.default_rng(k), style="flat")
        frame = render(picture, 128)
        prepared = prepare_reference(frame.image)
        assert prepared.done == "cut out"
        assert prepared.image.shape[0] == prepared.image.shape[1]
        white = np.asarray((prepared.image > 240).all(axis=2))
        assert white[[0, -1]].mean() > 0.9
        kept.append(1 - white.mean())
        body = frame.image[frame.masks[0]].mean(axis=0)
        missed.append(np.abs(prepared.image[~white].mean(axis=0) - body).max())
    assert 0.2 < np.mean(kept) < 0.8
    assert np.mean(missed) < 25  # what is left has the subject's colours, not those of its scene


def test_what_was_cut_out_already_is_only_made_square(reference):
    prepared = prepare_reference(reference[4:60])
    assert prepared.done == "was cut out already"
    assert prepared.image.shape == (64, 64, 3)
    np.testing.assert_array_equal(prepared.image[4:60], reference[4:60])


def test_a_picture_in_which_nothing_stands_out_is_taken_whole():
    gray = np.full((60, 90, 3), 120, np.uint8)
    prepared = prepare_reference(gray)
    assert prepared.done == "nothing found: taken whole"
    assert prepared.image.shape == (90, 90, 3)


def test_the_same_picture_gives_the_same_reference():
    image = render(Picture((Placement(identity("test", 3)),)), 96).image
    np.testing.assert_array_equal(prepare_reference(image).image, prepare_reference(image.copy()).image)
