"""Near-duplicates of sources: files that differ in their bytes and look the same, such as a film encoded again.

Every unit stages the looks of its sources; when all are known, the plan compares them. Perceptual hashes are compared
inside bands, so that ten million sources need no ten million squared comparisons, and what they suspect is confirmed
by the embeddings of the subjects, where both have some: the same scene with somebody else in it is no duplicate.
Copies that are cut, cropped or mirrored are not found.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Int64, UInt8
from PIL import Image

from flexip.images import Rgb, decode_image
from flexip.rows import SourceKind, SubjectRow
from pipelines import shards
from pipelines.records import Crop, from_table, to_table
from pipelines.settings import DuplicateSettings

NEAR = "near_duplicate"
BITS = 256  # of a signature
MOMENTS = (0.125, 0.375, 0.625, 0.875)  # of a video at which it is hashed, as fractions of its length
BAND = 2  # [bytes]: sources are compared when so many successive bytes are equal
WINDOW = 256  # so many neighbours of a band at most: bounds the work where thousands look the same
_AT_ONCE = 1 << 18  # rows compared in one step: some tens of MB


@dataclass(frozen=True)
class Look:
    """How one source looks."""

    source: str  # uri
    kind: SourceKind
    cluster: str
    signature: bytes  # 256 bits; empty where no frame was accepted


@dataclass(frozen=True)
class Vector:
    """The embedding of one accepted subject."""

    key: str  # SubjectRow.key
    source: str
    track: str
    cluster: str
    values: bytes  # float32 (Dd,), unit length

    @property
    def direction(self) -> Float32[np.ndarray, "Dd"]:
        """The embedding as an array."""
        return np.frombuffer(self.values, np.float32)


@dataclass(frozen=True)
class Duplicate:
    """A source that looks like an earlier one."""

    source: str
    of: str
    unit: str  # of the source


def stage_looks(
    folder: Path, unit: str, rows: Sequence[SubjectRow], crops: Sequence[Crop], embeddings: Float32[np.ndarray, "S Dd"]
) -> None:
    """Writes what the plan will compare; embeddings in the crops' order."""
    sources = [row for row in rows if row.unit == "source" and row.status == "accepted"]
    looks = [_look(source, rows) for source in sources]
    subjects = {row.key: row for row in rows if row.unit == "subject" and row.status == "accepted"}
    found = [(subjects[crop.key], e) for crop, e in zip(crops, embeddings, strict=True) if crop.key in subjects]
    vectors = [Vector(s.key, s.source, s.track, s.cluster, e.astype(np.float32).tobytes()) for s, e in found]
    shards.write_table(folder, f"{_stem(unit)}.looks.parquet", to_table(looks, Look))
    shards.write_table(folder, f"{_stem(unit)}.vectors.parquet", to_table(vectors, Vector))


def read_looks(folder: Path, units: Sequence[str]) -> Iterator[tuple[str, Look]]:
    """The looks of all sources of the units, with their unit."""
    for unit in units:
        for look in from_table(shards.read_part(folder / f"{_stem(unit)}.looks.parquet"), Look):
            yield unit, look


def read_vectors(folder: Path, unit: str) -> list[Vector]:
    """The embeddings of a unit's accepted subjects."""
    return from_table(shards.read_part(folder / f"{_stem(unit)}.vectors.parquet"), Vector)


def near_duplicates(folder: Path, units: Sequence[str], settings: DuplicateSettings) -> list[Duplicate]:
    """Every source that looks like an earlier one, in their order. Earlier is by uri, as for exact copies.

    A source is compared with those that are kept: a row of small changes does not make its ends duplicates. Sources of
    one clip are views of one subject and are never duplicates of each other.
    """
    if settings.hash_bits < 0:
        return []
    known = sorted(((look, unit) for unit, look in read_looks(folder, units) if look.signature), key=_uri)
    suspected = [(i, j) for i, j in _suspects(known, settings) if known[i][0].cluster != known[j][0].cluster]
    directions = _directions(folder, known, {place for pair in suspected for place in pair})
    result: dict[str, Duplicate] = {}
    for i, j in sorted(suspected, key=lambda ij: (ij[1], ij[0])):
        first, (look, unit) = known[i][0].source, known[j]
        if not {first, look.source} & result.keys() and _alike(directions, first, look.source, settings.embedding_min):
            result[look.source] = Duplicate(look.source, first, unit)
    return list(result.values())


