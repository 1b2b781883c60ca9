"""What a creature wears and does: edits of a picture, no part of who it is."""

import numpy as np

from flexip.pocket.canvas import Canvas, Colour, Point, mix
from flexip.pocket.face import face_project
from flexip.pocket.identity import Identity

ACCESSORIES = ("nothing", "a hat", "glasses", "a scarf", "a bow tie")
ACTIONS = ("standing", "waving", "jumping", "holding a balloon")
LEAP = 0.4  # height of a jump [radii of the body]

_INK = (38, 34, 52)
_HAT, _BAND = (58, 52, 84), (226, 84, 92)
_SCARF, _BOW, _BALLOON = (232, 72, 86), (96, 60, 160), (240, 84, 96)


def draw_arms(
    canvas: Canvas,
    silhouette: Canvas,
    who: Identity,
    action: str,
    yaw: float,
    centre: Point,
    radius: float,
    dark: Colour,
) -> None:
    """The raised arm of a creature that waves or holds a balloon, and the balloon; behind the body."""
    if action not in ("waving", "holding a balloon"):
        return
    side = -1.0 if yaw > 0.25 else 1.0  # the arm that the turned body does not hide
    shoulder = np.array(centre) + radius * np.array([0.7 * side * who.width, 0.25])
    hand = np.array(centre) + radius * np.array([1.3 * side * who.width, -0.42 if action == "waving" else -0.1])
    if action == "holding a balloon":
        balloon = hand + radius * np.array([0.12 * side, -0.95])
        canvas.stroke(np.array([hand, balloon]), _INK, 0.04 * radius)
        canvas.ellipse((balloon[0], balloon[1]), (0.33 * radius, 0.4 * radius), mix(_BALLOON, _INK, 0.35))
        canvas.ellipse((balloon[0], balloon[1]), (0.28 * radius, 0.35 * radius), _BALLOON)
        canvas.ellipse(
            (balloon[0] - 0.1 * radius, balloon[1] - 0.14 * radius), (0.07 * radius, 0.1 * radius), (255, 190, 196)
        )
    for layer, ink in ((canvas, dark), (silhouette, 255)):
        layer.stroke(np.array([shoulder, hand]), ink, 0.2 * radius)
        layer.disc((hand[0], hand[1]), 0.17 * radius, ink)


def draw_accessory(
    canvas: Canvas,
    silhouette: Canvas,
    who: Identity,
    accessory: str,
    yaw: float,
    centre: Point,
    radius: float,
    crown: np.ndarray,
) -> None:
    """Hat, glasses, scarf or bow tie, in front of the body; `crown` is the middle of the body's upper edge [px]."""
    if accessory == "a hat":
        _draw_hat(canvas, silhouette, crown, radius)
    elif accessory == "glasses":
        _draw_glasses(canvas, who, yaw, centre, radius)
    elif accessory == "a scarf":
        _draw_scarf(canvas, silhouette, who, yaw, centre, radius)
    elif accessory == "a bow tie":
        (x, y), squeeze = face_project(who, yaw, centre, radius, 0.0, 0.72)
        wide = 0.3 * radius * max(squeeze, 0.4)
        for side in (-1.0, 1.0):
            wing = [(x, y), (x + side * wide, y - 0.17 * radius), (x + side * wide, y + 0.17 * radius)]
            canvas.polygon(wing, _BOW)
            canvas.stroke(wing, mix(_BOW, _INK, 0.5), 0.05 * radius, closed=True)
        canvas.disc((x, y), 0.09 * radius, mix(_BOW, _INK, 0.4))


def _draw_hat(canvas: Canvas, silhouette: Canvas, crown: np.ndarray, radius: float) -> None:
    x, y = crown[0], crown[1] + 0.08 * radius
    top, wide = y - 0.62 * radius, 0.36 * radius
    for layer, hat, band in ((canvas, _HAT, _BAND), (silhouette, 255, 255)):
        layer.polygon([(x - wide, y), (x - 0.9 * wide, top), (x + 0.9 * wide, top), (x + wide, y)], hat)
        layer.rectangle(x - wide, y - 0.2 * radius, x + wide, y, band)
        layer.ellipse((x, y), (0.62 * radius, 0.11 * radius), hat)


def _draw_glasses(canvas: Canvas, who: Identity, yaw: float, centre: Point, radius: float) -> None:
    spread = 25.0 * who.eye_distance
    sides = (0,) if who.eyes == "one eye" else (-1, 1)
    rims = [face_project(who, yaw, centre, radius, spread * side, -0.16) for side in sides]
    seen = [(at, squeeze) for at, squeeze in rims if squeeze > 0.12]
    for at, squeeze in seen:
        size = (0.46 if who.eyes == "one eye" else 0.33) * radius
        canvas.arc(at, (size * max(squeeze, 0.5), size), (0.0, 360.0), _INK, 0.1 * radius)
    if len(seen) == 2:
        (first, narrow), (last, slim) = seen
        bridge = [
            (first[0] + 0.3 * radius * max(narrow, 0.5), first[1]),
            (last[0] - 0.3 * radius * max(slim, 0.5), last[1]),
        ]
        canvas.stroke(bridge, _INK, 0.08 * radius)


def _draw_scarf(canvas: Canvas, silhouette: Canvas, who: Identity, yaw: float, centre: Point, radius: float) -> None:
    (x, y), wide = centre, 0.86 * who.width * radius
    middle = y + 0.66 * radius
    tail = x + (0.42 if yaw <= 0 else -0.42) * radius
    for layer, cloth, edge in ((canvas, _SCARF, mix(_SCARF, _INK, 0.45)), (silhouette, 255, 255)):
        layer.polygon(_band(x, middle, wide, 0.2 * radius), edge)
        layer.polygon(_band(x, middle, 0.96 * wide, 0.15 * radius), cloth)
        layer.rectangle(tail - 0.17 * radius, middle, tail + 0.17 * radius, middle + 0.52 * radius, edge)
        layer.rectangle(tail - 0.12 * radius, middle, tail + 0.12 * radius, middle + 0.46 * radius, cloth)


def _band(x: float, y: float, wide: float, thick: float) -> list[Point]:
    """A strip around a body, hanging in its middle."""
    along = np.linspace(-1.0, 1.0, 13)
    sag = 0.16 * wide * (1 - along**2)
    upper = [(x + wide * float(a), y - thick + float(s)) for a, s in zip(along, sag, strict=True)]
    lower = [(x + wide * float(a), y + thick + float(s)) for a, s in zip(along, sag, strict=True)]
    return upper + lower[::-1]
