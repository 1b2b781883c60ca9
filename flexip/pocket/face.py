"""Draws a face that shows an expression and a pose: features sit on a ball that turns with the yaw."""

import numpy as np

from flexip.pocket.canvas import Canvas, Point, mix
from flexip.pocket.identity import Identity

EXPRESSIONS = ("afraid", "angry", "disgusted", "happy", "neutral", "sad", "surprised")
POSES = {"fully left": -1.0, "left": -0.5, "front": 0.0, "right": 0.5, "fully right": 1.0}  # yaw
LANDMARKS = (  # left as the viewer sees it; a creature with one eye has its points twice
    "left brow outer", "left brow inner", "right brow inner", "right brow outer",
    "left eye", "left eye top", "left eye bottom", "right eye", "right eye top", "right eye bottom",
    "mouth left", "mouth top", "mouth right", "mouth bottom",
)  # fmt: skip

_INK = (38, 34, 52)
_WHITE = (255, 255, 255)
_CREAM = (255, 240, 200)
_MOUTH = (122, 32, 52)
_TONGUE = (244, 120, 138)
_TEAR = (96, 190, 250)
_WIDE = {"surprised": 1.2, "afraid": 1.15, "disgusted": 0.95}  # eyes that open, or close, with the expression
_TURN = 56.0  # degrees of a full pose
_LOW_FACES = {"triangular": 0.3, "drop-shaped": 0.22, "egg-shaped": 0.05}  # how far below the centre, in radii
_BROW_LIFTS = {"surprised": 1.75, "afraid": 1.5, "happy": 1.5, "sad": 1.25, "angry": 0.95}  # eye half-heights
_REST = 1.25  # where the brow of a face that shows none would be
_MOUTHS: dict[str, tuple[Point, Point, Point, Point]] = {  # left, top, right, bottom: half-widths, body radii
    "happy": ((-1.1, -0.06), (0.0, -0.06), (1.1, -0.06), (0.0, 0.3)),
    "sad": ((-0.87, 0.18), (0.0, 0.0), (0.87, 0.18), (0.0, 0.02)),
    "angry": ((-1.0, 0.2), (0.0, 0.04), (1.0, 0.2), (0.0, 0.06)),
    "surprised": ((-0.62, 0.14), (0.0, -0.13), (0.62, 0.14), (0.0, 0.41)),
    "afraid": ((-1.05, 0.11), (0.0, -0.05), (1.05, 0.11), (0.0, 0.27)),
    "disgusted": ((-1.0, 0.1), (-0.3, 0.0), (1.0, 0.08), (0.35, 0.38)),
    "neutral": ((-0.8, 0.08), (0.0, 0.08), (0.8, 0.08), (0.0, 0.1)),
}
_NARROW_FACES = {"triangular": 0.8, "star-shaped": 0.86, "drop-shaped": 0.92, "egg-shaped": 0.95}


def face_project(
    who: Identity, yaw: float, centre: Point, radius: float, degrees: float, down: float
) -> tuple[Point, float]:
    """Pixel position of a face point `degrees` to the side and `down` radii below the face's middle, and its squeeze.

    The squeeze is the cosine of the angle at which the viewer sees that point: 1 frontal, 0 or less out of sight.
    """
    angle = np.radians(degrees + yaw * _TURN)
    reach = 0.86 * radius * who.width * _NARROW_FACES.get(who.shape, 1.0)
    x = centre[0] + reach * float(np.sin(angle))
    y = centre[1] + (down + _LOW_FACES.get(who.shape, -0.04)) * radius
    return (x, y), float(np.cos(angle))