def near(signatures: UInt8[np.ndarray, "N bytes"], most: int, band: int = BAND) -> Int64[np.ndarray, "P 2"]:
    """Pairs (i < j) of signatures that differ in at most `most` bits and agree in some band of `band` bytes.

    For every band the rows are sorted by it and what follows it, and each is compared with the next WINDOW rows of the
    same band: N log N work and at most N WINDOW comparisons for each (the sorted neighbourhood method, Hernandez and
    Stolfo, SIGMOD 1995). Where a band has no more rows than that, no pair that agrees in it is missed.
    """
    found = [np.zeros((0, 2), np.int64)]
    for start in range(0, signatures.shape[1] - band + 1, band):
        rolled = np.ascontiguousarray(np.roll(signatures, -start, axis=1))
        order = np.argsort(rolled.view(f"S{rolled.shape[1]}").ravel(), kind="stable")
        found += _in_window(rolled[order], order, most, band)
    pairs = np.sort(np.concatenate(found), axis=1)
    return np.unique(pairs, axis=0)


def signature(frames: Sequence[Rgb]) -> bytes:
    """256 bits: the perceptual hash of one still, 16 x 16, or those of four frames of a video, 8 x 8 each."""
    import imagehash

    side = 16 if len(frames) == 1 else 8
    hashes = [imagehash.phash(Image.fromarray(frame), hash_size=side).hash for frame in frames]
    return np.packbits(np.concatenate([bits.ravel() for bits in hashes])).tobytes()


def _look(source: SubjectRow, rows: Sequence[SubjectRow]) -> Look:
    mine = [row for row in rows if row.unit == "frame" and row.status == "accepted" and row.source == source.source]
    if source.kind == "video" and mine:
        wanted = [moment * row.scores["duration"] for moment in MOMENTS for row in mine[:1]]
        mine = [min(mine, key=lambda row: (abs(row.timestamp - at), row.frame_index)) for at in wanted]
    mark = signature([decode_image(row.frame, min_side=1) for row in mine]) if mine else b""
    return Look(source.source, source.kind, source.cluster, mark)


def _suspects(known: Sequence[tuple[Look, str]], settings: DuplicateSettings) -> Iterator[tuple[int, int]]:
    """Places in `known` of videos, and of stills, whose hashes are near."""
    for videos in (True, False):
        places = [i for i, (look, _) in enumerate(known) if (look.kind == "video") == videos]
        if places:
            marks = np.frombuffer(b"".join(known[i][0].signature for i in places), np.uint8).reshape(len(places), -1)
            yield from ((places[i], places[j]) for i, j in near(marks, settings.hash_bits).tolist())


def _directions(folder: Path, known: Sequence[tuple[Look, str]], places: set[int]) -> dict[str, np.ndarray]:
    """Embeddings (n, Dd) of the subjects of the sources at these places; none for one without subjects."""
    wanted = {known[place][0].source for place in places}
    found: dict[str, list[np.ndarray]] = {}
    for unit in sorted({known[place][1] for place in places}):
        for vector in read_vectors(folder, unit):
            if vector.source in wanted:
                found.setdefault(vector.source, []).append(vector.direction)
    return {source: np.stack(vectors) for source, vectors in found.items()}


def unit_mean(vectors: Sequence[np.ndarray]) -> Float32[np.ndarray, "Dd"]:
    """The mean of directions, of unit length."""
    mean = np.mean(vectors, axis=0)
    return (mean / max(float(np.linalg.norm(mean)), 1e-12)).astype(np.float32)


def _alike(directions: dict[str, np.ndarray], first: str, other: str, least: float) -> bool:
    """Whether somebody is in both; of whom else the filters accept in each, the codec's noise decides."""
    if first not in directions or other not in directions:
        return True  # nothing to see but the picture: the hash decides
    return float((directions[first] @ directions[other].T).max()) >= least


def _in_window(rows: np.ndarray, order: np.ndarray, most: int, band: int) -> Iterator[np.ndarray]:
    """Pairs of the sorted rows that are near, by their places before sorting."""
    words = rows.view(np.uint64)
    changes = np.flatnonzero((rows[1:, :band] != rows[:-1, :band]).any(axis=1)) + 1
    ends = np.repeat(np.append(changes, len(rows)), np.diff(changes, prepend=0, append=len(rows)))
    for step in range(1, min(WINDOW, len(rows) - 1) + 1):
        first = np.flatnonzero(np.arange(len(rows)) + step < ends)
        if not len(first):
            return
        for start in range(0, len(first), _AT_ONCE):
            some = first[start : start + _AT_ONCE]
            apart = np.bitwise_count(words[some] ^ words[some + step]).sum(axis=1)
            hit = some[apart <= most]
            yield np.stack([order[hit], order[hit + step]], axis=1)


def _uri(known: tuple[Look, str]) -> str:
    return known[0].source


def _stem(unit: str) -> str:
    return f"units/{unit[:2]}/{unit}"
