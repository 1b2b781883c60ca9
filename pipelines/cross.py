"""Variant pairs across sources: one subject in two videos, found by the embeddings of its tracks.

Pairs of one video show one scene, one light, one dress; a subject that is found again elsewhere teaches more. It is off
by default, since it is only as good as the embedding. Tracks that are taken for one subject bring their clips into one
identity cluster, whether a pair comes of it or not, so that no subject falls into two splits.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Int64, UInt8

from flexip.images import decode_image, decode_mask
from flexip.rows import PairRow, SubjectRow
from pipelines import shards
from pipelines.crops import cut_out
from pipelines.looks import near, read_vectors, unit_mean
from pipelines.pairs import PairMaker, Subject
from pipelines.records import StageCount, from_table
from pipelines.settings import CurationSettings

PLANES = 256  # random hyperplanes whose sides are an embedding's signature
LINKS = 3  # at most so many pairs of tracks are made of one track: the nearest
TOGETHER = 8  # links in a unit of work


@dataclass(frozen=True)
class Track:
    """One subject in one clip, by the mean of its embeddings."""

    name: str
    unit: str
    source: str
    cluster: str
    direction: Float32[np.ndarray, "Dd"]


@dataclass(frozen=True)
class CrossUnit:
    """Pairs of tracks to be paired together, each as (unit, track, unit, track)."""

    key: str
    links: list[list[str]]


@dataclass(frozen=True)
class Joined:
    """An identity cluster that became part of another."""

    name: str
    into: str
    unit: str  # of its clip


def plan_cross(
    folder: Path, units: Sequence[str], rejected: frozenset[str], identity_min: float
) -> tuple[list[CrossUnit], list[Joined]]:
    """The work, and the clusters that are joined to others."""
    tracks = _tracks(folder, units, rejected)
    found = retrieve(tracks, identity_min)
    links = [
        [tracks[i].unit, tracks[i].name, tracks[j].unit, tracks[j].name] for i, j in _nearest(tracks, found).tolist()
    ]
    groups = [links[start : start + TOGETHER] for start in range(0, len(links), TOGETHER)]
    joint = joined((tracks[i].cluster, tracks[j].cluster) for i, j in found.tolist())
    homes = {track.cluster: track.unit for track in tracks}
    moved = [Joined(name, into, homes[name]) for name, into in joint.items() if name != into]
    return [CrossUnit(f"{_digest(group)}-cross", group) for group in groups], moved


def retrieve(tracks: Sequence[Track], identity_min: float) -> Int64[np.ndarray, "P 2"]:
    """Pairs (i < j) of tracks of different clusters whose directions have at least this cosine.

    Candidates are directions on the same side of most random hyperplanes (Charikar, STOC 2002), compared in bands.
    """
    if len(tracks) < 2:
        return np.zeros((0, 2), np.int64)
    directions = np.stack([track.direction for track in tracks])
    share = float(np.arccos(np.clip(identity_min, -1, 1))) / np.pi  # of the planes that part two such directions
    most = PLANES * (share + 4 * np.sqrt(share * (1 - share) / PLANES))  # four standard deviations more
    pairs = near(_sides(directions), int(np.ceil(most)), band=1)
    cosines = np.einsum("pd,pd->p", directions[pairs[:, 0]], directions[pairs[:, 1]])
    clusters = np.array([track.cluster for track in tracks])
    return pairs[(cosines >= identity_min) & (clusters[pairs[:, 0]] != clusters[pairs[:, 1]])]


def joined(links: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Every cluster with a link -> the first by name of those that it is joined to, directly or through others."""
    parents: dict[str, str] = {}

    def root(name: str) -> str:
        while parents.setdefault(name, name) != name:
            parents[name] = name = parents[parents[name]]
        return name

    for a, b in links:
        first, other = sorted((root(a), root(b)))
        parents[other] = first
    return {name: root(name) for name in sorted(parents)}


def pair_across(
    links: Sequence[Sequence[str]], folder: Path, settings: CurationSettings, target_side: int
) -> tuple[list[PairRow], StageCount]:
    """Pairs of every link, and how each candidate ended. Reads what the units have staged."""
    pairs, count = list[PairRow](), StageCount()
    for first_unit, first, other_unit, other in links:
        frames, ends = {}, list[list[Subject]]()
        for unit, track in ((first_unit, first), (other_unit, other)):
            subjects, seen = _subjects(folder, unit, track, settings)
            frames |= seen
            ends.append(subjects)
        maker = PairMaker(frames, 0.0, settings.pairs, target_side, settings.seed)
        made = maker.across(ends[0], ends[1], count)
        count.add("accepted", "", len(made))
        pairs += made
    return pairs, count


def _tracks(folder: Path, units: Sequence[str], rejected: frozenset[str]) -> list[Track]:
    found: list[Track] = []
    for unit in units:
        members: dict[str, list] = {}
        for vector in read_vectors(folder, unit):
            if vector.source not in rejected:
                members.setdefault(vector.track, []).append(vector)
        for name, vectors in members.items():
            direction = unit_mean([vector.direction for vector in vectors])
            found.append(Track(name, unit, vectors[0].source, vectors[0].cluster, direction))
    return sorted(found, key=lambda track: track.name)


def _nearest(tracks: Sequence[Track], found: Int64[np.ndarray, "P 2"]) -> Int64[np.ndarray, "L 2"]:
    """The nearest first, and no track in more than LINKS of them."""
    directions = [track.direction for track in tracks]
    used: dict[int, int] = {}
    kept = []
    for i, j in sorted(found.tolist(), key=lambda ij: (-float(directions[ij[0]] @ directions[ij[1]]), ij)):
        if max(used.get(i, 0), used.get(j, 0)) < LINKS:
            kept.append((i, j))
            used[i], used[j] = used.get(i, 0) + 1, used.get(j, 0) + 1
    return np.array(sorted(kept), np.int64).reshape(-1, 2)


def _sides(directions: Float32[np.ndarray, "N Dd"]) -> UInt8[np.ndarray, "N bytes"]:
    planes = np.random.default_rng(0).normal(size=(directions.shape[1], PLANES)).astype(np.float32)
    return np.packbits(directions @ planes > 0, axis=1)


def _subjects(
    folder: Path, unit: str, track: str, settings: CurationSettings
) -> tuple[list[Subject], dict[tuple[str, int], np.ndarray]]:
    """The accepted subjects of a track, cut out as when they were found, and the frames that they are in."""
    table = shards.read_part(folder / f"units/{unit[:2]}/{unit}.subjects.parquet")
    rows = [row for row in from_table(table, SubjectRow) if row.status == "accepted"]
    vectors = {vector.key: vector.direction for vector in read_vectors(folder, unit) if vector.track == track}
    wanted = [row for row in rows if row.unit == "subject" and row.key in vectors]
    places = {(row.source_hash, row.frame_index) for row in wanted}
    frames = {
        (row.source_hash, row.frame_index): decode_image(row.frame, min_side=1)
        for row in rows
        if row.unit == "frame" and (row.source_hash, row.frame_index) in places
    }
    subjects = []
    for row in wanted:
        image = frames[(row.source_hash, row.frame_index)]
        crop, mask = cut_out(image, decode_mask(row.mask), row.box, row.key, settings.pairs, settings.seed)
        subjects.append(Subject(row, crop, mask, vectors[row.key]))
    return subjects, frames


def _digest(content: object) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:24]
