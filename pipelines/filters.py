"""What is kept, and why not: each filter measures one value of a frame or a subject and judges it."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from flexip.images import Mask, Rgb
from pipelines.settings import FilterSettings


@dataclass(frozen=True)
class Verdict:
    """One filter's judgement. `name` is the value's name, `reason` a short word for counting, empty when kept."""

    name: str
    value: float
    reason: str = ""

    @property
    def keep(self) -> bool:
        """Whether the filter lets it pass."""
        return not self.reason


def brightness(image: Rgb, settings: FilterSettings) -> Verdict:
    """Mean grey, 0 black .. 1 white."""
    value = float(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).mean()) / 255
    reason = "too_dark" if value < settings.brightness_min else "too_bright" if value > settings.brightness_max else ""
    return Verdict("brightness", value, reason)


def sharpness(image: Rgb, settings: FilterSettings) -> Verdict:
    """Variance of the Laplacian [grey levels squared]: small in blurred, empty and faded pictures."""
    value = float(cv2.Laplacian(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.CV_32F).var())
    return Verdict("sharpness", value, "blurred" if value < settings.sharpness_min else "")


def area(box: Sequence[float], settings: FilterSettings) -> Verdict:
    """Area of the box as a fraction of the frame."""
    value = (box[2] - box[0]) * (box[3] - box[1])
    reason = "too_small" if value < settings.area_min else "too_large" if value > settings.area_max else ""
    return Verdict("area", value, reason)


def side(box: Sequence[float], height: int, width: int, settings: FilterSettings) -> Verdict:
    """Shorter side of the box [px]."""
    value = min((box[2] - box[0]) * width, (box[3] - box[1]) * height)
    return Verdict("side", value, "too_few_pixels" if value < settings.side_min else "")


def fill(mask: Mask, box: Sequence[float], settings: FilterSettings) -> Verdict:
    """Part of the box that the mask covers: little in nets, frames and scattered crumbs."""
    height, width = mask.shape
    pixels = (box[2] - box[0]) * width * (box[3] - box[1]) * height
    value = float(np.count_nonzero(mask)) / max(pixels, 1.0)
    return Verdict("fill", value, "scattered" if value < settings.fill_min else "")


def judge_frame(image: Rgb, settings: FilterSettings) -> list[Verdict]:
    """All verdicts on a frame."""
    return [brightness(image, settings), sharpness(image, settings)]


def detail(image: Rgb, mask: Mask, settings: FilterSettings) -> Verdict:
    """Standard deviation of grey inside the mask [grey levels]: next to nothing in a piece of wall, sky or curtain."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    value = float(grey[mask].std()) if mask.any() else 0.0
    return Verdict("detail", value, "featureless" if value < settings.detail_min else "")


def judge_subject(box: Sequence[float], image: Rgb, mask: Mask, settings: FilterSettings) -> list[Verdict]:
    """All verdicts on a subject in a frame; the mask has the frame's size."""
    height, width = mask.shape
    return [
        area(box, settings),
        side(box, height, width, settings),
        fill(mask, box, settings),
        detail(image, mask, settings),
    ]


def first_reason(verdicts: Sequence[Verdict]) -> str:
    """The first reason to reject; empty when every filter keeps it."""
    return next((verdict.reason for verdict in verdicts if not verdict.keep), "")
