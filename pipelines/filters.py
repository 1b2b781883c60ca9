"""What is kept, and why not: each filter measures one value of a frame or a subject and judges it."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from flexip.images import Mask, Rgb
from pipelines.overlay import text_share
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


DARK = 26  # a pixel is black below this [grey levels]: ffmpeg blackdetect's 0.1 of the range
COMPARED_SIDE = 128  # longer side at which frames are compared [px]: what changes less is noise


def black(image: Rgb, settings: FilterSettings) -> Verdict:
    """Part of the frame that is black, 0..1: lead-ins, fades, the gap between two clips."""
    value = float((cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) < DARK).mean())
    return Verdict("black", value, "black_frame" if value >= settings.black_max else "")


def frozen(image: Rgb, earlier: Sequence[Rgb], settings: FilterSettings) -> Verdict:
    """Mean absolute difference to the most alike of the earlier frames of the clip, 0..1; 1 when there is none.

    Two equal frames of one clip are one picture shown twice: slides, a stopped camera, a held last frame.
    """
    small = _small(image)
    same_size = [_small(other) for other in earlier if other.shape == image.shape]
    value = min((float(cv2.absdiff(small, other).mean()) / 255 for other in same_size), default=1.0)
    return Verdict("change", value, "frozen" if value < settings.change_min else "")


def text_overlay(image: Rgb, settings: FilterSettings) -> Verdict:
    """Part of the frame that lines of text cover, 0..1 (see overlay.py)."""
    value = text_share(image)
    return Verdict("text", value, "text_overlay" if value > settings.text_max else "")


def aesthetic(score: float, settings: FilterSettings) -> Verdict:
    """Score of an aesthetic head (see aesthetic.py), about 1 ugly .. 10 beautiful."""
    return Verdict("aesthetic", score, "unaesthetic" if score < settings.aesthetic_min else "")


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


def judge_frame(image: Rgb, settings: FilterSettings, earlier: Sequence[Rgb] = ()) -> list[Verdict]:
    """All verdicts on a frame that need no model; `earlier` are the frames of its clip that were kept before it."""
    return [
        black(image, settings),
        brightness(image, settings),
        frozen(image, earlier, settings),
        sharpness(image, settings),
        text_overlay(image, settings),
    ]


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


def _small(image: Rgb) -> Rgb:
    scale = min(1.0, COMPARED_SIDE / max(image.shape[:2]))
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def first_reason(verdicts: Sequence[Verdict]) -> str:
    """The first reason to reject; empty when every filter keeps it."""
    return next((verdict.reason for verdict in verdicts if not verdict.keep), "")
