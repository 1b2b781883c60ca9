"""The pocket world: a picture as data, and its rendering with the truth beside it."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from flexip.pocket.canvas import Canvas
from flexip.pocket.captions import LENGTHS, caption
from flexip.pocket.creature import Look, draw_creature
from flexip.pocket.face import EXPRESSIONS, LANDMARKS, POSES
from flexip.pocket.identity import Identity, sample_identity
from flexip.pocket.props import ACCESSORIES, ACTIONS, LEAP
from flexip.pocket.scenes import SCENES, draw_scene
from flexip.pocket.styles import STYLES, apply_style
from flexip.rows import Split

_SUPERSAMPLING = 2


@dataclass(frozen=True)
class Placement:
    """One creature in a picture; positions and sizes as fractions of the frame, independent of its resolution."""

    identity: Identity
    expression: str = "neutral"  # one of EXPRESSIONS
    yaw: float = 0.0  # -1 fully left .. 1 fully right; POSES names five values
    x: float = 0.5  # middle of the body, fraction of the width
    y: float = 0.58  # middle of the body, fraction of the height
    size: float = 0.5  # height of the body, fraction of the shorter side
    step: float = 0.0  # walking phase [rad]
    accessory: str = "nothing"  # one of ACCESSORIES
    action: str = "standing"  # one of ACTIONS

    @property
    def pose(self) -> str:
        """The named pose nearest to the yaw."""
        return min(POSES, key=lambda name: abs(POSES[name] - self.yaw))


@dataclass(frozen=True)
class Picture:
    """All that a frame shows; `creatures` from back to front."""

    creatures: tuple[Placement, ...]
    scene: str = "meadow"  # one of SCENES
    style: str = "flat"  # one of STYLES
    scene_seed: int = 0  # varies details of the scene
    pan: float = 0.0  # camera moved to the right, in widths of the frame


@dataclass(frozen=True)
class Frame:
    """A rendered picture and the truth about it, one entry per creature, from back to front."""

    image: np.ndarray  # uint8 (H, W, 3) RGB
    boxes: np.ndarray  # float32 (K, 4): x0, y0, x1, y1 [px] of the visible part; zeros where nothing is visible
    masks: np.ndarray  # bool (K, H, W): the visible part
    landmarks: np.ndarray  # float32 (K, 14, 3): x, y [px], visible; named by LANDMARKS
    identities: np.ndarray  # float32 (K, 46)
    expression: tuple[str, ...]
    pose: tuple[str, ...]
    accessory: tuple[str, ...]
    action: tuple[str, ...]
    scene: str
    style: str
    captions: dict[str, str]  # "short", "medium", "long", and the same with " plain": without identities


def render(picture: Picture, size: int | tuple[int, int] = 64) -> Frame:
    """Draws a picture at `size` pixels (a side, or height and width); ValueError for names that do not exist."""
    _check(picture)
    height, width = (size, size) if isinstance(size, int) else size
    scale = _SUPERSAMPLING
    canvas = Canvas(np.zeros((height * scale, width * scale, 3), np.uint8))
    draw_scene(canvas, picture.scene, picture.scene_seed, picture.pan)
    silhouettes, landmarks, lights = [], [], []
    for placed in picture.creatures:
        look = _look(placed, canvas)
        silhouette = Canvas(np.zeros(canvas.image.shape[:2], np.uint8))
        _shade_ground(canvas, look)
        points = draw_creature(canvas, silhouette, look)
        silhouettes.append(cv2.resize(silhouette.image, (width, height), interpolation=cv2.INTER_AREA) > 127)
        landmarks.append(points / np.array([scale, scale, 1], np.float32))
        lights.append((look.centre[0], look.centre[1], look.radius))
    styled = apply_style(canvas.image, picture.style, lights)
    masks = _visible(silhouettes, height, width)
    return Frame(
        image=cv2.resize(styled, (width, height), interpolation=cv2.INTER_AREA),
        boxes=np.stack([_box(mask) for mask in masks]) if len(masks) else np.zeros((0, 4), np.float32),
        masks=masks,
        landmarks=np.stack(landmarks) if landmarks else np.zeros((0, len(LANDMARKS), 3), np.float32),
        identities=np.stack([placed.identity.vector() for placed in picture.creatures] or [np.zeros(0, np.float32)]),
        expression=tuple(placed.expression for placed in picture.creatures),
        pose=tuple(placed.pose for placed in picture.creatures),
        accessory=tuple(placed.accessory for placed in picture.creatures),
        action=tuple(placed.action for placed in picture.creatures),
        scene=picture.scene,
        style=picture.style,
        captions={
            f"{length}{suffix}": caption(picture, length, not suffix) for length in LENGTHS for suffix in ("", " plain")
        },
    )


def random_picture(rng: np.random.Generator, split: Split = "train", creatures: int | None = None) -> Picture:
    """A picture with identities of one split; without `creatures`, mostly one, sometimes up to five."""
    count = creatures if creatures is not None else int(rng.choice([1, 2, 3, 4, 5], p=(0.82, 0.11, 0.04, 0.02, 0.01)))
    return place([sample_identity(rng, split) for _ in range(count)], rng)


def place(
    identities: Sequence[Identity],
    rng: np.random.Generator,
    *,
    scene: str | None = None,
    style: str | None = None,
    expression: str | None = None,
    pose: str | None = None,
    accessory: str | None = None,
    action: str | None = None,
) -> Picture:
    """A picture of the given creatures; what is not asked for is drawn from rng."""
    count = len(identities)
    largest = {1: 0.66, 2: 0.46, 3: 0.36, 4: 0.31}.get(count, 0.27)
    slots = (np.arange(count) + 0.5) / max(count, 1) + rng.uniform(-0.05, 0.05, count)
    placed = []
    for slot, who in zip(rng.permutation(slots), identities, strict=True):
        size = float(rng.uniform(0.85, 1.0)) * largest
        middle = float(rng.uniform(0.4, 0.6)) if count == 1 else float(slot)
        yaw = POSES[pose] if pose else float(rng.choice(list(POSES.values()), p=(0.12, 0.2, 0.36, 0.2, 0.12)))
        low = float(rng.uniform(0.86, 0.93))
        mood = expression or str(rng.choice(EXPRESSIONS))
        worn = accessory or str(rng.choice(ACCESSORIES, p=(0.6, 0.1, 0.1, 0.1, 0.1)))
        deed = action or str(rng.choice(ACTIONS, p=(0.64, 0.12, 0.12, 0.12)))
        placed.append(Placement(who, mood, yaw, middle, low - 0.55 * size, size, accessory=worn, action=deed))
    placed.sort(key=lambda one: one.y + 0.55 * one.size)  # who stands lower stands in front
    look = style or str(rng.choice(STYLES, p=(0.58, 0.14, 0.14, 0.14)))
    return Picture(tuple(placed), scene or str(rng.choice(SCENES)), look, int(rng.integers(1 << 31)))


def _look(placed: Placement, canvas: Canvas) -> Look:
    side = min(canvas.width, canvas.height)
    radius = 0.5 * placed.size * side
    lift = LEAP * radius if placed.action == "jumping" else 0.0
    centre = (placed.x * canvas.width, placed.y * canvas.height - lift)
    return Look(
        placed.identity, placed.expression, placed.yaw, centre, radius, placed.step, placed.accessory, placed.action
    )


def _shade_ground(canvas: Canvas, look: Look) -> None:
    """The shadow stays on the ground, small and faint, while the creature is in the air."""
    lift = LEAP if look.action == "jumping" else 0.0
    foot = (look.centre[0], look.centre[1] + (1.1 + lift) * look.radius)
    canvas.shade(foot, ((0.85 - 0.3 * lift) * look.radius, 0.16 * look.radius), 0.25 - 0.2 * lift)


def _visible(silhouettes: list[np.ndarray], height: int, width: int) -> np.ndarray:
    """Masks with the parts removed that a creature further in front covers."""
    masks = np.zeros((len(silhouettes), height, width), bool)
    covered = np.zeros((height, width), bool)
    for index in reversed(range(len(silhouettes))):
        masks[index] = silhouettes[index] & ~covered
        covered |= silhouettes[index]
    return masks


def _box(mask: np.ndarray) -> np.ndarray:
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    if not len(columns):
        return np.zeros(4, np.float32)
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], np.float32)


def _check(picture: Picture) -> None:
    for field, value, allowed in (
        ("scene", picture.scene, SCENES),
        ("style", picture.style, STYLES),
        *(("expression", placed.expression, EXPRESSIONS) for placed in picture.creatures),
        *(("accessory", placed.accessory, ACCESSORIES) for placed in picture.creatures),
        *(("action", placed.action, ACTIONS) for placed in picture.creatures),
    ):
        if value not in allowed:
            raise ValueError(f"{field} {value!r}: must be one of {', '.join(allowed)}")
