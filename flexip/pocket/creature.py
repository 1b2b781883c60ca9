"""Draws one creature: silhouette, pattern, face; and says where its landmarks fell."""

from dataclasses import dataclass

import cv2
import numpy as np

from flexip.pocket.canvas import Canvas, Point, mix
from flexip.pocket.face import draw_face, face_project
from flexip.pocket.identity import COLOURS, Identity
from flexip.pocket.props import draw_accessory, draw_arms

INK = (38, 34, 52)
WHITE = (255, 255, 255)


@dataclass(frozen=True)
class Look:
    """How a creature appears in one picture; pixels of the canvas it is drawn on."""

    identity: Identity
    expression: str
    yaw: float  # -1 fully left .. 1 fully right, as the viewer sees it
    centre: Point
    radius: float  # half the body's height
    step: float = 0.0  # walking phase [rad]: lifts one foot, then the other
    accessory: str = "nothing"
    action: str = "standing"


def draw_creature(canvas: Canvas, silhouette: Canvas, look: Look) -> np.ndarray:
    """Draws the creature on both canvases (the silhouette in 255); returns its landmarks, see `face.LANDMARKS`."""
    who, radius = look.identity, look.radius
    body = body_outline(who) * radius + np.array(look.centre)
    colours = _colours(who)
    draw_arms(canvas, silhouette, who, look.action, look.yaw, look.centre, radius, colours["dark"])
    _draw_feet(canvas, silhouette, look, colours["dark"])
    if who.top != "no ears":
        draw_top(canvas, silhouette, look, body, colours)
    silhouette.polygon(body, 255)
    silhouette.stroke(body, 255, 0.07 * radius, closed=True)
    inside = np.zeros_like(silhouette.image)
    Canvas(inside).polygon(body, 255)
    paint = Canvas(canvas.image.copy())
    paint.polygon(body, colours["shade"])
    paint.polygon(body * 0.97 + np.array(look.centre) * 0.03 - 0.06 * radius, colours["body"])
    _draw_pattern(paint, look, colours)
    landmarks = draw_face(paint, look.identity, look.expression, look.yaw, look.centre, radius, colours)
    cv2.copyTo(paint.image, inside, canvas.image)
    landmarks[:, 2] *= _covers(inside, landmarks)  # a brow may reach beyond the body, where nothing is drawn
    canvas.stroke(body, colours["dark"], 0.07 * radius, closed=True)
    crown = _on_top(body, look, 0.1 * look.yaw)
    draw_accessory(canvas, silhouette, who, look.accessory, look.yaw, look.centre, radius, crown)
    return landmarks


def body_outline(who: Identity) -> np.ndarray:
    """Outline (64, 2) of a body of half-height about 1 around the origin; y points down."""
    angle = np.linspace(0, 2 * np.pi, 64, endpoint=False)
    if who.shape == "square":
        points = _soft_polygon(angle, 4, 14.0, 0.0) * 0.92
    elif who.shape == "triangular":
        points = _soft_polygon(angle, 3, 9.0, np.pi / 2) * np.array([0.82, 0.74]) + np.array([0.0, 0.22])
    elif who.shape == "hexagonal":
        points = _soft_polygon(angle, 6, 50.0, np.pi / 2) * np.array([1.12, 0.8])
    elif who.shape == "egg-shaped":
        points = np.stack([np.cos(angle) * (0.66 + 0.14 * np.sin(angle)), np.sin(angle) * 1.1], axis=1)
    elif who.shape == "drop-shaped":
        x = 1.46 * np.sin(angle) * np.sin(angle / 2) ** 2.0
        points = np.stack([x, -np.cos(angle) * 1.14], axis=1) + np.array([0.0, -0.1])
    elif who.shape == "star-shaped":
        swell = 0.96 + 0.27 * np.cos(5 * (angle + np.pi / 2))
        points = np.stack([np.cos(angle), np.sin(angle)], axis=1) * swell[:, None]
    elif who.shape == "fluffy":
        swell = 0.8 + 0.3 * np.abs(np.sin(3.5 * (angle + np.pi / 2)))
        points = np.stack([np.cos(angle), np.sin(angle)], axis=1) * swell[:, None]
    else:
        points = np.stack([np.cos(angle), np.sin(angle)], axis=1) * 0.97
    return points * np.array([who.width, 1.0])