def draw_face(
    paint: Canvas, who: Identity, expression: str, yaw: float, centre: Point, radius: float, colours: dict
) -> np.ndarray:
    """Draws eyes, brows, mouth and marks; returns landmarks (14, 3): x [px], y [px], visible (0 or 1)."""

    def project(degrees: float, down: float) -> tuple[Point, float]:
        return face_project(who, yaw, centre, radius, degrees, down)

    if who.mark == "rosy cheeks":
        for side in (-1, 1):
            at, squeeze = project(42.0 * side, 0.2)
            paint.ellipse(at, (0.19 * radius * max(squeeze, 0.0), 0.14 * radius), (250, 128, 140))
    spread = 25.0 * who.eye_distance
    sides = (0,) if who.eyes == "one eye" else (-1, 1)
    eyes = [project(spread * side, -0.16) for side in sides]
    for side, (at, squeeze) in zip(sides, eyes, strict=True):
        if squeeze > 0.12:
            _draw_eye(paint, who, expression, yaw, at, squeeze, radius, side, colours)
    if who.mark == "a forehead spot":
        at, squeeze = project(0.0, -0.66)
        for size, ink in ((0.23, colours["dark"]), (0.17, _CREAM)):
            paint.ellipse(at, (size * radius * max(squeeze, 0.1), size * radius), ink)
    mouth, squeeze = project(0.0, 0.3)
    half = 0.36 * radius * max(squeeze, 0.45)
    _draw_mouth(paint, expression, mouth, half, radius)
    left, right = (_eye_landmarks(who, expression, eyes[index], sides[index], radius) for index in (0, -1))
    lips = [(mouth[0] + x * half, mouth[1] + y * radius, float(squeeze > 0.12)) for x, y in _MOUTHS[expression]]
    return np.array([*left[:2], *right[:2], *left[2:], *right[2:], *lips], np.float32)


def _eye_landmarks(
    who: Identity, expression: str, eye: tuple[Point, float], side: int, radius: float
) -> list[tuple[float, float, float]]:
    """Both ends of the brow from left to right, then the eye's middle, top and bottom; each x, y, visible."""
    (x, y), squeeze = eye
    rx, ry = _eye_radii(who, expression, squeeze, radius)
    points = [*_brow_ends((x, y), rx, ry, _slope(expression, side), expression), (x, y), (x, y - ry), (x, y + ry)]
    return [(px, py, float(squeeze > 0.12)) for px, py in points]


def _eye_radii(who: Identity, expression: str, squeeze: float, radius: float) -> tuple[float, float]:
    tall, size = {"tall eyes": (1.5, 0.86), "one eye": (1.05, 1.45)}.get(who.eyes, (1.0, 1.0))
    wide = _WIDE.get(expression, 1.0)
    common = size * wide * who.eye_size * radius
    return 0.24 * common * max(squeeze, 0.45), 0.25 * tall * common


def _slope(expression: str, side: int) -> float:
    """Degrees by which lid and brow of an eye lean; clockwise is positive."""
    tilt = {"angry": 20.0, "sad": -18.0, "afraid": -14.0}.get(expression, 0.0)  # inner end down is positive
    return tilt * (side if side else -1)


def _brow_ends(at: Point, rx: float, ry: float, slope: float, expression: str) -> list[Point]:
    x, y = at[0], at[1] - _BROW_LIFTS.get(expression, _REST) * ry
    if expression in ("happy", "surprised"):
        return [(x - 0.75 * rx, y + 0.16 * ry), (x + 0.75 * rx, y + 0.16 * ry)]
    rise = float(np.tan(np.radians(slope))) * 1.25 * rx
    return [(x - 1.15 * rx, y - rise), (x + 1.15 * rx, y + rise)]


