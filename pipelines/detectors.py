"""Detectors behind one interface: `(views, settings) -> one list of Detection per view`, best subject first.

A finder says where (`Found`), a masker which pixels (see masks.py); `open_detector` joins the two that the settings
name. Weights are loaded when a detector is opened, once per process.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import cv2
import numpy as np

from flexip.images import Rgb
from flexip.yunet import load_yunet
from pipelines import subjects
from pipelines.masks import Masker, open_masker, within
from pipelines.pretrained import ModelError
from pipelines.settings import SubjectSettings
from pipelines.subjects import Box, Detection, Detector, View


@dataclass(frozen=True)
class Found:
    """Where a subject is, still without its mask."""

    box: Box
    score: float  # 0..1
    phrase: str = ""  # what it is, in words


Finder = Callable[[Sequence[View], SubjectSettings], list[list[Found]]]


def open_detector(settings: SubjectSettings, device: str = "cpu") -> Detector:
    """The detector that the settings name, with its masker.

    Raises:
        ModelError: weights cannot be loaded.
    """
    if settings.detector == "motion" and settings.masks == "grabcut":
        return subjects.detect  # cuts out from its evidence, which says more than a box
    return masked(_open_finder(settings, device), open_masker(settings, device))


def _open_finder(settings: SubjectSettings, device: str) -> Finder:
    if settings.detector in ("owlv2", "grounding_dino"):
        from pipelines.open_vocabulary import open_finder

        return open_finder(settings, device)
    if settings.detector == "yunet":
        return yunet(settings.detector_model)
    return {"motion": motion, "haar": haar(), "hog": hog()}[settings.detector]


def masked(find: Finder, cut: Masker) -> Detector:
    """A detector from a finder and a masker; of boxes that overlap the best one stays."""

    def detect(views: Sequence[View], settings: SubjectSettings) -> list[list[Detection]]:
        result = []
        for view, found in zip(views, find(views, settings), strict=True):
            best = distinct(found, settings.overlap_max)[: settings.max_per_frame]
            masks = cut(view.image, [one.box for one in best])
            result.append(
                [Detection(f.box, within(m, f.box), f.score, f.phrase) for f, m in zip(best, masks, strict=True)]
            )
        return result

    return detect


def distinct(found: Sequence[Found], overlap_max: float) -> list[Found]:
    """Non-maximum suppression, best first: no two left overlap (IoU) more than `overlap_max`."""
    boxes = [(f.box[0], f.box[1], f.box[2] - f.box[0], f.box[3] - f.box[1]) for f in found]
    return [found[i] for i in np.ravel(cv2.dnn.NMSBoxes(boxes, [f.score for f in found], 0.0, overlap_max)).astype(int)]


def motion(views: Sequence[View], settings: SubjectSettings) -> list[list[Found]]:
    """What the default detector finds, for another masker to cut out."""
    return [[Found(d.box, d.score) for d in found] for found in subjects.detect(views, settings)]


def haar() -> Finder:
    """Frontal faces by OpenCV's bundled cascade (Viola and Jones, CVPR 2001)."""
    cascade = cv2.CascadeClassifier(str(Path(cast(Any, cv2).data.haarcascades) / "haarcascade_frontalface_default.xml"))

    def find(views: Sequence[View], settings: SubjectSettings) -> list[list[Found]]:
        result = []
        for view in views:
            grey = cv2.equalizeHist(cv2.cvtColor(view.image, cv2.COLOR_RGB2GRAY))
            least = max(24, min(grey.shape) // 12)  # the cascade was trained on 24 px
            boxes, _, weights = cascade.detectMultiScale3(
                grey, scaleFactor=1.1, minNeighbors=5, minSize=(least, least), outputRejectLevels=True
            )
            # The last stage's sum has no upper bound; 5 is that of a plain frontal face.
            scores = [weight / (weight + 5) if weight > 0 else 0.0 for weight in np.ravel(weights)]
            result.append(_found(boxes, scores, view.image, settings.least_score, "face"))
        return result

    return find


def hog() -> Finder:
    """Standing people by OpenCV's bundled linear SVM on gradients (Dalal and Triggs, CVPR 2005)."""
    descriptor = cv2.HOGDescriptor()
    descriptor.setSVMDetector(cv2.HOGDescriptor.getDefaultPeopleDetector())  # type: ignore[arg-type]
    least = (128, 64)  # the window that it was trained on: height, width

    def find(views: Sequence[View], settings: SubjectSettings) -> list[list[Found]]:
        result = []
        for view in views:
            if any(side < window for side, window in zip(view.image.shape, least, strict=False)):
                result.append([])
                continue
            boxes, weights = descriptor.detectMultiScale(view.image[..., ::-1].copy(), winStride=(8, 8), scale=1.05)
            scores = [1 / (1 + math.exp(-weight)) for weight in np.ravel(weights)]  # distance to the SVM's plane
            result.append(_found(boxes, scores, view.image, settings.least_score, "person"))
        return result

    return find


def yunet(path: str) -> Finder:
    """Faces by YuNet, see flexip.yunet. Raises ModelError: there is no such file, or it is no YuNet."""
    try:
        look = load_yunet(path)
    except (OSError, ValueError) as error:
        raise ModelError(f"subjects.detector_model = {path!r}: {error}") from error

    def find(views: Sequence[View], settings: SubjectSettings) -> list[list[Found]]:
        result = []
        for view in views:
            rows = look(view.image, settings.least_score)
            result.append(_found(rows[:, :4], rows[:, 14].tolist(), view.image, settings.least_score, "face"))
        return result

    return find


def _found(boxes: Any, scores: Sequence[float], image: Rgb, least: float, phrase: str) -> list[Found]:
    """Boxes of x, y, width, height [px], as fractions inside the frame."""
    height, width = image.shape[:2]
    corners = [(x, y, x + w, y + h) for x, y, w, h in np.asarray(boxes, float).reshape(-1, 4)]
    pairs = zip((inside(box, height, width) for box in corners), scores, strict=True)
    return [Found(box, float(score), phrase) for box, score in pairs if box and score >= least]


def inside(corners: Sequence[float], height: int, width: int) -> Box | None:
    """A box of x0, y0, x1, y1 [px] as fractions, clipped to the frame; None when nothing of it is left."""
    x0, x1 = (min(max(float(x) / width, 0.0), 1.0) for x in corners[0::2])
    y0, y1 = (min(max(float(y) / height, 0.0), 1.0) for y in corners[1::2])
    return (x0, y0, x1, y1) if x1 > x0 and y1 > y0 else None
