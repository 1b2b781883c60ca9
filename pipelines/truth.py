"""Quality of a curation against the truth, where the input has some: a rendered world's `ground_truth.jsonl`.

A line of it is one frame: `file`, `frame`, `size` [height, width], `scene`, and per creature `identity` and `box` (x0,
y0, x1, y1 of the visible part [px]); see flexip.pocket.video.
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path, PurePosixPath
from typing import Any

from flexip.rows import DATASETS
from pipelines.settings import CurationSettings
from pipelines.shards import read_part

TABLE = "ground_truth.jsonl"
GOALS = {"box_iou": 0.7, "one_identity": 0.98, "clip_yield": 0.6}
MATCHED = 0.25  # least IoU of a box with the creature that it is taken to show
GOOD = 0.5  # below this IoU a box is looked into: what does it show?

Box = Sequence[float]
Truth = Mapping[tuple[str, int], dict[str, Any]]  # (uri, frame) -> line of the table


@dataclass(frozen=True)
class Quality:
    """Figures of one dataset; shares are 0..1."""

    subjects: int  # accepted, in frames of which the truth is known
    box_iou: float  # mean over them of the IoU with the creature that fits best
    pairs: int
    one_identity: float  # share of pairs both of whose boxes show one creature
    possible_clips: int  # clips that show a creature well enough, twice, long enough apart
    clip_yield: float  # share of them with a true variant pair
    possible_creatures: int  # the same for every creature of every clip
    creature_yield: float
    identities: int  # in pairs
    leaks: int  # identities whose pairs are in several splits
    faults: dict[str, int] = field(default_factory=dict)  # what boxes of an IoU below GOOD show -> number


@dataclass(frozen=True)
class _Subject:
    clip: str
    identity: str  # empty: its box shows no creature
    iou: float
    fault: str


def read_truth(input_path: str) -> Truth:
    """The table beside the input, or up to two folders above; empty where there is none."""
    start = Path(input_path)
    for folder in (start, *start.parents[:2]):
        if (folder / TABLE).is_file():
            lines = [json.loads(line) for line in (folder / TABLE).read_text(encoding="utf-8").splitlines()]
            inside = start if start.is_dir() else start.parent
            return {(_below(line["file"], inside, folder), line["frame"]): line for line in lines}
    return {}


def measure(dataset: Path, truth: Truth, settings: CurationSettings) -> Quality | None:
    """Compares the rows of a dataset's folder with the truth; None where none of them is in it."""
    columns = ["key", "source", "kind", "unit", "status", "frame_index", "timestamp", "box", "scores"]
    rows = [row for part in sorted(dataset.glob("subjects/*.parquet")) for row in read_part(part, columns).to_pylist()]
    frames = [row for row in rows if row["unit"] == "frame" and (row["source"], row["frame_index"]) in truth]
    found = {
        row["key"]: _judge(row, truth[(row["source"], row["frame_index"])])
        for row in rows
        if row["unit"] == "subject" and row["status"] == "accepted" and (row["source"], row["frame_index"]) in truth
    }
    if not frames:
        return None
    pairs = [pair for name in DATASETS for pair in _pairs(dataset, name)]
    right = [pair for pair in pairs if _identity(pair, found)]
    variants = {
        (found[pair["target_key"]].clip, _identity(pair, found)) for pair in right if pair["dataset"] == "variant"
    }
    possible = _possible(frames, truth, settings)
    clips = {clip for clip, _ in possible}
    homes: dict[str, set[str]] = {}
    for pair in pairs:
        for key in {pair["reference_key"], pair["target_key"]} & found.keys():
            homes.setdefault(found[key].identity, set()).add(pair["split"])
    homes.pop("", None)
    return Quality(
        subjects=len(found),
        box_iou=_mean(subject.iou for subject in found.values()),
        pairs=len(pairs),
        one_identity=len(right) / max(len(pairs), 1),
        possible_clips=len(clips),
        clip_yield=len(clips & {clip for clip, _ in variants}) / max(len(clips), 1),
        possible_creatures=len(possible),
        creature_yield=len(possible & variants) / max(len(possible), 1),
        identities=len(homes),
        leaks=sum(len(splits) > 1 for splits in homes.values()),
        faults=dict(Counter(subject.fault for subject in found.values() if subject.fault).most_common()),
    )


