"""Finds the faces of creatures with the landmark net alone: a face is where many looks agree.

Windows of several sizes slide over the picture and the net tells landmarks in each. Around a face, windows that are
shifted against each other point at the same pixels; elsewhere what the net says moves with the window. Creatures that
are smaller than a third of the picture's shorter side can be missed.
"""

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import nn

from flexip.encoders import fingerprint
from flexip.faces import Face, FaceLibrary, largest_first, warp
from flexip.images import Rgb, resize
from flexip.pocket import weights_path
from flexip.pocket.face import LANDMARKS
from flexip.pocket.face_nets import EMBEDDING, load_face_net
from flexip.pocket.models import RESOLUTION

_SIDES = (1.0, 0.72, 0.5, 0.36)  # of the windows, in shorter sides of the picture
_STRIDE = 0.25  # of a window's side
_AGREE = 0.08  # mean distance of the landmarks of two looks that agree, in sides of the smaller window
_LEAST_VOTES = 7  # looks that agree on a face
_SEARCHED = 96  # shorter side of the picture that is searched [px]
_EYES, _MOUTH = slice(4, 10), slice(10, 14)  # of LANDMARKS
_DROP = 0.5  # from the eyes' height to the mouth's, in radii of the body
_CROP = 2.3  # side of the crop, in radii of the body: as the nets were trained


def pocket_faces() -> FaceLibrary:
    """The pocket world's landmark and identity nets as a face library."""
    landmarks, identity = (load_face_net(weights_path(), name) for name in ("landmarks", "identity"))

    def find(image: Rgb) -> list[Face]:
        zoom = max(1.0, min(image.shape[:2]) / _SEARCHED)
        height, width = (round(side / zoom) for side in image.shape[:2])
        searched = resize(image, (height, width))
        windows = _windows(height, width)
        points, seen = _look(landmarks, searched, windows)
        return largest_first(
            [
                _face(image, zoom, np.median(points[group], axis=0), float(seen[group].mean()), landmarks, identity)
                for group in _agreeing(points, windows[:, 2])
            ]
        )

    weights = [(f"{i}.{k}", v) for i, net in enumerate((landmarks, identity)) for k, v in net.state_dict().items()]
    mark = fingerprint(weights, f"{_SIDES} {_STRIDE} {_AGREE} {_LEAST_VOTES} {_SEARCHED} {_DROP} {_CROP}")
    return FaceLibrary("pocket", "Apache-2.0", mark, EMBEDDING, len(LANDMARKS), find)


def _face(
    image: Rgb, zoom: float, points: Float[np.ndarray, "14 2"], score: float, landmarks: nn.Module, identity: nn.Module
) -> Face:
    """The face at these landmarks [px of the searched picture], looked at once more in a crop around it."""
    x, y = zoom * points.mean(axis=0)
    radius = zoom * _radius(points)
    side = _CROP * radius
    window = np.array([[x - side / 2, y - side / 2, side]])
    again, _ = _look(landmarks, image, window)
    crop = _crop(image, window[0])
    with torch.inference_mode():
        who = identity(_pixels(crop[None]))[0].numpy()
    box = (float(x - radius), float(y - radius), float(x + radius), float(y + radius))
    return Face(box, score, crop, ((again[0] - window[0, :2]) / side).astype(np.float32), who)


def _windows(height: int, width: int) -> Float[np.ndarray, "W 3"]:
    """x0, y0, side [px] of each."""
    found = []
    for share in _SIDES:
        side = share * min(height, width)
        down, across = (
            np.linspace(0, length - side, max(1, round((length - side) / (_STRIDE * side)) + 1))
            for length in (height, width)
        )
        found += [(x, y, side) for y in down for x in across]
    return np.array(found)


@torch.inference_mode()
def _look(
    net: nn.Module, image: Rgb, windows: Float[np.ndarray, "W 3"]
) -> tuple[Float[np.ndarray, "W 14 2"], Float[np.ndarray, "W 14"]]:
    """Landmarks [px of the picture] in each window, and how surely they are in sight, 0..1."""
    points, logits = net(_pixels(np.stack([_crop(image, window) for window in windows])))
    return points.numpy() * windows[:, None, 2:] + windows[:, None, :2], logits.sigmoid().numpy()


def _agreeing(points: Float[np.ndarray, "W 14 2"], sides: Float[np.ndarray, " W"]) -> Iterator[Bool[np.ndarray, " W"]]:
    """Groups of windows whose looks agree, those of most looks first."""
    apart = np.linalg.norm(points[:, None] - points[None], axis=3).mean(axis=2)
    near = apart < _AGREE * np.minimum(sides[:, None], sides[None])
    middles, free = points.mean(axis=1), np.ones(len(points), bool)
    while True:
        votes = (near & free).sum(axis=1) * free
        best = int(votes.argmax())
        if votes[best] < _LEAST_VOTES:
            return
        group = near[best] & free
        yield group
        agreed = np.median(points[group], axis=0)
        free &= np.linalg.norm(middles - agreed.mean(axis=0), axis=1) > _radius(agreed)


def _radius(points: Float[np.ndarray, "14 2"]) -> float:
    """Half the height of the body [px]; eyes and mouth lie a fixed part of it apart, wherever the creature looks."""
    return max(float(points[_MOUTH, 1].mean() - points[_EYES, 1].mean()) / _DROP, 2.0)


def _crop(image: Rgb, window: Float[np.ndarray, " 3"]) -> UInt8[np.ndarray, "64 64 3"]:
    """The window at the nets' size; the picture's edge repeats where it goes beyond."""
    x0, y0, side = window
    zoom = RESOLUTION / side
    matrix = np.array([[zoom, 0, (zoom - 1) / 2 - zoom * x0], [0, zoom, (zoom - 1) / 2 - zoom * y0]])
    return warp(image, matrix, RESOLUTION)


def _pixels(crops: UInt8[np.ndarray, "B 64 64 3"]) -> torch.Tensor:
    return torch.from_numpy(crops).permute(0, 3, 1, 2).float() / 127.5 - 1
