"""VariFace-shaped shards: everybody's pictures in seven expressions and five poses, with their features.

    manifest.json                                        as of a dataset of pairs, with its one dataset "faces"
    faces/rows/part-00000-<content>.parquet              FaceRow of each picture that can be used
    faces/<family>-<fingerprint>/part-00000-<content>.parquet    its key and a feature; rows as in rows
    faces/rejected/part-00000-<content>.parquet          FaceRow of each other, with the reason

Families: identity and map by the face library, hidden by CLIP, text and prompt by the text encoder, vae. A part holds
whole people, so that each can be made by itself.
"""

import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field

from flexip.rows import SPLITS, FaceRow, Split
from pipelines import ledger, shards
from pipelines.outputs import STAGING
from pipelines.records import StageCount, to_table
from pipelines.settings import Settings
from pipelines.shards import FACES, DatasetError, Manifest, PairDataset, read_manifest

if TYPE_CHECKING:
    from flexip.encoders import EncoderNames, Encoders
    from flexip.faces import FaceLibrary

FAMILIES = ("identity", "hidden", "text", "vae", "map", "prompt")
_ENCODER = {"identity": FACES, "map": FACES, "prompt": "text"}  # family -> whose fingerprint it has; else its own


class FaceSettings(Settings):
    """What decides the bytes of a dataset of faces, beside the encoders and the face library."""

    train: int = Field(default=200, ge=2, description="people to train on, 35 pictures each")
    val: int = Field(default=10, ge=0, description="people held out for validation")
    test: int = Field(default=20, ge=0, description="people held out for test")
    side: int = Field(default=64, ge=32, description="side of a picture [px]; training resizes to the base model's")
    least_similarity: float = Field(
        default=0.5, ge=-1, le=1, description="least cosine of a face with the person's mean; below it is another's"
    )
    people_per_file: int = Field(default=16, ge=1, description="people in one Parquet file")
    dtype: str = Field(default="float16", pattern="^(float16|float32)$", description="storage of features")
    threads: int = Field(default=1, ge=1, description="CPU threads of one encoding actor")
    seed: int = Field(default=0, ge=0, description="of the scenes")


@dataclass(frozen=True)
class FacePart:
    """The people of one part: creatures of the pocket world, by split and number."""

    number: int
    people: list[tuple[Split, int]]

    @property
    def name(self) -> str:
        """Of its record."""
        return f"faces-{self.number:05d}"


class FaceDataset(PairDataset):
    """Face rows and their features, read as pairs are."""

    names = (FACES,)
    table = "rows"
    row_class = FaceRow
    told = ("key", "person")

    def people(self, split: Split) -> dict[str, list[int]]:
        """The rows of everybody, in the order in which people first appear."""
        if not self.size(FACES, split):
            return {}
        everybody: dict[str, list[int]] = {}
        for row, person in enumerate(self.pairs(FACES, split, ["person"])["person"].to_pylist()):
            everybody.setdefault(person, []).append(row)
        return everybody


def open_faces_dataset(path: str | Path, cache_bytes: int = 1 << 30) -> FaceDataset:
    """Open a dataset of faces for reading. Raises DatasetError."""
    manifest = read_manifest(path)
    if FACES not in manifest.sizes:
        raise DatasetError(f"{path}: holds pairs and no faces; make one with python -m jobs.curate faces")
    return FaceDataset(Path(path), manifest, cache_bytes)


def plan_parts(settings: FaceSettings) -> list[FacePart]:
    """Everybody, in parts of fixed size."""
    everybody: list[tuple[Split, int]] = [
        (split, number) for split in SPLITS for number in range(getattr(settings, split))
    ]
    size = settings.people_per_file
    return [FacePart(n, everybody[start : start + size]) for n, start in enumerate(range(0, len(everybody), size))]


