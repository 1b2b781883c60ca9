"""Own motion in scenes of known motion: the camera's, that of things at other depths, and that of a subject."""

import cv2
import numpy as np
import pytest

from pipelines.motion import own_motion

RNG = np.random.default_rng(3)
SCENE = cv2.resize(RNG.integers(0, 255, (30, 60, 3), np.uint8), (480, 240), interpolation=cv2.INTER_CUBIC)
SUBJECT = cv2.resize(RNG.integers(0, 255, (8, 8, 3), np.uint8), (48, 48), interpolation=cv2.INTER_CUBIC)


def picture(pan: float, at: tuple[float, float]) -> np.ndarray:
    """The scene seen by a camera that went `pan` px to the right, and a patch before it."""
    image = cv2.warpAffine(SCENE, np.array([[1, 0, -60.0 - pan], [0, 1, -40.0]]), (200, 150))
    patch, cover = (
        cv2.warpAffine(part, np.array([[1.0, 0, at[0]], [0, 1, at[1]]]), (200, 150))
        for part in (SUBJECT, np.full((48, 48), 255, np.uint8))
    )
    return np.where(cover[..., None] > 127, patch, image)


def mask_at(x: float, y: float) -> np.ndarray:
    mask = np.zeros((150, 200), bool)
    mask[round(y) : round(y) + 48, round(x) : round(x) + 48] = True
    return mask


@pytest.mark.parametrize(
    ("pan", "way", "own"),
    [
        (0.0, (3, 0), 3.0),  # a camera at rest
        (4.0, (-4, 0), 0.0),  # what the camera moves
        (4.0, (-2, 0), 0.0),  # farther away than the rest: it lags behind
        (4.0, (3, 0), 3.0),  # against the camera
        (4.0, (-2, 2), 2.0),  # as something far, but upwards
        (4.0, (-8, 0), 3.4),  # faster than anything near could be
    ],
)
def test_own_motion_is_what_no_camera_explains(pan, way, own):
    before, after = picture(0.0, (70, 50)), picture(pan, (70 + way[0], 50 + way[1]))
    assert own_motion(before, after, [mask_at(70, 50)]) == [pytest.approx(own, abs=0.3)]


def test_a_part_that_moves_counts_and_the_other_subject_does_not():
    before, after = picture(0.0, (20, 50)), picture(0.0, (24, 50))
    moved = own_motion(before, after, [mask_at(20, 50), mask_at(140, 50)])
    assert moved == [pytest.approx(4, abs=0.3), pytest.approx(0, abs=0.3)]


def test_a_picture_at_rest_says_nothing_and_one_that_is_cut_shows_no_motion():
    before = picture(0.0, (70, 50))
    plain = np.full_like(before, 120)
    assert own_motion(before, before, [mask_at(70, 50)]) is None
    assert own_motion(plain, plain, [mask_at(70, 50)]) is None
    other = cv2.GaussianBlur(RNG.integers(0, 255, before.shape, np.uint8), (0, 0), 2)
    assert own_motion(before, other, [mask_at(70, 50)]) in (None, [0.0])
