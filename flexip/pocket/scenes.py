"""Ten backdrops in flat colour, each with small variations drawn from a seed."""

from collections.abc import Callable

import numpy as np

from flexip.pocket.canvas import Canvas, Colour, mix

SCENES = ("beach", "forest", "desert", "snow", "city", "meadow", "sea", "moon", "mountains", "room")


def draw_scene(canvas: Canvas, scene: str, seed: int, pan: float) -> None:
    """Fills the canvas with a scene; `pan` moves the camera to the right, in widths of the frame."""
    _PAINTERS[scene](canvas, np.random.default_rng(seed), pan)


def _spread(rng: np.random.Generator, count: int, pan: float, depth: float = 1.0) -> list[float]:
    """Positions, in widths, of things spread over three frames' width; far things (small depth) pan less."""
    cells = np.arange(-count, 2 * count) + rng.uniform(0.1, 0.9, 3 * count)
    return [float(x) / count - pan * depth for x in cells]


def _hills(canvas: Canvas, rng: np.random.Generator, pan: float, level: float, rise: float, colour: Colour) -> None:
    w, h = canvas.width, canvas.height
    x = np.linspace(0, 1, 25)
    turn, waves = rng.uniform(0, 6.28, 2), rng.uniform(4.0, 8.0, 2)
    y = level + rise * (np.sin(waves[0] * (x + pan) + turn[0]) + 0.6 * np.sin(waves[1] * (x + pan) + turn[1]))
    canvas.polygon([(0.0, float(h)), *zip(x * w, y * h, strict=True), (float(w), float(h))], colour)


def _beach(canvas: Canvas, rng: np.random.Generator, pan: float) -> None:
    w, h = canvas.width, canvas.height
    canvas.gradient(0, 0.46 * h, (112, 196, 245), (196, 232, 250))
    canvas.disc((w * (rng.uniform(0.08, 0.92) - 0.1 * pan), 0.14 * h), 0.095 * min(w, h), (255, 222, 105))
    canvas.gradient(0.44 * h, 0.68 * h, (38, 128, 200), (80, 182, 214))
    _hills(canvas, rng, pan, 0.63, 0.014, (250, 250, 245))
    _hills(canvas, rng, pan, 0.66, 0.014, (244, 218, 158))
    for x in _spread(rng, 2, pan):
        canvas.ellipse((x * w, 0.86 * h), (0.05 * w, 0.014 * h), (226, 194, 130))


def _forest(canvas: Canvas, rng: np.random.Generator, pan: float) -> None:
    w, h = canvas.width, canvas.height
    canvas.gradient(0, 0.78 * h, (178, 218, 200), (214, 236, 206))
    for depth, colour, base in ((0.6, (126, 184, 142), 0.66), (1.0, (54, 122, 84), 0.74)):
        for x in _spread(rng, 4, pan, depth):
            tall = rng.uniform(0.36, 0.56) * h * depth
            canvas.rectangle((x - 0.014) * w, (base - 0.1) * h, (x + 0.014) * w, base * h, (116, 84, 62))
            for share, half in ((0.0, 0.13), (0.32, 0.1)):
                foot = (base - 0.06) * h - share * tall
                canvas.polygon([((x - half) * w, foot), (x * w, foot - 0.7 * tall), ((x + half) * w, foot)], colour)
    _hills(canvas, rng, pan, 0.72, 0.012, (100, 158, 84))


def _desert(canvas: Canvas, rng: np.random.Generator, pan: float) -> None:
    w, h = canvas.width, canvas.height
    canvas.gradient(0, 0.76 * h, (250, 190, 132), (254, 232, 190))
    canvas.disc((w * (rng.uniform(0.1, 0.9) - 0.1 * pan), 0.2 * h), 0.1 * min(w, h), (255, 246, 220))
    _hills(canvas, rng, 0.4 * pan, 0.6, 0.04, (232, 160, 98))
    _hills(canvas, rng, pan, 0.7, 0.02, (216, 132, 76))
    for x in _spread(rng, 2, pan):
        top, half = rng.uniform(0.42, 0.52) * h, 0.028 * min(w, h)
        for left, high, low in ((0.0, top, 0.76 * h), (-2.6, top + 0.1 * h, 0.63 * h), (2.6, top + 0.07 * h, 0.6 * h)):
            middle = x * w + left * half
            canvas.stroke([(middle, high), (middle, low)], (72, 140, 92), 2 * half)
        canvas.stroke([(x * w - 2.6 * half, 0.63 * h), (x * w + 2.6 * half, 0.6 * h)], (72, 140, 92), 1.6 * half)