def write_part(
    part: FacePart, settings: FaceSettings, encoders: "Encoders", library: "FaceLibrary", output: Path
) -> dict[str, Any]:
    """Draws, looks at, encodes and writes everybody of a part; the record of it for the ledger."""
    from flexip.casting import wording_of
    from pipelines.variface import count_faces, face_columns

    rows, columns, count = list[FaceRow](), list[dict[str, np.ndarray]](), StageCount()
    for found in _people(part, settings, library):
        count.merge(count_faces(found))
        rows += found
        accepted = [row for row in found if row.status == "accepted"]
        if accepted:
            columns.append(face_columns(encoders, accepted, wording_of(encoders)))
    kept = [row for row in rows if row.status == "accepted"]
    name = shards.part_name(
        part.number, hashlib.sha256(json.dumps([row.key for row in rows]).encode()).hexdigest()[:12]
    )
    files = [
        shards.write_table(output, f"{FACES}/{folder}/{name}", to_table(some, FaceRow))
        for folder, some in (("rows", kept), ("rejected", [row for row in rows if row.status != "accepted"]))
        if some
    ]
    marks = fingerprints(encoders.fingerprints, library)
    for family in FAMILIES if kept else ():
        values = np.concatenate([one[family] for one in columns]).astype(settings.dtype)
        table = shards.feature_table([row.key for row in kept], family, values)
        files.append(shards.write_table(output, f"{shards.feature_folder(FACES, family, marks[family])}/{name}", table))
    splits = Counter(row.split for row in kept)
    people = Counter(split for split, _ in {(row.split, row.person) for row in kept})
    return {
        "files": [dataclasses.asdict(entry) for entry in files],
        "count": dataclasses.asdict(count),
        "rows": dict(splits),
        "people": dict(people),
    }


def fingerprints(encoders: Mapping[str, str], library: "FaceLibrary") -> dict[str, str]:
    """Of each family; `encoders` are those of their own families."""
    marks = {**encoders, FACES: library.fingerprint}
    return {family: marks[_ENCODER.get(family, family)] for family in FAMILIES}


def describe(names: "EncoderNames", *, gpu: bool, threads: int) -> dict[str, Any]:
    """What identifies the encoders and the face library, and what they make."""
    from flexip.faces import open_faces
    from flexip.motion import MAP
    from pipelines.features import describe_encoders

    info, library = describe_encoders(names, gpu=gpu, threads=threads), open_faces("pocket")
    shapes: dict[str, Sequence[int]] = info["shapes"]
    shapes |= {"identity": (library.identity_width,), "map": (1, MAP, MAP), "prompt": shapes["text"][-1:]}
    return info | {
        "fingerprints": fingerprints(info["fingerprints"], library),
        "shapes": {family: list(shapes[family]) for family in FAMILIES},
        "tools": {FACES: library.fingerprint},
    }


def identity_of(settings: FaceSettings, info: dict[str, Any]) -> dict[str, Any]:
    """What decides the bytes."""
    return settings.model_dump(mode="json") | {"encoders": info["fingerprints"], "device": info["device"]}


def finished(output: Path, settings: FaceSettings, info: dict[str, Any]) -> Manifest | None:
    """The dataset that this very curation has made before. Raises DatasetError for one that something else made."""
    if not (output / shards.MANIFEST).is_file():
        return None
    manifest = read_manifest(output)
    theirs = manifest.config | {"encoders": manifest.fingerprints, "device": manifest.device}
    if theirs != identity_of(settings, info):
        raise DatasetError(f"output = {output}: holds a dataset of other settings or models; give another folder")
    ledger.discard(output / STAGING)
    return manifest


def make_manifest(
    settings: FaceSettings, names: "EncoderNames", info: dict[str, Any], records: Sequence[dict[str, Any]]
) -> Manifest:
    """The manifest, still without its list of files. Raises DatasetError when no face could be used."""
    count = StageCount()
    for record in records:
        count.merge(StageCount(**record["count"]))
    if not count.accepted:
        raise DatasetError(f"faces: not one picture of {count.total} was accepted; {count.rejected}")
    rows, people = (sum((Counter(record[name]) for record in records), Counter()) for name in ("rows", "people"))
    return Manifest(
        schema_version=shards.SCHEMA_VERSION,
        config=settings.model_dump(mode="json"),
        encoders=dataclasses.asdict(names),
        fingerprints=dict(info["fingerprints"]),
        shapes=dict(info["shapes"]),
        dtype=settings.dtype,
        device=info["device"],
        tools=dict(info["tools"]),
        counts={"face": {"inputs": count.total, **dataclasses.asdict(count)}},
        sizes={FACES: {split: rows[split] for split in SPLITS}},
        clusters={split: people[split] for split in SPLITS},
    )


def _people(part: FacePart, settings: FaceSettings, library: "FaceLibrary") -> Iterator[list[FaceRow]]:
    from flexip.pocket.identity import identity
    from pipelines.variface import face_rows, pocket_cells

    for split, number in part.people:
        cells = list(pocket_cells(identity(split, number), settings.seed, settings.side))
        yield face_rows(cells, library, settings.side, settings.least_similarity)
