"""Pixels of a pair: the reference, cut out on white, and the target, a square of the frame around the subject."""

from collections.abc import Sequence

import cv2
import numpy as np

from flexip.images import Mask, Rgb, pad_square, resize
from pipelines.records import chance
from pipelines.settings import PairSettings


def frame_mask(mask: Mask, height: int, width: int) -> Mask:
    """A mask found at working resolution, at the frame's size."""
    return cv2.resize(mask.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR) > 0.5


def reference_crop(image: Rgb, mask: Mask, box: Sequence[float], enlarge: float, side: int) -> tuple[Rgb, Mask]:
    """The masked subject on white and its mask, square: the box enlarged about its middle, padded, resized to `side`.

    What the enlarged box covers outside the frame is white and not in the mask.
    """
    height, width = image.shape[:2]
    x0, y0, x1, y1 = enlarged(box, enlarge, height, width)
    soft = cv2.GaussianBlur(mask.astype(np.float32), (0, 0), 0.7)[..., None]  # no saw teeth at the outline
    white = (image * soft + 255 * (1 - soft)).round().astype(np.uint8)
    crop = np.full((y1 - y0, x1 - x0, 3), 255, np.uint8)
    part = np.zeros((y1 - y0, x1 - x0), np.uint8)
    inside = (slice(max(y0, 0), min(y1, height)), slice(max(x0, 0), min(x1, width)))
    there = (slice(inside[0].start - y0, inside[0].stop - y0), slice(inside[1].start - x0, inside[1].stop - x0))
    crop[there] = white[inside]
    part[there] = mask[inside]
    square = resize(pad_square(crop), (side, side))
    square_mask = resize(pad_square(np.repeat(part[..., None] * 255, 3, axis=2), fill=0), (side, side))[..., 0] > 127
    return square, square_mask


def cut_out(
    image: Rgb, mask: Mask, box: Sequence[float], key: str, settings: PairSettings, seed: int
) -> tuple[Rgb, Mask]:
    """The reference crop of a subject, enlarged by an amount that follows from its key."""
    enlarge = settings.enlarge_min + (settings.enlarge_max - settings.enlarge_min) * chance(seed, "enlarge", key)
    return reference_crop(image, mask, box, enlarge, settings.reference_side)


def target_square(image: Rgb, box: Sequence[float], scale: float, side: int) -> Rgb:
    """A square of the frame with the subject in it: `scale` times the box where the frame is large enough."""
    height, width = image.shape[:2]
    x0, y0, x1, y1 = enlarged(box, 1.0, height, width)
    length = min(height, width, max(round(scale * max(x1 - x0, y1 - y0)), 16))
    left = min(max(round((x0 + x1 - length) / 2), 0), width - length)
    top = min(max(round((y0 + y1 - length) / 2), 0), height - length)
    return resize(image[top : top + length, left : left + length], (side, side))


def augmented(crop: Rgb, mask: Mask, seed: str) -> tuple[Rgb, Mask]:
    """The reference of an invariant pair: perhaps mirrored, moved and zoomed a little, lighter or darker."""
    side = crop.shape[0]
    zoom = 0.9 + 0.25 * chance(seed, "zoom")
    slack = 0.12 * side
    shift = [(chance(seed, axis) - 0.5) * slack + side * (1 - zoom) / 2 for axis in ("x", "y")]
    matrix = np.array([[zoom, 0, shift[0]], [0, zoom, shift[1]]])
    if chance(seed, "mirror") < 0.5:
        matrix = matrix @ np.array([[-1, 0, side - 1], [0, 1, 0], [0, 0, 1]])
    moved = cv2.warpAffine(crop, matrix, (side, side), flags=cv2.INTER_LINEAR, borderValue=(255, 255, 255))
    moved_mask = cv2.warpAffine(mask.astype(np.uint8), matrix, (side, side), flags=cv2.INTER_NEAREST).astype(bool)
    light = 0.8 + 0.4 * chance(seed, "light")
    lit = np.clip(moved * light, 0, 255).round().astype(np.uint8)
    return np.where(moved_mask[..., None], lit, moved), moved_mask


def pixel_similarity(a: Rgb, b: Rgb) -> float:
    """1 - mean absolute difference of two equal squares, 0..1."""
    return 1.0 - float(np.abs(a.astype(np.int16) - b.astype(np.int16)).mean()) / 255


def enlarged(box: Sequence[float], factor: float, height: int, width: int) -> tuple[int, int, int, int]:
    """A box of fractions, enlarged about its middle, in whole pixels; it may reach outside the frame."""
    x0, x1, y0, y1 = box[0] * width, box[2] * width, box[1] * height, box[3] * height
    dx, dy = (factor - 1) * (x1 - x0) / 2, (factor - 1) * (y1 - y0) / 2
    left, top = round(x0 - dx), round(y0 - dy)
    return left, top, max(left + 1, round(x1 + dx)), max(top + 1, round(y1 + dy))
