"""Where a subject is likely to be, as maps of 0..1 per pixel. No learned weights; every map is deterministic."""

from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import Float, UInt8
from scipy.sparse import csr_array
from scipy.sparse.csgraph import dijkstra

from flexip.images import Rgb

Map = Float[np.ndarray, "H W"]
Lab = Float[np.ndarray, "H W 3"]

GRID = 64  # longer side at which geodesic distances are measured [px]: enough for a box, and 10 ms a frame
BORDER_COLOURS = 6  # clusters that describe the colours along the edge of the frame


def salient(rgb: Rgb) -> Map:
    """Saliency of a still: unlike the frame's border in colour, enclosed by edges, and rather in the middle.

    Geodesic distance to the border after Wei et al., "Geodesic Saliency Using Background Priors" (ECCV 2012).
    """
    height, width = rgb.shape[:2]
    scale = GRID / max(height, width)
    small = cv2.resize(rgb, (max(8, round(width * scale)), max(8, round(height * scale))), interpolation=cv2.INTER_AREA)
    lab = to_lab(cv2.bilateralFilter(small, 5, 25, 3))
    colours, spreads, weights = border_colours(lab)
    contrast = _normal(_border_contrast(lab, colours, spreads, weights), 0.5)
    enclosed = _normal(_geodesic(lab, contrast), 3.0)
    combined = (0.5 * contrast + 0.5 * enclosed) * _centre_prior(*lab.shape[:2])
    combined = cv2.GaussianBlur(_normal(combined, 0.4).astype(np.float32), (0, 0), 1.0)
    return _normal(cv2.resize(combined, (width, height), interpolation=cv2.INTER_CUBIC), 0.4)


def moving(rgb: Rgb, neighbour: Rgb) -> tuple[Map, float]:
    """Motion against the camera's own between two near frames, and how far the fastest parts went [px].

    The camera's motion is the affine map that most of the optical flow agrees with.
    """
    before, after = (cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in (rgb, neighbour))
    flow = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_FAST).calc(before, after, None)  # type: ignore[arg-type]
    height, width = before.shape
    y, x = np.mgrid[4 : height - 4 : 8, 4 : width - 4 : 8]
    start = np.stack([x.ravel(), y.ravel()], 1).astype(np.float32)
    camera, _ = cv2.estimateAffine2D(start, start + flow[y.ravel(), x.ravel()], ransacReprojThreshold=0.7)
    if camera is None:
        return np.zeros((height, width), np.float32), 0.0
    yy, xx = np.mgrid[:height, :width].astype(np.float32)
    grid = np.stack([xx, yy, np.ones_like(xx)], -1)
    own = flow - (grid @ camera.T.astype(np.float32) - grid[..., :2])
    speed = cv2.GaussianBlur(np.linalg.norm(own, axis=-1).astype(np.float32), (0, 0), 1.5)
    fastest = float(np.percentile(speed, 98))
    return np.clip(speed / max(fastest, 1e-6), 0, 1), fastest


def against_background(views: Sequence[Rgb]) -> tuple[list[Map], float]:
    """Difference of each frame of one shot to the shot's median picture, and how much the border changes (0..1).

    A border that does not change means a camera that stands still: then the maps show what moves, exactly.
    """
    stack = np.stack(views)
    median = np.median(stack, axis=0).astype(np.uint8)
    background = to_lab(cv2.GaussianBlur(median, (0, 0), 1.0))
    differences = [np.linalg.norm(to_lab(cv2.GaussianBlur(view, (0, 0), 1.0)) - background, axis=-1) for view in views]
    border = border_mask(*stack.shape[1:3])
    change = float(np.mean([np.median(d[border]) for d in differences])) / 100
    return [np.clip(d / 24, 0, 1).astype(np.float32) for d in differences], change


def to_lab(rgb: UInt8[np.ndarray, "H W 3"]) -> Lab:
    """CIE L*a*b*, float32: L 0..100, so that a distance of about 2.3 is just visible."""
    return cv2.cvtColor(rgb.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)


def border_mask(height: int, width: int, fraction: float = 0.05) -> np.ndarray:
    """Boolean (H, W): the band along the frame's edge."""
    band = max(1, round(fraction * min(height, width)))
    mask = np.ones((height, width), bool)
    mask[band:-band, band:-band] = False
    return mask


def border_colours(lab: Lab) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Colours (K, 3) along the border by k-means, their spread (K,) and their share of the border (K,)."""
    pixels = lab[border_mask(*lab.shape[:2])].astype(np.float32)
    count = min(BORDER_COLOURS, len(pixels))
    cv2.setRNGSeed(0)
    criteria = (cv2.TERM_CRITERIA_EPS + cv2.TERM_CRITERIA_MAX_ITER, 20, 0.5)
    _, labels, centres = cv2.kmeans(pixels, count, None, criteria, 2, cv2.KMEANS_PP_CENTERS)  # type: ignore[call-overload]
    labels = labels.ravel()
    share = np.bincount(labels, minlength=count) / len(labels)
    distance = np.linalg.norm(pixels - centres[labels], axis=1)
    spread = np.array([distance[labels == k].mean() if (labels == k).any() else 0.0 for k in range(count)])
    return centres, spread, share


def _border_contrast(lab: Lab, colours: np.ndarray, spreads: np.ndarray, shares: np.ndarray) -> Map:
    """Distance to the nearest border colour, in units of its spread; rare border colours count less as background."""
    distance = np.linalg.norm(lab[:, :, None] - colours[None, None], axis=-1)
    rare = 8.0 * np.exp(-shares / 0.05)  # a subject that touches the edge makes a small cluster there
    return np.clip((distance / (spreads + 6.0) + rare).min(axis=-1), 0, 6)


def _geodesic(lab: Lab, contrast: Map) -> Map:
    """Cheapest way from each pixel to the border, where a step costs the colour edge that it crosses."""
    height, width = lab.shape[:2]
    index = np.arange(height * width).reshape(height, width)
    starts, ends, costs = [], [], []
    for dy, dx in ((0, 1), (1, 0), (1, 1), (1, -1)):
        a = (slice(0, height - dy), slice(max(0, -dx), width - max(0, dx)))
        b = (slice(dy, height), slice(max(0, dx), width + min(0, dx)))
        starts.append(index[a].ravel())
        ends.append(index[b].ravel())
        costs.append(np.linalg.norm(lab[a] - lab[b], axis=-1).ravel())
    outside = height * width
    rim = np.unique(np.concatenate([index[0], index[-1], index[:, 0], index[:, -1]]))
    starts.append(rim)
    ends.append(np.full(len(rim), outside))
    costs.append(15.0 * contrast.ravel()[rim])  # to leave through a border pixel unlike the border is not free
    cost = np.concatenate(costs)
    cost = np.maximum(cost - np.median(cost[: -len(rim)]), 0) + 1e-3  # texture's small steps must not add up
    graph = csr_array((cost, (np.concatenate(starts), np.concatenate(ends))), shape=(outside + 1, outside + 1))
    return dijkstra(graph, directed=False, indices=outside)[:outside].reshape(height, width)


def _centre_prior(height: int, width: int) -> Map:
    y, x = np.linspace(-1, 1, height)[:, None], np.linspace(-1, 1, width)[None]
    return np.exp(-(x**2 + y**2) / (2 * 0.6**2))


def _normal(values: np.ndarray, least: float) -> np.ndarray:
    """Stretched to 0..1, unless the values differ by less than `least`: in an empty picture nothing stands out."""
    low, high = float(values.min()), float(np.percentile(values, 99.5))
    return np.clip((values - low) / max(high - low, least), 0, 1)
