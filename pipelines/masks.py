"""Which pixels of a frame a subject covers: one interface, `(image, boxes) -> a mask for each box`.

GrabCut needs no weights and is the default; SAM 2 runs through transformers. Boxes are fractions of the frame.
"""

from collections.abc import Callable, Sequence
from typing import Any

import cv2
import numpy as np

from flexip.images import Mask, Rgb
from pipelines.saliency import Map, border_mask
from pipelines.settings import SubjectSettings

Boxes = Sequence[Sequence[float]]  # x0, y0, x1, y1 as fractions of the frame
Masker = Callable[[Rgb, Boxes], list[Mask]]

CUT_SIDE = 192  # longer side at which GrabCut works [px]: its time grows with the area
UNUSED = (0, 0, 0, 0)  # GrabCut's rectangle; the labels say it all


def open_masker(settings: SubjectSettings, device: str) -> Masker:
    """The masker that the settings name. Raises ModelError (see pretrained.py) when its weights cannot be loaded."""
    return sam2(settings.masks_model, device) if settings.masks == "sam2" else grabcut


def grabcut(image: Rgb, boxes: Boxes) -> list[Mask]:
    """GrabCut from each box: what is outside it is background (Rother et al., SIGGRAPH 2004)."""
    return [_grabcut_box(image, box) for box in boxes]


def grabcut_evidence(image: Rgb, likely: Map) -> np.ndarray:
    """uint8 (H, W) 0/1: GrabCut started from the evidence, 0..1 per pixel."""
    threshold, _ = cv2.threshold((likely * 255).astype(np.uint8), 0, 255, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
    level = max(threshold / 255, 0.15)
    labels = np.where(likely > level, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
    labels[likely > (level + 1) / 2] = cv2.GC_FGD
    labels[likely < 0.35 * level] = cv2.GC_BGD
    labels[border_mask(*likely.shape, fraction=0.01) & (likely < level)] = cv2.GC_BGD
    if not (likely > level).any() or (labels == cv2.GC_FGD).all():
        return np.zeros(likely.shape, np.uint8)
    return _grabcut(image, labels)


def sam2(name: str, device: str) -> Masker:
    """SAM 2 prompted with each box, the best of its masks (Ravi et al., arXiv 2408.00714).

    Raises:
        ModelError: the weights cannot be loaded.
    """
    from pipelines import pretrained

    model = pretrained.load("subjects.masks_model", name, "Sam2Model", device, "Sam2Processor")

    def cut(image: Rgb, boxes: Boxes) -> list[Mask]:
        if not boxes:
            return []
        height, width = image.shape[:2]
        corners = (np.asarray(boxes, float) * [width, height, width, height]).tolist()
        inputs: Any = model.processor(images=image, input_boxes=[corners], return_tensors="pt")
        sizes = inputs.pop("original_sizes")
        outputs = model(inputs, multimask_output=False)
        masks = model.processor.post_process_masks(outputs.pred_masks.cpu(), sizes)[0]
        return [mask[0].numpy().astype(bool) for mask in masks]

    return cut


def within(mask: Mask, box: Sequence[float]) -> Mask:
    """The mask without what lies outside the box."""
    height, width = mask.shape
    columns, rows = slice(*_edges(box[0], box[2], width)), slice(*_edges(box[1], box[3], height))
    kept = np.zeros_like(mask)
    kept[rows, columns] = mask[rows, columns]
    return kept


def filled(mask: np.ndarray) -> Mask:
    """The mask with its holes closed: eyes and patterns belong to the subject."""
    outline, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    return cv2.drawContours(np.zeros(mask.shape, np.uint8), outline, -1, 1, cv2.FILLED).astype(bool)


def _grabcut_box(image: Rgb, box: Sequence[float]) -> Mask:
    height, width = image.shape[:2]
    grown = _grown(box)
    x0, x1 = _edges(grown[0], grown[2], width)
    y0, y1 = _edges(grown[1], grown[3], height)
    scale = min(1.0, CUT_SIDE / max(x1 - x0, y1 - y0))
    size = (max(8, round((x1 - x0) * scale)), max(8, round((y1 - y0) * scale)))  # width, height as OpenCV has them
    small = cv2.resize(image[y0:y1, x0:x1], size, interpolation=cv2.INTER_AREA)
    inner = [
        (box[0] * width - x0) / (x1 - x0),
        (box[1] * height - y0) / (y1 - y0),
        (box[2] * width - x0) / (x1 - x0),
        (box[3] * height - y0) / (y1 - y0),
    ]
    inside = within(np.ones(small.shape[:2], bool), inner)
    inside[border_mask(*inside.shape, fraction=0.01)] = False  # a box as large as the frame leaves no background
    labels = np.where(inside, cv2.GC_PR_FGD, cv2.GC_BGD).astype(np.uint8)
    mask = np.zeros((height, width), bool)
    if inside.any():
        cut = filled(_opened(_grabcut(small, labels))).astype(np.uint8)
        mask[y0:y1, x0:x1] = cv2.resize(cut, (x1 - x0, y1 - y0), interpolation=cv2.INTER_NEAREST) > 0
    return within(mask, box)  # a pixel of a shrunk picture may reach over the edge


def _grabcut(image: Rgb, labels: np.ndarray) -> np.ndarray:
    cv2.setRNGSeed(0)  # GrabCut draws its first colour clusters at random
    cv2.grabCut(image[..., ::-1].copy(), labels, UNUSED, np.zeros((1, 65)), np.zeros((1, 65)), 3, cv2.GC_INIT_WITH_MASK)
    return np.isin(labels, (cv2.GC_FGD, cv2.GC_PR_FGD)).astype(np.uint8)


def _opened(mask: np.ndarray) -> np.ndarray:
    return cv2.morphologyEx(mask, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))


def _grown(box: Sequence[float]) -> list[float]:
    """The box with half its size around it: background to learn its colours from."""
    dx, dy = 0.25 * (box[2] - box[0]), 0.25 * (box[3] - box[1])
    return [box[0] - dx, box[1] - dy, box[2] + dx, box[3] + dy]


def _edges(low: float, high: float, size: int) -> tuple[int, int]:
    """Whole pixels of an interval of fractions, inside the frame and at least one wide."""
    start = min(max(round(low * size), 0), size - 1)
    return start, min(max(round(high * size), start + 1), size)