def draw_top(canvas: Canvas, silhouette: Canvas, look: Look, body: np.ndarray, colours: dict) -> None:
    """Ears, horns, antennae or crest, behind the body, on both canvases."""
    who, radius = look.identity, look.radius
    size = who.top_size * radius
    if who.top == "a crest":
        for offset, height in ((-0.46, 0.54), (0.0, 0.62), (0.46, 0.54)):  # a hat hides the middle one
            base = _on_top(body, look, offset + 0.1 * look.yaw)
            spike = _turned([(-0.22, 0.25), (0.0, -height), (0.22, 0.25)], offset * 0.7, size, base)
            _both(canvas, silhouette, spike, colours["second"], colours["second dark"], radius)
        return
    for side in (-1.0, 1.0):
        base = _on_top(body, look, 0.52 * side + 0.16 * look.yaw)
        near = 1.0 - 0.22 * side * look.yaw  # the ear on the far side is smaller
        outer, inner = _TOPS[who.top]
        tilt = side * _TILTS[who.top]
        points = _turned([(side * x, y) for x, y in outer], tilt, size * near, base)
        _both(canvas, silhouette, points, colours["second"], colours["second dark"], radius)
        if inner:
            shade = mix(colours["second"], WHITE, 0.45)
            canvas.polygon(_turned([(side * x, y) for x, y in inner], tilt, size * near, base), shade)
        if who.top == "antennae":
            tip = _turned([(0.0, -0.72)], tilt, size * near, base)[0]
            for layer, colour in ((canvas, colours["second dark"]), (silhouette, 255)):
                layer.disc((tip[0], tip[1]), 0.2 * size, colour)
            canvas.disc((tip[0], tip[1]), 0.13 * size, mix(colours["second"], WHITE, 0.25))