def _snow(canvas: Canvas, rng: np.random.Generator, pan: float) -> None:
    w, h = canvas.width, canvas.height
    canvas.gradient(0, 0.78 * h, (150, 180, 214), (212, 226, 240))
    for x in _spread(rng, 3, pan, 0.7):
        base, tall = 0.68 * h, rng.uniform(0.24, 0.34) * h
        canvas.polygon([((x - 0.09) * w, base), (x * w, base - tall), ((x + 0.09) * w, base)], (96, 130, 152))
        canvas.polygon(
            [((x - 0.045) * w, base - tall / 2), (x * w, base - tall), ((x + 0.045) * w, base - tall / 2)],
            (244, 248, 252),
        )
    _hills(canvas, rng, pan, 0.69, 0.02, (240, 245, 252))
    for x in _spread(rng, 7, pan):
        canvas.disc((x * w, rng.uniform(0.03, 0.95) * h), 0.014 * min(w, h), (255, 255, 255))


def _city(canvas: Canvas, rng: np.random.Generator, pan: float) -> None:
    w, h = canvas.width, canvas.height
    canvas.gradient(0, 0.74 * h, (196, 206, 232), (250, 222, 210))
    for depth, colour, window in ((0.6, (172, 176, 204), None), (1.0, (112, 116, 156), (250, 222, 150))):
        for x in _spread(rng, 4, pan, depth):
            top, half = (0.72 - rng.uniform(0.25, 0.56)) * h, rng.uniform(0.08, 0.125)
            canvas.rectangle((x - half) * w, top, (x + half) * w, 0.76 * h, colour)
            for k in range(4 if window else 0):
                row = top + (0.05 + 0.1 * k) * h
                for side in (-0.45, 0.45):
                    middle = (x + side * half) * w
                    canvas.rectangle(middle - 0.018 * w, row, middle + 0.018 * w, row + 0.045 * h, window or 0)
    canvas.rectangle(0, 0.73 * h, w, h, (92, 94, 112))
    for x in _spread(rng, 3, pan):
        canvas.rectangle((x - 0.08) * w, 0.9 * h, (x + 0.08) * w, 0.925 * h, (236, 226, 190))


def _meadow(canvas: Canvas, rng: np.random.Generator, pan: float) -> None:
    w, h = canvas.width, canvas.height
    canvas.gradient(0, 0.76 * h, (122, 196, 246), (208, 238, 250))
    for x in _spread(rng, 1, pan, 0.3):
        for shift, size in ((-0.07, 0.05), (0.0, 0.075), (0.08, 0.05)):
            canvas.ellipse(((x + shift) * w, 0.17 * h), (size * w, 0.7 * size * h), (255, 255, 255))
    _hills(canvas, rng, 0.5 * pan, 0.6, 0.04, (150, 206, 110))
    _hills(canvas, rng, pan, 0.7, 0.02, (110, 182, 86))
    for x in _spread(rng, 5, pan):
        at, size = (x * w, rng.uniform(0.76, 0.95) * h), 0.024 * min(w, h)
        colour = ((252, 240, 130), (250, 150, 170), (255, 255, 255))[int(rng.integers(3))]
        canvas.disc(at, size, colour)


