"""Films of creatures that walk, turn and change their mood; and whole folders of films and stills with their truth."""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from flexip.pocket.face import EXPRESSIONS
from flexip.pocket.identity import Identity, sample_identity
from flexip.pocket.scenes import SCENES
from flexip.pocket.styles import STYLES
from flexip.pocket.world import Frame, Picture, Placement, place, render
from flexip.rows import Split

VIDEO_SIZE = (192, 256)  # height, width [px]; decord fails on widths that are not a multiple of 16
STILL_SIZE = 192  # [px]


@dataclass(frozen=True)
class _Walk:
    """One creature's way through a film: from x0 to x1, in one mood and then another."""

    start: Placement
    x1: float
    moods: tuple[str, str]
    turn_at: float  # when the mood changes, as a share of the shot
    leaves: bool = False  # walks out of the picture and comes back


def film(seed: int, frames: int, split: Split = "train", creatures: int | None = None) -> list[Picture]:
    """The pictures of a film of one to three creatures: one shot, or two with a cut to another scene between them.

    The camera stands still or pans slowly. Now and then a creature leaves the picture and returns.
    """
    rng = np.random.default_rng((seed, 77))
    count = creatures if creatures is not None else int(rng.choice([1, 2, 3], p=(0.7, 0.2, 0.1)))
    people, style = [sample_identity(rng, split) for _ in range(count)], _film_style(rng)
    cut = int(frames * rng.uniform(0.4, 0.6)) if frames >= 12 and rng.random() < 0.2 else frames
    first = _shot(people, style, cut, rng)
    if cut == frames:
        return first
    other = str(rng.choice([scene for scene in SCENES if scene != first[0].scene]))
    return first + _shot(people, style, frames - cut, rng, other)


def _shot(
    people: list[Identity], style: str, frames: int, rng: np.random.Generator, scene: str | None = None
) -> list[Picture]:
    base = place(people, rng, style=style, scene=scene)
    pan = float(rng.choice([0.0, 0.0, 0.25, -0.25]))
    walks = [_draw_walk(placed, len(people), rng) for placed in base.creatures]
    return [
        replace(base, creatures=tuple(_at(walk, float(share)) for walk in walks), pan=pan * float(share))
        for share in np.linspace(0.0, 1.0, frames)
    ]


def write_video(
    path: Path,
    seed: int,
    seconds: float = 2.0,
    fps: int = 12,
    size: tuple[int, int] = VIDEO_SIZE,
    split: Split = "train",
    creatures: int | None = None,
) -> list[dict[str, Any]]:
    """Encodes a film as mp4 at `size` (height, width) [px]; returns the truth of each frame, see `truth`.

    OSError where this build of OpenCV cannot write the file.
    """
    pictures = film(seed, round(seconds * fps), split, creatures)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), float(fps), (size[1], size[0]))
    if not writer.isOpened():
        raise OSError(f"{path}: OpenCV cannot write an mp4 of {size[1]}x{size[0]} here")
    records = []
    for index, picture in enumerate(pictures):
        frame = render(picture, size)
        writer.write(cv2.cvtColor(frame.image, cv2.COLOR_RGB2BGR))
        records.append({"frame": index, "timestamp": index / fps, **truth(picture, frame)})
    writer.release()
    return records