def _covers(mask: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Whether a mask (H, W) is set at points (n, 2+)."""
    x, y = np.rint(points[:, 0]).astype(int), np.rint(points[:, 1]).astype(int)
    within = (x >= 0) & (y >= 0) & (x < mask.shape[1]) & (y < mask.shape[0])
    return within & (mask[y.clip(0, mask.shape[0] - 1), x.clip(0, mask.shape[1] - 1)] > 0)


def _oval(x: float, y: float, rx: float, ry: float) -> list[Point]:
    angles = np.linspace(0, 2 * np.pi, 16, endpoint=False)
    return [(x + rx * float(np.cos(a)), y + ry * float(np.sin(a))) for a in angles]


_TOPS: dict[str, tuple[list[Point], list[Point]]] = {  # outer and inner outline, for the right side
    "round ears": (_oval(0.0, -0.12, 0.36, 0.36), _oval(0.0, -0.14, 0.2, 0.2)),
    "pointed ears": ([(-0.34, 0.25), (0.05, -0.66), (0.38, 0.25)], [(-0.14, 0.1), (0.05, -0.42), (0.2, 0.1)]),
    "long ears": (_oval(0.0, -0.42, 0.22, 0.62), _oval(0.0, -0.45, 0.1, 0.42)),
    "horns": ([(-0.24, 0.2), (-0.2, -0.2), (0.22, -0.68), (0.14, -0.14), (0.24, 0.2)], []),
    "antennae": ([(-0.06, 0.2), (-0.05, -0.72), (0.05, -0.72), (0.06, 0.2)], []),
}
_PITCHES = {"striped": 0.52, "spotted": 0.46, "checkered": 0.7}  # distance of a pattern's parts [body radii]
_TILTS = {"round ears": 0.25, "pointed ears": 0.25, "long ears": 0.14, "horns": 0.3, "antennae": 0.3}  # [rad] outwards


def _colours(who: Identity) -> dict[str, tuple[int, int, int]]:
    end = WHITE if who.tint > 0 else (0, 0, 0)
    body = mix(COLOURS[who.colour], end, abs(who.tint) * 1.5)
    second = mix(COLOURS[who.second], end, abs(who.tint))
    return {
        "body": body,
        "shade": mix(body, INK, 0.22),
        "dark": mix(body, INK, 0.58),
        "face": mix(body, WHITE, 0.2),
        "second": second,
        "second dark": mix(second, INK, 0.5),
    }


def _soft_polygon(angle: np.ndarray, sides: int, hardness: float, turn: float) -> np.ndarray:
    """A regular polygon of inradius 1 with round corners: a p-norm of its half-planes, sharper with p = hardness."""
    normals = turn + np.arange(sides) * 2 * np.pi / sides
    reach = np.maximum(np.cos(angle[:, None] - normals), 0.0) ** hardness
    radius = reach.sum(axis=1) ** (-1 / hardness)
    return np.stack([np.cos(angle), np.sin(angle)], axis=1) * radius[:, None]


def _on_top(body: np.ndarray, look: Look, x: float) -> np.ndarray:
    """The point of the body's upper edge at x body half-widths from the centre."""
    upper = body[body[:, 1] < look.centre[1] + 0.3 * look.radius]
    upper = upper[np.argsort(upper[:, 0])]
    reach = 0.62 if look.identity.shape in ("triangular", "drop-shaped") else 0.95
    at = look.centre[0] + x * reach * look.identity.width * look.radius
    return np.array([at, np.interp(at, upper[:, 0], upper[:, 1])])


def _turned(points: list[Point], angle: float, scale: float, base: np.ndarray) -> np.ndarray:
    cos, sin = np.cos(angle), np.sin(angle)
    return np.array(points) @ np.array([[cos, sin], [-sin, cos]]) * scale + base


def _both(canvas: Canvas, silhouette: Canvas, points: np.ndarray, fill: tuple, edge: tuple, radius: float) -> None:
    canvas.polygon(points, fill)
    canvas.stroke(points, edge, 0.06 * radius, closed=True)
    silhouette.polygon(points, 255)
    silhouette.stroke(points, 255, 0.06 * radius, closed=True)


def _draw_feet(canvas: Canvas, silhouette: Canvas, look: Look, colour: tuple) -> None:
    x, y = look.centre
    for side in (-1.0, 1.0):
        lift = max(0.0, side * float(np.sin(look.step))) * 0.12
        foot = (x + (0.36 * side + 0.12 * look.yaw) * look.radius, y + (1.0 - lift) * look.radius)
        for layer, ink in ((canvas, colour), (silhouette, 255)):
            layer.ellipse(foot, (0.26 * look.radius, 0.17 * look.radius), ink)


def _draw_pattern(paint: Canvas, look: Look, colours: dict) -> None:
    """The pattern over the whole body, and the face plate that keeps the face legible upon it."""
    who, radius, (x, y) = look.identity, look.radius, look.centre
    pitch = _PITCHES.get(who.pattern, 0.0) * who.pattern_scale * radius
    colour = colours["second"]
    reach = np.arange(-4, 5)
    drift = 0.25 * look.yaw * radius  # the pattern turns with the creature
    if who.pattern == "striped":
        for k in reach:
            ends = np.array([[k * pitch, -1.6 * radius], [k * pitch, 1.6 * radius]])
            paint.stroke(
                _turned(list(map(tuple, ends)), who.pattern_angle, 1.0, np.array([x + drift, y])), colour, 0.42 * pitch
            )
    elif who.pattern in ("spotted", "checkered"):
        for i in reach:
            for j in reach:
                if who.pattern == "checkered" and (i + j) % 2:
                    continue
                at = _turned(
                    [((i + 0.5 * (j % 2) * (who.pattern == "spotted")) * pitch, j * pitch)],
                    who.pattern_angle,
                    1.0,
                    np.array([x + drift, y]),
                )[0]
                if who.pattern == "spotted":
                    paint.disc((at[0], at[1]), 0.27 * pitch, colour)
                else:
                    half = 0.5 * pitch / radius
                    square: list[Point] = [(-half, -half), (half, -half), (half, half), (-half, half)]
                    paint.polygon(_turned(square, who.pattern_angle, radius, at), colour)
    elif who.pattern == "two-tone":
        paint.rectangle(x - 2 * radius, y + 0.3 * radius, x + 2 * radius, y + 2 * radius, colour)
    middle, squeeze = face_project(who, look.yaw, look.centre, radius, 0.0, 0.02)
    paint.ellipse(middle, (0.62 * radius * max(squeeze, 0.55), 0.5 * radius), colours["face"])
