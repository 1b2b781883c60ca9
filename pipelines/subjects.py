"""Subjects in the frames of one clip: what detectors see and give, and the default detector.

A detector is any function `(views, settings) -> one list of Detection per view`. The default needs no weights: what
stands out from the border of the frame, and rather what also moves against the camera. Others: detectors.py.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np

from flexip.images import Mask, Rgb, resize
from pipelines.masks import filled, grabcut_evidence
from pipelines.motion import own_motion
from pipelines.saliency import Map, against_background, moving, salient, to_lab
from pipelines.settings import SubjectSettings

STIRRED = 0.25  # of a subject, the tenth that moved most has moved so much: 6 in CIE Lab

Box = tuple[float, float, float, float]  # x0, y0, x1, y1 as fractions of the frame


@dataclass(frozen=True)
class View:
    """A frame as detectors see it, at working resolution, and the frame a moment later if there is one."""

    image: Rgb
    neighbour: Rgb | None = None


@dataclass(frozen=True)
class Detection:
    """One subject in one frame."""

    box: Box
    mask: Mask  # of the view's size
    score: float  # 0..1: the detector's confidence; the default's is the mean evidence inside the mask
    phrase: str = ""  # what it is, in words, from a detector that knows
    moved: float | None = None  # seen to move by itself until the neighbour [px of the view]; None: nothing moves


Detector = Callable[[Sequence[View], SubjectSettings], list[list[Detection]]]


@dataclass(frozen=True)
class Evidence:
    """What speaks for a subject in one view."""

    likely: Map  # 0..1: that a pixel belongs to one
    moved: Map | None = None  # 0..1: unlike the shot without its subjects; None where that cannot be known


def detect(views: Sequence[View], settings: SubjectSettings) -> list[list[Detection]]:
    """The default detector: evidence from motion and saliency, cut out with GrabCut; best subject first."""
    found = evidence(views, settings)
    cut = [_cut_out(view.image, one, settings) for view, one in zip(views, found, strict=True)]
    return [_with_motion(view, subjects) for view, subjects in zip(views, cut, strict=True)]


def evidence(views: Sequence[View], settings: SubjectSettings) -> list[Evidence]:
    """What speaks for subjects in the views of one shot.

    Motion alone would find ghosts (where the subject stands in the shot's median picture) and miss the parts at rest.
    So what stands out decides, and motion weakens what stands out but stays with the background. Where a camera stands
    still and something moves, what never moves is the scene, also in frames that the subject has left.
    """
    still = [salient(view.image) for view in views]
    if len(views) >= 4 and all(view.neighbour is not None for view in views):
        differences, border_change = against_background([view.image for view in views])
        if border_change < settings.static_camera:
            if not any(float(difference.max()) > 0.5 for difference in differences):
                return [Evidence(s) for s in still]
            return [Evidence(_weakened(s, d), d) for s, d in zip(still, differences, strict=True)]
    return [Evidence(_with_flow(view, s)) for view, s in zip(views, still, strict=True)]


def _with_flow(view: View, still: Map) -> Map:
    if view.neighbour is None:
        return still
    motion, pixels = moving(view.image, view.neighbour)
    compact = float((motion > 0.5).mean()) < 0.4  # more than that moving is a failed camera estimate
    return _weakened(still, motion) if pixels > 0.8 and compact else still


def _weakened(still: Map, motion: Map) -> Map:
    """Saliency halved where nothing moves; the peak stays as high as it was."""
    both = still * (0.5 + 0.5 * motion)
    return both / max(float(both.max()), 1e-6) * float(still.max())


def _cut_out(image: Rgb, found: Evidence, settings: SubjectSettings) -> list[Detection]:
    likely = found.likely
    mask = grabcut_evidence(image, likely)
    mask = cv2.morphologyEx(mask, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
    mask = cv2.morphologyEx(mask, cv2.MORPH_CLOSE, np.ones((5, 5), np.uint8))
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    weights = np.bincount(labels.ravel(), likely.ravel(), minlength=count)
    subjects = []
    for k in sorted(range(1, count), key=lambda k: -weights[k]):
        # Crumbs beside a subject are parts that GrabCut lost, not subjects.
        if weights[k] < 0.25 * weights[1:].max() or stats[k, cv2.CC_STAT_AREA] < 0.004 * mask.size:
            continue
        part = filled(labels == k)
        if found.moved is None or np.percentile(found.moved[part], 90) > STIRRED:
            subjects.append(Detection(_box(part), part, float(likely[part].mean())))
    return subjects[: settings.max_per_frame]


def _with_motion(view: View, subjects: list[Detection]) -> list[Detection]:
    if view.neighbour is None:
        return subjects
    moved = own_motion(view.image, view.neighbour, [subject.mask for subject in subjects])
    return [replace(subject, moved=own) for subject, own in zip(subjects, moved, strict=True)] if moved else subjects


def _box(mask: Mask) -> Box:
    columns, rows = np.flatnonzero(mask.any(0)), np.flatnonzero(mask.any(1))
    height, width = mask.shape
    return (
        float(columns[0] / width),
        float(rows[0] / height),
        float((columns[-1] + 1) / width),
        float((rows[-1] + 1) / height),
    )


def working_view(image: Rgb, neighbour: Rgb | None, side: int) -> View:
    """A frame and its neighbour reduced to the working resolution."""
    scale = min(1.0, side / max(image.shape[:2]))
    size = (max(8, round(image.shape[0] * scale)), max(8, round(image.shape[1] * scale)))
    return View(resize(image, size), None if neighbour is None else resize(neighbour, size))


def box_iou(a: Box | Sequence[float], b: Box | Sequence[float]) -> float:
    """Intersection over union of two boxes, 0..1."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    shared = max(0.0, width) * max(0.0, height)
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared
    return shared / union if union > 0 else 0.0


def colour_histogram(image: Rgb, mask: Mask | None = None) -> np.ndarray:
    """Float (384,) summing to 1: coarse Lab colours; lightness is coarser, for it changes with the light."""
    lab = to_lab(image).reshape(-1, 3) if mask is None else to_lab(image)[mask]
    counts, _ = np.histogramdd(lab, bins=(6, 8, 8), range=((0, 100.1), (-90, 90), (-90, 90)))
    return counts.ravel() / max(1.0, counts.sum())


def histogram_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Hellinger distance of two histograms, 0 equal .. 1 disjoint."""
    return float(np.sqrt(max(0.0, 1.0 - np.sqrt(a * b).sum())))
