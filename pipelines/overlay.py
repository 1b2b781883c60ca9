"""How much of a picture is covered by lines of text: captions, credits, watermarks, screen recordings. No weights.

Letters are compact pieces, lighter or darker than what is near (top-hat and black-hat), of strokes of one width
(Epshtein et al., "Detecting Text in Natural Scenes with Stroke Width Transform", CVPR 2010); text is a row of them.
"""

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from flexip.images import Rgb, resize

SIDE = 512  # longer side at which text is looked for [px]
HEIGHTS = (6, 0.14)  # a letter's least height [px] and its largest, as a part of the picture's height
CONTRAST = 40  # between a letter and what is near it [grey levels]
NEARBY = 0.7  # a letter's contrast as a part of the highest near it
ALONE = 0.7  # part of what stands out in a line's box that its letters are; gravel and grain stand out all over
LETTERS = 5  # that a line has at least


def text_share(image: Rgb) -> float:
    """Area of the boxes of all lines of text as a part of the picture, 0..1."""
    scale = min(1.0, SIDE / max(image.shape[:2]))
    size = (max(8, round(image.shape[0] * scale)), max(8, round(image.shape[1] * scale)))
    grey = cv2.cvtColor(resize(image, size), cv2.COLOR_RGB2GRAY)
    covered = np.zeros(grey.shape, bool)
    for polarity in (cv2.MORPH_TOPHAT, cv2.MORPH_BLACKHAT):
        binary, letters = _letters(grey, polarity)
        for x0, y0, x1, y1, ink in _lines(letters):
            if ink > ALONE * binary[y0:y1, x0:x1].sum():
                covered[y0:y1, x0:x1] = True
    return float(covered.mean())


def _letters(
    grey: UInt8[np.ndarray, "H W"], polarity: int
) -> tuple[UInt8[np.ndarray, "H W"], Float[np.ndarray, "N 5"]]:
    """What is lighter (or darker) than its surroundings, 0/1, and the pieces of it that may be letters.

    Letters: x, y, width, height, area [px].
    """
    height = grey.shape[0]
    reach = max(9, round(height * 0.06) | 1)  # wider than a stroke
    kernel = cv2.getStructuringElement(cv2.MORPH_RECT, (reach, reach))
    relief = cv2.morphologyEx(grey, polarity, kernel)
    # More than half as high as anything near: an outline's or a soft edge's grey must not join letters.
    binary = ((relief > CONTRAST) & (relief > NEARBY * cv2.dilate(relief, kernel).astype(float))).astype(np.uint8)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(binary, connectivity=8)
    w, h, area = stats[:, 2:].T.astype(float)
    fill = area / (w * h)
    keep = (h >= HEIGHTS[0]) & (h <= HEIGHTS[1] * height) & (w >= 2) & (w <= 2.2 * h) & (fill > 0.18) & (fill < 0.92)
    keep &= _one_stroke(binary, labels, count)
    keep[0] = False  # the background
    return binary, stats[keep].astype(float)


def _one_stroke(binary: UInt8[np.ndarray, "H W"], labels: np.ndarray, count: int) -> Bool[np.ndarray, "N"]:
    """Whether each component is drawn with a stroke of about one width."""
    depth = cv2.distanceTransform(binary, cv2.DIST_L2, 3)
    ridge = (depth > 0) & (depth >= cv2.dilate(depth, np.ones((3, 3), np.uint8)))
    inside, where = depth[ridge], labels[ridge]
    number = np.maximum(np.bincount(where, minlength=count), 1)
    mean = np.bincount(where, inside, count) / number
    spread = np.sqrt(np.maximum(np.bincount(where, inside**2, count) / number - mean**2, 0))
    return spread <= 0.45 * mean


def _lines(letters: Float[np.ndarray, "N 5"]) -> list[tuple[int, int, int, int, float]]:
    """Box x0, y0, x1, y1 [px] and area of the letters of rows of like height, side by side on one base."""
    if len(letters) < LETTERS:
        return []
    x, y, w, h, area = letters.T
    tall = np.maximum(h[:, None], h[None])
    gap = np.maximum(x[:, None], x[None]) - np.minimum((x + w)[:, None], (x + w)[None])
    beside = (gap < 1.2 * tall) & (gap > -0.3 * tall)
    level = np.abs((y + h)[:, None] - (y + h)[None]) < 0.15 * tall  # g and p hang lower
    alike = np.minimum(h[:, None], h[None]) > 0.5 * tall
    rows, columns = np.nonzero(beside & level & alike)
    graph = coo_array((np.ones(len(rows)), (rows, columns)), shape=(len(x), len(x)))
    count, line = connected_components(graph, directed=False)
    found = []
    for k in range(count):
        own = line == k
        x0, x1, y0, y1 = x[own].min(), (x + w)[own].max(), y[own].min(), (y + h)[own].max()
        if own.sum() >= LETTERS and x1 - x0 > 2 * (y1 - y0) and _written(letters[own]):
            found.append((int(x0), int(y0), int(x1), int(y1), float(area[own].sum())))
    return found


def _written(letters: Float[np.ndarray, "N 5"]) -> bool:
    """Whether a row is writing: straight and close, of letters that differ in shape. A fence repeats one."""
    x, y, w, h, _ = letters.T
    straight = (y + h).max() - y.min() < 1.7 * np.median(h)
    close = w.sum() > 0.4 * ((x + w).max() - x.min())
    return bool(straight and close and np.std(w / h) > 0.12 * np.mean(w / h))
