"""Four ways to show a drawn picture: as it is, as a pencil sketch, at night, in big pixels."""

import cv2
import numpy as np

STYLES = ("flat", "sketch", "night", "pixel")


def apply_style(image: np.ndarray, style: str, lights: list[tuple[float, float, float]]) -> np.ndarray:
    """The picture (H, W, 3) uint8 in a style; `lights` are x, y, radius [px] of what glows at night."""
    if style == "sketch":
        return _sketch(image)
    if style == "night":
        return _night(image, lights)
    if style == "pixel":
        return _pixel(image)
    return image


def _sketch(image: np.ndarray) -> np.ndarray:
    """Pencil lines where the colour changes, pale colour in between, on paper."""
    width = 3 if min(image.shape[:2]) < 300 else 5
    kernel = np.ones((width, width), np.uint8)
    edges = cv2.morphologyEx(image, cv2.MORPH_GRADIENT, kernel).max(axis=2)
    line = np.clip(edges.astype(np.float32) * (1 / 130.0) - 0.3, 0.0, 1.0)[..., None]
    gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None].astype(np.float32)
    pale = np.array([251, 247, 236], np.float32) * 0.42 + 0.58 * (1.25 * image - 0.25 * gray)
    return np.clip(pale * (1 - line) + np.array([62, 58, 74], np.float32) * line, 0, 255).astype(np.uint8)


def _night(image: np.ndarray, lights: list[tuple[float, float, float]]) -> np.ndarray:
    """Blue dark, and a warm pool of light around each creature."""
    height, width = image.shape[:2]
    y, x = np.ogrid[:height, :width]
    glow = np.zeros((height, width), np.float32)
    for centre_x, centre_y, radius in lights:
        distance = ((x - centre_x) ** 2 + (y - centre_y) ** 2) * (1 / (1.35 * radius) ** 2)
        np.maximum(glow, np.exp(-distance.astype(np.float32)), out=glow)
    dark, lit = np.array([0.26, 0.3, 0.52], np.float32), np.array([1.02, 0.92, 0.8], np.float32)
    return np.clip(image * (dark + glow[..., None] * (lit - dark)), 0, 255).astype(np.uint8)


def _pixel(image: np.ndarray) -> np.ndarray:
    """32 blocks on the shorter side, six levels of each colour."""
    height, width = image.shape[:2]
    block = max(1, min(height, width) // 32)
    small = cv2.resize(image, (-(-width // block), -(-height // block)), interpolation=cv2.INTER_AREA)
    levels = (np.rint(small.astype(np.float32) * (7 / 255)) * (255 / 7)).astype(np.uint8)
    return np.ascontiguousarray(np.repeat(np.repeat(levels, block, 0), block, 1)[:height, :width])
