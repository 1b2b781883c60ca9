"""Small datasets as curation writes them, with random features of the given encoders' shapes or with their own."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from flexip.encoders import Encoders
from flexip.images import encode_png
from flexip.motion import MAP
from flexip.rows import DATASETS, DatasetName, FaceRow, PairRow, Split, arrow_schema
from pipelines.face_shards import FAMILIES
from pipelines.features import encode_family
from pipelines.records import to_table
from pipelines.shards import (
    FACES,
    SCHEMA_VERSION,
    FileEntry,
    Manifest,
    feature_folder,
    feature_table,
    part_name,
    write_manifest,
    write_table,
)


def write_dataset(
    root: Path, encoders: Encoders, train: int = 12, val: int = 2, seed: int = 0, reference: bytes = b""
) -> Path:
    """`train` + `val` pairs in each of the two datasets, all with one reference picture; returns the directory."""
    return _write(root, encoders, train, val, seed, reference, encoded=False)


def write_encoded_dataset(root: Path, encoders: Encoders, train: int, val: int) -> Path:
    """The same with pictures of noise, each pair its own, and features that the encoders made of them."""
    return _write(root, encoders, train, val, 0, b"", encoded=True)


def write_faces(root: Path, encoders: Encoders, people: int = 3, pictures: int = 4) -> Path:
    """A dataset of faces with random features, made by a face library that is called "library"."""
    rng = np.random.default_rng(0)
    rows = [_face(f"person {who}", number) for who in range(people) for number in range(pictures)]
    shapes: dict[str, tuple[int, ...]] = encoders.shapes | {"identity": (10,), "map": (1, MAP, MAP)}
    shapes = {family: tuple(shapes.get(family, encoders.shapes["text"][-1:])) for family in FAMILIES}
    marks = encoders.fingerprints | {"prompt": encoders.fingerprints["text"]}
    marks = {family: marks.get(family, "library") for family in FAMILIES}
    files = [write_table(root, f"{FACES}/rows/{part_name(0, '0')}", to_table(rows, FaceRow))]
    for family, shape in shapes.items():
        values = rng.normal(size=(len(rows), *shape)).astype(np.float16)
        table = feature_table([row.key for row in rows], family, values)
        files.append(write_table(root, f"{feature_folder(FACES, family, marks[family])}/{part_name(0, '0')}", table))
    manifest = Manifest(
        schema_version=SCHEMA_VERSION,
        config={},
        encoders=vars(encoders.names),
        fingerprints=marks,
        shapes={family: list(shape) for family, shape in shapes.items()},
        dtype="float16",
        counts={},
        sizes={FACES: {"train": len(rows), "val": 0, "test": 0}},
        clusters={"train": people, "val": 0, "test": 0},
        tools={FACES: "library"},
    )
    write_manifest(root, manifest, files)
    return root


def _face(person: str, number: int) -> FaceRow:
    return FaceRow(f"{person}-{number}", person, "train", "happy", "left", "accepted")


def _write(root: Path, encoders: Encoders, train: int, val: int, seed: int, reference: bytes, encoded: bool) -> Path:
    files: list[FileEntry] = []
    for name in DATASETS:
        rng = np.random.default_rng([seed, DATASETS.index(name)])
        pairs = [_pair(name, i, "train" if i < train else "val", reference) for i in range(train + val)]
        if encoded:
            pairs = [_with_pictures(pair, rng) for pair in pairs]
            features = {f: encode_family(encoders, pairs, f, len(pairs), "float16") for f in encoders.shapes}
        else:
            features = {
                f: rng.normal(size=(len(pairs), *shape)).astype(np.float16) for f, shape in encoders.shapes.items()
            }
        files += _write_pairs(root, name, encoders, pairs, features)
    sizes = {name: {"train": train, "val": val, "test": 0} for name in DATASETS}
    manifest = Manifest(
        schema_version=SCHEMA_VERSION,
        config={},
        encoders=vars(encoders.names),
        fingerprints=encoders.fingerprints,
        shapes={family: list(shape) for family, shape in encoders.shapes.items()},
        dtype="float16",
        counts={},
        sizes=sizes,
        clusters={"train": train, "val": val, "test": 0},
    )
    write_manifest(root, manifest, files)
    return root


def _write_pairs(
    root: Path, name: DatasetName, encoders: Encoders, pairs: list[PairRow], features: dict[str, np.ndarray]
) -> list[FileEntry]:
    table = pa.Table.from_pylist([vars(pair) for pair in pairs], schema=arrow_schema(PairRow))
    files = [write_table(root, f"{name}/pairs/{part_name(0, '0')}", table)]
    for family, values in features.items():
        folder = feature_folder(name, family, encoders.fingerprints[family])
        table = feature_table([pair.pair_id for pair in pairs], family, values)
        files.append(write_table(root, f"{folder}/{part_name(0, '0')}", table))
    return files


def _with_pictures(pair: PairRow, rng: np.random.Generator) -> PairRow:
    reference, target = (encode_png(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)) for _ in range(2))
    return replace(pair, reference=reference, target=target, caption=f"{pair.caption} {pair.cluster[-1]}")


def _pair(dataset: DatasetName, index: int, split: Split, reference: bytes) -> PairRow:
    return PairRow(
        pair_id=f"{dataset}-{index:04d}",
        dataset=dataset,
        split=split,
        cluster=f"cluster-{index}",
        reference_key=f"reference-{index}",
        target_key=f"target-{index}",
        reference=reference,
        reference_mask=b"",
        target=b"",
        caption="a creature",
        time_gap=0.0,
        identity_similarity=1.0,
        pixel_similarity=0.5,
    )
