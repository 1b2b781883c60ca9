"""Several people of the pocket world in one picture: who does what where, and how each of them is read.

Oracles and the identity net have learnt pictures of one creature. Everybody's place is therefore cut out of the
picture without its neighbours, and enlarged until a creature in it is as large as these nets know it. Measured on
renders, creatures of a strip of 32 px are read as well as single ones. Three in a picture of 64 px could be read
too, but the pocket VAE does not leave enough of them: there a picture grows by 32 px with each of them.

Axes, always in this order: groups (of people who are drawn together), cells (motions asked for), people or places.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int, Int8, UInt8
from torch import nn

from evaluation.faces import embed_creatures
from evaluation.metrics import unit
from evaluation.pocket import read_values
from evaluation.readings import save_arrays
from evaluation.sweep import AT_ONCE
from flexip.encoders import Encoders
from flexip.faces import warp
from flexip.images import Rgb
from flexip.motion import Motion
from flexip.people import Box
from flexip.pocket.face import EXPRESSIONS, POSES
from flexip.pocket.identity import Identity
from flexip.pocket.oracle import IDENTITY
from flexip.pocket.scenes import SCENES
from flexip.pocket.world import Picture, Placement

Motions = Int[np.ndarray, "groups cells people 2"]  # index of the expression, index of the pose
HEIGHT, STRIP = 64, 32  # [px] of a picture; of what each of several people adds to its width
CELLS = len(EXPRESSIONS) * len(POSES)
_ALONE, _ABREAST, _GROUND = 0.54, 0.42, 0.9  # height of a body, alone and beside others; where it stands
_READ = ("subject", *IDENTITY, "expression", "pose")


@dataclass(frozen=True)
class PeopleReadings:
    """What was read of the pictures of one method, place by place from the left."""

    values: dict[str, Int8[np.ndarray, "oracles groups cells places"]]  # attribute -> index of its value
    faces: Float[np.ndarray, "groups cells places people"]  # cosine of a place's face with each person's in the source
    scenes: Int8[np.ndarray, "oracles groups cells squares"]
    text: Float[np.ndarray, "groups cells"]  # CLIP's cosine with the sentence that says the scene, mean over squares


def balanced_motions(groups: int, people: int, cells: int = CELLS) -> tuple[Motions, Motions]:
    """What everybody does in their source, and what they are asked to do.

    In every group all 35 cells are asked of everybody once, and neighbours are asked for other expressions and other
    poses. With 35 groups, or a multiple, everybody's place sees every source with every target equally often, so that
    a copy of the source has the right expression in 1/7 of the cells and the right pose in 1/5.

    Args:
        cells: fewer than 35 are spread evenly over all, and not balanced.
    """
    g, i = np.arange(groups)[:, None, None], np.arange(people)
    e, p = np.divmod(np.linspace(0, CELLS - 1, cells).round().astype(int)[:, None], len(POSES))
    expression = (e + i * (1 + g % 6)) % len(EXPRESSIONS)
    pose = (p + i * (1 + g % 4)) % len(POSES)
    before = (expression + pose + g + 2 * i) % len(EXPRESSIONS), (pose + expression + g + i) % len(POSES)
    return np.stack(before, axis=3), np.stack([expression, pose], axis=3)


def motion_of(motion: Int[np.ndarray, "2"]) -> Motion:
    """A motion in names."""
    return Motion(EXPRESSIONS[motion[0]], list(POSES)[motion[1]])


def scene_of(group: int, cell: int) -> int:
    """Index of the scene that a picture is asked for."""
    return (group + cell) % len(SCENES)


def lineup(who: Sequence[Identity], motions: Int[np.ndarray, "people 2"], scene: int, seed: int = 0) -> Picture:
    """The perfect answer: everybody in the middle of their place, doing what is asked of them."""
    size, yaws = _size(len(who)), list(POSES.values())
    placed = (
        Placement(one, EXPRESSIONS[e], yaws[p], (i + 0.5) / len(who), _middle(size), size)
        for i, (one, (e, p)) in enumerate(zip(who, motions, strict=True))
    )
    return Picture(tuple(placed), SCENES[scene], scene_seed=seed)


def picture_size(people: int) -> tuple[int, int]:
    """Height and width [px] of a picture of so many."""
    return HEIGHT, HEIGHT if people == 1 else STRIP * people


def box_of(person: int, people: int) -> Box | None:
    """Where somebody is asked to be; wherever they like when they are alone."""
    if people == 1:
        return None
    size = _size(people)
    return person / people, _middle(size) - 0.9 * size, (person + 1) / people, _middle(size) + 0.6 * size


def place_crops(image: Rgb, people: int) -> list[Rgb]:
    """Each place as a picture of one creature, 64 px."""
    edges = np.linspace(0, image.shape[1], people + 1).round().astype(int)
    size = _size(people)
    return [
        close_up(image[:, left:right], ((right - left) / 2, _middle(size) * len(image)), size * len(image))
        for left, right in pairwise(edges.tolist())
    ]


def close_up(image: Rgb, middle: tuple[float, float], body: float) -> UInt8[np.ndarray, "64 64 3"]:
    """A creature where, and as large as, the nets know it; beyond the picture its edge repeats.

    Args:
        middle: x, y of the body [px]. body: its height [px].
    """
    side = body / _ALONE
    x0, y0 = middle[0] - side / 2, middle[1] - _middle(_ALONE) * side
    zoom = HEIGHT / side
    matrix = np.array([[zoom, 0, (zoom - 1) / 2 - zoom * x0], [0, zoom, (zoom - 1) / 2 - zoom * y0]])
    return warp(np.ascontiguousarray(image), matrix, HEIGHT)


def read_people(
    judges: Sequence[nn.Module],
    identity: nn.Module,
    encoders: Encoders,
    sources: UInt8[np.ndarray, "groups cells people 64 64 3"],
    sentences: Sequence[str],
    images: UInt8[np.ndarray, "groups cells H W 3"],
) -> PeopleReadings:
    """Reads every place with every oracle, and compares every face with everybody's in their sources.

    Args:
        sources: close-ups. sentences: of each picture, group by group, what it should show of a scene.
    """
    groups, cells, people = sources.shape[:3]
    flat = list(images.reshape(-1, *images.shape[2:]))
    places = [crop for image in flat for crop in place_crops(image, people)]
    read = [read_values(oracle, places) for oracle in judges]
    squares = [square for image in flat for square in _squares(image)]
    scenes = np.stack([read_values(oracle, squares)["scene"] for oracle in judges])
    found = embed_creatures(identity, places).reshape(groups, cells, people, -1)
    wanted = embed_creatures(identity, list(sources.reshape(-1, *sources.shape[3:]))).reshape(groups, cells, people, -1)
    return PeopleReadings(
        {n: np.stack([one[n] for one in read]).reshape(-1, groups, cells, people).astype(np.int8) for n in _READ},
        np.einsum("gcad,gcbd->gcab", found, wanted).astype(np.float32),
        scenes.reshape(len(judges), groups, cells, -1).astype(np.int8),
        _alignment(encoders, sentences, squares).reshape(groups, cells),
    )


def joined(parts: Sequence[PeopleReadings]) -> PeopleReadings:
    """Several groups' readings as one."""
    return PeopleReadings(
        {name: np.concatenate([part.values[name] for part in parts], axis=1) for name in parts[0].values},
        np.concatenate([part.faces for part in parts]),
        np.concatenate([part.scenes for part in parts], axis=1),
        np.concatenate([part.text for part in parts]),
    )