def _judge(row: Mapping[str, Any], line: Mapping[str, Any]) -> _Subject:
    height, width = line["size"]
    box = [edge * side for edge, side in zip(row["box"], (width, height, width, height), strict=True)]
    ious = [(iou(box, creature["box"]), creature["identity"]) for creature in line["creatures"]]
    best, identity = max(ious, default=(0.0, ""))
    fault = "" if best >= GOOD else _fault(box, [creature["box"] for creature in line["creatures"]])
    return _Subject(_clip(row), identity if best >= MATCHED else "", best, fault)


def _fault(box: Box, creatures: Sequence[Box]) -> str:
    """What a box shows that fits no creature well."""
    if sum(_common(box, other) > 0.5 * _size(other) > 0 for other in creatures) > 1:
        return "several creatures in one"
    best = max(creatures, key=lambda other: iou(box, other), default=None)
    if best is None or iou(box, best) < 0.1:
        return "something of the scene"
    return "part of a creature" if _common(box, best) > 0.6 * _size(box) else "a creature with its surroundings"


def _possible(frames: Sequence[Mapping[str, Any]], truth: Truth, settings: CurationSettings) -> set[tuple[str, str]]:
    """(clip, identity) that some two of the sampled frames show: large enough, in one scene, and far enough apart."""
    seen: dict[tuple[str, str], list[tuple[str, float, float]]] = {}
    for frame in frames:
        line = truth[(frame["source"], frame["frame_index"])]
        moment = frame["timestamp"], dict(frame["scores"])["duration"]
        for creature in line["creatures"]:
            if _wanted(creature["box"], line["size"], settings):
                scene = line["scene"] if frame["kind"] == "video" else ""  # tracks end at a cut, sets of stills do not
                seen.setdefault((_clip(frame), creature["identity"]), []).append((scene, *moment))
    limits = settings.pairs
    return {
        place
        for place, moments in seen.items()
        if any(
            a[0] == b[0] and abs(a[1] - b[1]) >= (max(limits.min_gap_s, limits.min_gap_fraction * a[2]) if a[0] else 0)
            for a, b in combinations(moments, 2)
        )
    }


def _wanted(box: Box, size: Sequence[int], settings: CurationSettings) -> bool:
    limits, share = settings.filters, _size(box) / (size[0] * size[1])
    return limits.area_min <= share <= limits.area_max and min(box[2] - box[0], box[3] - box[1]) >= limits.side_min


def _identity(pair: Mapping[str, Any], found: Mapping[str, _Subject]) -> str:
    """The one creature that both sides of a pair show; empty where there is none."""
    sides = {found[key].identity if key in found else "" for key in (pair["reference_key"], pair["target_key"])}
    return sides.pop() if len(sides) == 1 else ""


def _pairs(dataset: Path, name: str) -> list[dict[str, Any]]:
    columns = ["reference_key", "target_key", "dataset", "split"]
    parts = sorted((dataset / name / "pairs").glob("*.parquet"))
    return [pair for part in parts for pair in read_part(part, columns).to_pylist()]


def _clip(row: Mapping[str, Any]) -> str:
    return PurePosixPath(row["source"]).parent.as_posix() if row["kind"] == "multiview" else row["source"]


def iou(a: Box, b: Box) -> float:
    """Intersection over union of two boxes, 0..1; a box without area meets none."""
    common = _common(a, b)
    return common / (_size(a) + _size(b) - common) if common else 0.0


def _common(a: Box, b: Box) -> float:
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))


def _size(box: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def _below(file: str, inside: Path, folder: Path) -> str:
    """The name that a file of the table has in an input that lies inside the table's folder."""
    return (folder / file).relative_to(inside).as_posix() if (folder / file).is_relative_to(inside) else ""


def _mean(values: Iterable[float]) -> float:
    listed = list(values)
    return sum(listed) / max(len(listed), 1)
