"""How far the parts of a frame move by themselves until its neighbour, whatever the camera does in the meantime.

Corners are followed from one to the other (Lucas-Kanade). A moving camera moves the whole scene along one map, far
things less than near ones; what a corner does beyond that is its own.
"""

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from jaxtyping import Bool, Float32

from flexip.images import Mask, Rgb

CORNERS = 200  # followed at most
LEAST = 3, 8  # corners that tell whether something moves, and how the camera does
STILL = 0.3  # a corner that moves less rests [px]
RESTING = 0.95  # of the corners: then the whole picture rests
SPREAD = 0.25  # of the frame's longer side: the corners that tell how the camera moves lie so far apart
AROUND = 0.25  # of a subject's box: corners so near to it may be its own
AGREE = 0.7  # corners that are so near to the camera's map follow it [px]
NEARER = 1.15  # things in front of most of the scene outrun it by so much at most

Points = Float32[np.ndarray, "P 2"]  # x, y [px]
Affine = Float32[np.ndarray, "2 3"]


def own_motion(image: Rgb, neighbour: Rgb, masks: Sequence[Mask]) -> list[float] | None:
    """How far what each mask covers is seen to move by itself [px]; three quarters of its corners move no more.

    0 where that cannot be told: too few corners, or a camera whose motion is not clear. None where nothing can tell:
    the picture rests as a whole, or shows less of the scene than of the subjects.
    """
    if not masks:
        return None
    places, ways = _followed(image, neighbour)
    inside = [_at(places, mask) for mask in masks]
    outside = ~np.any([_near(places, mask) for mask in masks], axis=0)
    if outside.sum() < LEAST[0] or (np.linalg.norm(ways, axis=1) < STILL).mean() > RESTING:
        return None
    camera = _camera(places[outside], ways[outside], SPREAD * max(image.shape))
    if (camera is None or camera.any()) and outside.sum() < np.any(inside, axis=0).sum():
        return None
    if camera is None:
        return [0.0] * len(masks)
    own = _beyond(places, ways, camera)
    return [float(np.percentile(own[here], 75)) if here.sum() >= LEAST[0] else 0.0 for here in inside]


def _followed(image: Rgb, neighbour: Rgb) -> tuple[Points, Points]:
    """Corners and how far each went, of those that are found again on the way back."""
    before, after = (cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY) for picture in (image, neighbour))
    corners: Any = cv2.goodFeaturesToTrack(before, CORNERS, 0.01, 4, blockSize=5)
    if corners is None:
        return np.zeros((0, 2), np.float32), np.zeros((0, 2), np.float32)
    options: Any = {"nextPts": None, "winSize": (11, 11), "maxLevel": 3}
    there, found, _ = cv2.calcOpticalFlowPyrLK(before, after, corners, **options)
    back, again, _ = cv2.calcOpticalFlowPyrLK(after, before, there, **options)
    sure = (
        found.ravel().astype(bool) & again.ravel().astype(bool) & (np.linalg.norm(back - corners, axis=2).ravel() < 0.5)
    )
    return corners[sure, 0], (there - corners)[sure, 0]


def _at(places: Points, mask: Mask) -> Bool[np.ndarray, "P"]:
    """Which places are in the mask or at its edge."""
    grown = cv2.dilate(mask.astype(np.uint8), np.ones((3, 3), np.uint8)).astype(bool)
    columns, rows = places.astype(int).T
    return grown[rows, columns]


def _near(places: Points, mask: Mask) -> Bool[np.ndarray, "P"]:
    """Which places may belong to what the mask shows, for masks lose ears and feet: its box and a quarter around."""
    (x0, y0), (x1, y1) = (np.argwhere(mask)[:, ::-1].min(axis=0), np.argwhere(mask)[:, ::-1].max(axis=0))
    dx, dy = AROUND * (x1 - x0 + 1), AROUND * (y1 - y0 + 1)
    return np.all((places >= (x0 - dx, y0 - dy)) & (places <= (x1 + dx, y1 + dy)), axis=1)


def _camera(places: Points, ways: Points, spread: float) -> Affine | None:
    """Place -> how far the camera moves the scene there: the map that most of the scene's corners follow.

    Those that follow it lie `spread` px apart at least, for in one spot they may be one thing.
    """
    if (np.linalg.norm(ways, axis=1) < STILL).mean() > 0.5:
        return np.zeros((2, 3), np.float32)
    if len(places) < LEAST[1]:
        return None
    found, follow = cv2.estimateAffinePartial2D(places, places + ways, ransacReprojThreshold=AGREE)
    if found is None or follow.mean() < 0.4 or np.ptp(places[follow.ravel() > 0], axis=0).max() < spread:
        return None
    return (found - np.eye(2, 3)).astype(np.float32)


def _beyond(places: Points, ways: Points, camera: Affine) -> Float32[np.ndarray, "P"]:
    """What is left of each way when the camera's is taken off, at the depth that explains most of it."""
    scene = places @ camera[:, :2].T + camera[:, 2]
    share = (ways * scene).sum(axis=1) / np.maximum((scene**2).sum(axis=1), 1e-6)
    return np.linalg.norm(ways - np.clip(share, 0, NEARER)[:, None] * scene, axis=1)