def save_people(path: Path, readings: PeopleReadings) -> None:
    """Writes one .npz. Cosines are kept in half precision (about 3 digits)."""
    arrays: dict[str, Any] = {name: getattr(readings, name).astype(np.float16) for name in ("faces", "text")}
    arrays |= {"scenes": readings.scenes} | {f"value.{name}": array for name, array in readings.values.items()}
    save_arrays(path, arrays)


def load_people_readings(path: Path) -> PeopleReadings:
    """What `save_people` wrote."""
    with np.load(path, allow_pickle=False) as stored:
        values = {name.removeprefix("value."): stored[name] for name in stored.files if name.startswith("value.")}
        faces, text = (stored[name].astype(np.float32) for name in ("faces", "text"))
        return PeopleReadings(values, faces, stored["scenes"], text)


def _alignment(encoders: Encoders, sentences: Sequence[str], squares: Sequence[Rgb]) -> Float[np.ndarray, " pictures"]:
    """Mean over the squares of each picture."""
    said = unit(encoders.clip_text_embeddings(list(sentences)).float().cpu().numpy())
    parts = [squares[start : start + AT_ONCE] for start in range(0, len(squares), AT_ONCE)]
    shown = unit(np.concatenate([encoders.clip_image_embeddings(part).float().cpu().numpy() for part in parts]))
    return np.einsum("id,isd->is", said, shown.reshape(len(said), -1, shown.shape[1])).mean(axis=1).astype(np.float32)


def _squares(image: Rgb) -> list[Rgb]:
    """A picture, or of a wide one its left and its right end: the nets know squares of creatures that are whole."""
    side = image.shape[0]
    ends = [image[:, :side], image[:, -side:]] if image.shape[1] > side else [image]
    return [np.ascontiguousarray(end) for end in ends]


def _size(people: int) -> float:
    return _ALONE if people == 1 else _ABREAST


def _middle(size: float) -> float:
    """Height of the middle of a body of this size, fraction of the picture."""
    return _GROUND - 0.55 * size