def _sea(canvas: Canvas, rng: np.random.Generator, pan: float) -> None:
    w, h = canvas.width, canvas.height
    canvas.gradient(0, h, (72, 190, 214), (18, 84, 140))
    for x in _spread(rng, 2, pan, 0.4):
        shade = mix((72, 190, 214), (255, 255, 255), 0.18)
        canvas.polygon([(x * w, 0.0), ((x + 0.1) * w, 0.0), ((x - 0.08) * w, 0.6 * h), ((x - 0.2) * w, 0.6 * h)], shade)
    _hills(canvas, rng, pan, 0.84, 0.02, (206, 190, 138))
    for x in _spread(rng, 3, pan):
        lean, tall, colour = (
            rng.uniform(-0.04, 0.04),
            rng.uniform(0.2, 0.4),
            ((40, 150, 110), (232, 108, 120))[int(rng.integers(2))],
        )
        stem = [(x * w, 0.88 * h), ((x + lean) * w, (0.88 - tall / 2) * h), ((x - lean) * w, (0.88 - tall) * h)]
        canvas.stroke(stem, colour, 0.045 * min(w, h))
    for x in _spread(rng, 4, pan):
        at = (x * w, rng.uniform(0.06, 0.7) * h)
        canvas.disc(at, rng.uniform(0.014, 0.03) * min(w, h), (178, 232, 242))


def _moon(canvas: Canvas, rng: np.random.Generator, pan: float) -> None:
    w, h = canvas.width, canvas.height
    canvas.gradient(0, 0.78 * h, (26, 24, 58), (62, 48, 104))
    for x in _spread(rng, 9, pan, 0.1):
        canvas.disc((x * w, rng.uniform(0.02, 0.66) * h), rng.uniform(0.007, 0.014) * min(w, h), (255, 250, 220))
    at, size = (w * (rng.uniform(0.1, 0.9) - 0.15 * pan), 0.18 * h), 0.1 * min(w, h)
    canvas.disc(at, size, (98, 158, 226))
    canvas.ellipse((at[0] - 0.25 * size, at[1] - 0.1 * size), (0.5 * size, 0.35 * size), (128, 200, 130))
    _hills(canvas, rng, pan, 0.7, 0.02, (188, 184, 204))
    for x in _spread(rng, 3, pan):
        canvas.ellipse((x * w, rng.uniform(0.78, 0.94) * h), (0.075 * w, 0.022 * h), (154, 150, 176))


def _mountains(canvas: Canvas, rng: np.random.Generator, pan: float) -> None:
    w, h = canvas.width, canvas.height
    canvas.gradient(0, 0.8 * h, (246, 178, 160), (254, 226, 186))
    for x in _spread(rng, 2, pan, 0.5):
        peak, half = rng.uniform(0.12, 0.28) * h, 0.42
        for share, colour in ((1.0, (128, 116, 168)), (0.3, (248, 244, 250))):
            foot = peak + share * (0.72 * h - peak)
            canvas.polygon([((x - half * share) * w, foot), (x * w, peak), ((x + half * share) * w, foot)], colour)
    _hills(canvas, rng, pan, 0.7, 0.024, (92, 128, 124))


def _room(canvas: Canvas, rng: np.random.Generator, pan: float) -> None:
    w, h = canvas.width, canvas.height
    wall = ((238, 214, 190), (206, 220, 226), (228, 206, 222))[int(rng.integers(3))]
    canvas.gradient(0, 0.74 * h, wall, mix(wall, (255, 255, 255), 0.3))
    for x in _spread(rng, 1, pan):
        left, right, top, bottom = (x - 0.15) * w, (x + 0.15) * w, 0.1 * h, 0.42 * h
        canvas.rectangle(left - 0.03 * w, top - 0.03 * h, right + 0.03 * w, bottom + 0.03 * h, (250, 250, 250))
        canvas.rectangle(left, top, right, bottom, (140, 204, 244))
        canvas.rectangle(x * w - 0.012 * w, top, x * w + 0.012 * w, bottom, (250, 250, 250))
    canvas.rectangle(0, 0.72 * h, w, h, (176, 124, 88))
    canvas.rectangle(0, 0.7 * h, w, 0.73 * h, (250, 246, 240))
    canvas.ellipse((0.5 * w - pan * w, 0.9 * h), (0.42 * w, 0.07 * h), (206, 96, 96))


_PAINTERS: dict[str, Callable[[Canvas, np.random.Generator, float], None]] = {
    "beach": _beach,
    "forest": _forest,
    "desert": _desert,
    "snow": _snow,
    "city": _city,
    "meadow": _meadow,
    "sea": _sea,
    "moon": _moon,
    "mountains": _mountains,
    "room": _room,
}
