"""Pictures of people that nobody has trained on, and the faces that a face library finds in them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.people import HEIGHT, close_up, motion_of
from flexip.faces import Face, FaceError, FaceLibrary
from flexip.images import Rgb
from flexip.pocket.face import POSES
from flexip.pocket.identity import Identity, identity
from flexip.pocket.world import place, render

_MOST_RETAKES = 20  # of one picture, until a face is found
_OF_FACE = ("box", "score", "crop", "landmarks", "identity")
_OF_SHOT = ("picture", "close_up", "retakes")


@dataclass(frozen=True)
class Shot:
    """One picture of somebody, and the face in it."""

    picture: Rgb
    close_up: Rgb
    face: Face
    retakes: int  # pictures before it in which no face was found, or several


@dataclass(frozen=True)
class Album:
    """Somebody of the test split, doing some of the 35 motions, each in a scene of its own."""

    who: Identity
    shots: Mapping[int, Shot]  # by cell: expression by expression, pose by pose


def album_of(number: int, cells: Iterable[int], library: FaceLibrary, folder: Path) -> Album:
    """The album with these cells at least. It is kept in the folder, since looking for faces takes a while.

    Raises:
        FaceError: the library finds no face in any of many pictures of one motion.
    """
    path, who = folder / f"{library.fingerprint}-{number:04d}.npz", identity("test", number)
    shots = _load(path) if path.is_file() else {}
    if missing := sorted({*cells} - shots.keys()):
        shots |= {cell: _taken(who, number, cell, library) for cell in missing}
        _save(path, shots)
    return Album(who, shots)


def _taken(who: Identity, number: int, cell: int, library: FaceLibrary) -> Shot:
    for attempt in range(_MOST_RETAKES):
        picture, close = _photograph(who, number, cell, attempt)
        try:
            face = library.only(picture, f"picture {cell} of test person {number}")
        except FaceError:
            if attempt == _MOST_RETAKES - 1:
                raise
        else:
            return Shot(picture, close, face, attempt)
    raise AssertionError("the last attempt returns or raises")


def _photograph(who: Identity, number: int, cell: int, attempt: int) -> tuple[Rgb, Rgb]:
    """The picture, and a close-up of its creature."""
    rng, motion = np.random.default_rng((number, cell, attempt, 47)), motion_of(np.array(divmod(cell, len(POSES))))
    picture = place(
        [who], rng, style="flat", expression=motion.expression, pose=motion.pose, accessory="nothing", action="standing"
    )
    image, (placed,) = render(picture, HEIGHT).image, picture.creatures
    return image, close_up(image, (placed.x * HEIGHT, placed.y * HEIGHT), placed.size * HEIGHT)


def _save(path: Path, shots: Mapping[int, Shot]) -> None:
    columns: dict[str, Any] = {name: np.stack([getattr(shot, name) for shot in shots.values()]) for name in _OF_SHOT}
    columns |= {f"face.{name}": np.stack([getattr(shot.face, name) for shot in shots.values()]) for name in _OF_FACE}
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".draft.npz")
    np.savez_compressed(draft, cells=np.array([*shots]), **columns)
    draft.replace(path)


def _load(path: Path) -> dict[int, Shot]:
    with np.load(path, allow_pickle=False) as kept:
        columns = {name: kept[name] for name in kept.files}
    shots = {}
    for row, cell in enumerate(columns["cells"].tolist()):
        box, score, crop, landmarks, vector = (columns[f"face.{name}"][row] for name in _OF_FACE)
        face = Face(tuple(box.tolist()), float(score), crop, landmarks, vector)
        picture, close, retakes = (columns[name][row] for name in _OF_SHOT)
        shots[cell] = Shot(picture, close, face, int(retakes))
    return shots