def make_world(
    directory: Path, videos: int, stills: int, seed: int, split: Split = "train", stills_per_creature: int = 4
) -> Path:
    """Writes `videos/*.mp4`, `stills/<creature>/*.png` and `ground_truth.jsonl`, a line per frame; returns the folder.

    Each line has `file` (relative), `frame` and `timestamp` [s] (0 for stills), and what `truth` returns. The stills of
    one folder show one creature in several scenes, styles, moods and poses.
    """
    (directory / "videos").mkdir(parents=True, exist_ok=True)
    lines: list[dict[str, Any]] = []
    for index in range(videos):
        name = f"videos/video-{index:04d}.mp4"
        records = write_video(directory / name, seed * 100_003 + index, split=split)
        lines += [{"file": name, **record} for record in records]
    for index in range(stills):
        creature, number = divmod(index, stills_per_creature)
        name = f"stills/creature-{creature:04d}/{number:02d}.png"
        who = sample_identity(np.random.default_rng((seed, creature, 5)), split)
        picture = place([who], np.random.default_rng((seed, index, 6)))
        frame = render(picture, STILL_SIZE)
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        if not cv2.imwrite(str(directory / name), cv2.cvtColor(frame.image, cv2.COLOR_RGB2BGR)):
            raise OSError(f"{directory / name}: cannot write")
        lines.append({"file": name, "frame": 0, "timestamp": 0.0, **truth(picture, frame)})
    (directory / "ground_truth.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return directory


def truth(picture: Picture, frame: Frame) -> dict[str, Any]:
    """A frame's truth as JSON: scene, style, captions, and per creature its key, attributes, box, mask...

    Boxes are pixels x0, y0, x1, y1; masks are run lengths over the rows, beginning with the count of zeros.
    """
    creatures = [
        {
            "identity": placed.identity.key,
            "attributes": asdict(placed.identity),
            "vector": [round(float(value), 4) for value in frame.identities[k]],
            "expression": placed.expression,
            "pose": placed.pose,
            "accessory": placed.accessory,
            "action": placed.action,
            "box": [float(edge) for edge in frame.boxes[k]],
            "landmarks": [[round(float(value), 2) for value in point] for point in frame.landmarks[k]],
            "mask": run_lengths(frame.masks[k]),
        }
        for k, placed in enumerate(picture.creatures)
    ]
    height, width = frame.image.shape[:2]
    return {
        "size": [height, width],
        "scene": frame.scene,
        "style": frame.style,
        "captions": frame.captions,
        "creatures": creatures,
    }


def run_lengths(mask: np.ndarray) -> list[int]:
    """Lengths of the runs of equal values of a bool mask, row by row, the first run being of zeros (perhaps 0 long)."""
    flat = np.concatenate([[False], mask.ravel(), [not mask.ravel()[-1]]])
    edges = np.flatnonzero(flat[1:] != flat[:-1])
    return np.diff(edges, prepend=0).tolist()


def mask_of(runs: list[int], size: tuple[int, int]) -> np.ndarray:
    """The bool mask (H, W) of `run_lengths`."""
    values = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    return values.reshape(size)


def _film_style(rng: np.random.Generator) -> str:
    return str(rng.choice(STYLES, p=(0.7, 0.1, 0.1, 0.1)))


def _draw_walk(placed: Placement, count: int, rng: np.random.Generator) -> _Walk:
    reach = {1: 0.5, 2: 0.3}.get(count, 0.22)
    way = float(rng.uniform(0.8, 1.0)) * reach * float(rng.choice([-1.0, 1.0]))
    middle = 0.5 if count == 1 else placed.x
    x0 = float(np.clip(middle - way / 2, 0.14, 0.86))
    x1 = float(np.clip(middle + way / 2, 0.14, 0.86))
    moods = tuple(str(mood) for mood in rng.choice(EXPRESSIONS, size=2, replace=False))
    smaller = replace(placed, x=x0, size=0.9 * placed.size)
    return _Walk(smaller, x1, (moods[0], moods[1]), float(rng.uniform(0.35, 0.75)), bool(rng.random() < 0.12))


def _at(walk: _Walk, share: float) -> Placement:
    """The creature at a share of the film: it faces us, turns to its way, walks in hops, and faces us again."""
    start = walk.start
    eased = share * share * (3 - 2 * share)
    x = start.x + (walk.x1 - start.x) * eased
    if walk.leaves:  # out at the nearer side by the middle of the shot, and back to where the walk ends
        x += (1.4 if walk.x1 > start.x else -1.4) * float(np.sin(np.pi * share)) ** 2
    step = 6 * np.pi * eased
    turn = float(np.sin(np.pi * share)) * (0.85 if walk.x1 > start.x else -0.85)
    hop = 0.03 * abs(float(np.sin(step)))
    return replace(
        start,
        x=x,
        y=start.y - hop,
        yaw=turn,
        step=float(step),
        expression=walk.moods[int(share >= walk.turn_at)],
    )