def _draw_eye(
    paint: Canvas,
    who: Identity,
    expression: str,
    yaw: float,
    at: Point,
    squeeze: float,
    radius: float,
    side: int,
    colours: dict,
) -> None:
    rx, ry = _eye_radii(who, expression, squeeze, radius)
    iris = {"surprised": 0.42, "afraid": 0.34}.get(expression, 0.56)
    if who.eyes == "bead eyes":
        paint.ellipse(at, (0.74 * rx, 0.74 * ry), _INK)
        paint.disc((at[0] - 0.2 * rx, at[1] - 0.28 * ry), 0.24 * ry * _WIDE.get(expression, 1.0), _WHITE)
    else:
        paint.ellipse(at, (rx + 0.045 * radius, ry + 0.045 * radius), colours["dark"])
        paint.ellipse(at, (rx, ry), _WHITE)
        pupil = (at[0] + 0.35 * yaw * rx, at[1] + (0.15 if expression == "sad" else 0.0) * ry)
        paint.ellipse(pupil, (iris * rx, iris * ry), _INK)
        paint.disc((pupil[0] - 0.15 * rx, pupil[1] - 0.2 * ry), 0.16 * ry, _WHITE)
    slope = _slope(expression, side)
    if expression in ("angry", "disgusted", "sad"):
        drop = {"angry": 0.0, "disgusted": 0.1, "sad": -0.25}[expression]
        lid = (at[0], at[1] + (drop - 0.12) * ry)
        paint.ellipse(lid, (1.3 * rx, 1.1 * ry), colours["shade"], slope, (180.0, 360.0))
    if expression in ("angry", "sad", "afraid", "surprised", "happy"):
        _draw_brow(paint, at, rx, ry, slope, expression, radius)
    if expression == "sad" and side <= 0:
        paint.ellipse((at[0] - 0.2 * rx, at[1] + 1.5 * ry), (0.1 * radius, 0.16 * radius), _TEAR)


def _draw_brow(paint: Canvas, at: Point, rx: float, ry: float, slope: float, expression: str, radius: float) -> None:
    if expression in ("happy", "surprised"):
        x, y = at[0], at[1] - _BROW_LIFTS[expression] * ry
        paint.arc((x, y + 0.3 * ry), (0.8 * rx, 0.4 * ry), (200.0, 340.0), _INK, 0.07 * radius)
        return
    thick = 0.15 if expression == "angry" else 0.09
    paint.stroke(_brow_ends(at, rx, ry, slope, expression), _INK, thick * radius)


def _draw_mouth(paint: Canvas, expression: str, at: Point, half: float, radius: float) -> None:
    x, y = at
    if expression == "happy":
        paint.ellipse((x, y - 0.06 * radius), (half * 1.1, 0.36 * radius), _MOUTH, 0.0, (0.0, 180.0))
        paint.ellipse((x, y + 0.16 * radius), (half * 0.55, 0.11 * radius), _TONGUE)
    elif expression == "sad":
        paint.arc((x, y + 0.24 * radius), (half * 0.9, 0.24 * radius), (195.0, 345.0), _INK, 0.11 * radius)
    elif expression == "angry":
        paint.stroke(
            [(x - half, y + 0.2 * radius), (x - 0.4 * half, y + 0.04 * radius), (x + 0.4 * half, y + 0.04 * radius),
             (x + half, y + 0.2 * radius)], _INK, 0.13 * radius)  # fmt: skip
    elif expression == "surprised":
        paint.ellipse((x, y + 0.14 * radius), (half * 0.62, 0.27 * radius), _INK)
        paint.ellipse((x, y + 0.2 * radius), (half * 0.38, 0.14 * radius), _MOUTH)
    elif expression == "afraid":
        paint.rectangle(x - 1.05 * half, y - 0.05 * radius, x + 1.05 * half, y + 0.27 * radius, _INK)
        for k in (-0.68, 0.0, 0.68):
            paint.rectangle(x + (k - 0.26) * half, y + 0.01 * radius, x + (k + 0.26) * half, y + 0.21 * radius, _WHITE)
    elif expression == "disgusted":
        paint.stroke(
            [(x - half, y + 0.1 * radius), (x - 0.3 * half, y), (x + half, y + 0.08 * radius)], _INK, 0.1 * radius
        )
        paint.ellipse(
            (x + 0.35 * half, y + 0.06 * radius),
            (0.5 * half, 0.32 * radius),
            mix(_TONGUE, (120, 200, 80), 0.0),
            0.0,
            (0.0, 180.0),
        )
    else:
        paint.stroke([(x - 0.8 * half, y + 0.08 * radius), (x + 0.8 * half, y + 0.08 * radius)], _INK, 0.1 * radius)
