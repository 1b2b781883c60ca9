"""Sub-pixel, anti-aliased drawing on a uint8 image: the few shapes that creatures and scenes are made of."""

from dataclasses import dataclass

import cv2
import numpy as np

Colour = tuple[int, int, int] | int
Point = tuple[float, float]

_SHIFT = 4  # binary digits of the fixed-point coordinates that OpenCV takes
_ONE = 1 << _SHIFT


@dataclass(frozen=True)
class Canvas:
    """An image (H, W, 3) or mask (H, W), uint8, drawn upon in place; coordinates are pixels, x to the right, y down."""

    image: np.ndarray

    @property
    def width(self) -> int:
        return self.image.shape[1]

    @property
    def height(self) -> int:
        return self.image.shape[0]

    def polygon(self, points: np.ndarray | list[Point], colour: Colour) -> None:
        """Fills a closed outline (n, 2)."""
        cv2.fillPoly(self.image, [_fixed(points)], colour, cv2.LINE_AA, _SHIFT)

    def stroke(self, points: np.ndarray | list[Point], colour: Colour, thickness: float, closed: bool = False) -> None:
        """Draws a line through points (n, 2)."""
        cv2.polylines(self.image, [_fixed(points)], closed, colour, max(1, round(thickness)), cv2.LINE_AA, _SHIFT)

    def ellipse(
        self, centre: Point, radii: Point, colour: Colour, angle: float = 0.0, arc: Point = (0.0, 360.0)
    ) -> None:
        """Fills an ellipse, or the sector of it between two angles; degrees, clockwise from the positive x axis."""
        centre_fixed, radii_fixed = _pair(centre), _pair((max(radii[0], 0.3), max(radii[1], 0.3)))
        cv2.ellipse(self.image, centre_fixed, radii_fixed, angle, arc[0], arc[1], colour, -1, cv2.LINE_AA, _SHIFT)

    def arc(self, centre: Point, radii: Point, arc: Point, colour: Colour, thickness: float) -> None:
        """Draws part of an ellipse's outline between two angles [degrees]."""
        angles = np.radians(np.linspace(arc[0], arc[1], 13))
        points = np.stack([centre[0] + radii[0] * np.cos(angles), centre[1] + radii[1] * np.sin(angles)], axis=1)
        self.stroke(points, colour, thickness)

    def disc(self, centre: Point, radius: float, colour: Colour) -> None:
        self.ellipse(centre, (radius, radius), colour)

    def rectangle(self, left: float, top: float, right: float, bottom: float, colour: Colour) -> None:
        self.polygon([(left, top), (right, top), (right, bottom), (left, bottom)], colour)

    def gradient(self, top: float, bottom: float, first: Colour, last: Colour) -> None:
        """Fills rows top..bottom with a vertical blend of two colours."""
        low, high = max(0, int(top)), min(self.height, int(np.ceil(bottom)))
        if high <= low:
            return
        share = np.linspace(0.0, 1.0, high - low, dtype=np.float32)[:, None]
        rows = np.asarray(first, np.float32) * (1 - share) + np.asarray(last, np.float32) * share
        self.image[low:high] = rows.astype(np.uint8)[:, None]

    def shade(self, centre: Point, radii: Point, strength: float) -> None:
        """Darkens an ellipse softly: the shadow on the ground."""
        dark = self.image.copy()
        Canvas(dark).ellipse(centre, radii, (20, 20, 45))
        cv2.addWeighted(dark, strength, self.image, 1.0 - strength, 0.0, self.image)


def mix(first: Colour, last: Colour, share: float) -> tuple[int, int, int]:
    """The colour `share` of the way from first to last."""
    blend = np.asarray(first, np.float64) * (1 - share) + np.asarray(last, np.float64) * share
    red, green, blue = (int(value) for value in np.clip(np.rint(blend), 0, 255))
    return red, green, blue


def _fixed(points: np.ndarray | list[Point]) -> np.ndarray:
    return np.rint(np.asarray(points, np.float64) * _ONE).astype(np.int32).reshape(-1, 1, 2)


def _pair(point: Point) -> tuple[int, int]:
    return round(float(point[0]) * _ONE), round(float(point[1]) * _ONE)
