"""A dataset on disk: Parquet parts of a fixed number of rows, one folder per feature family, and a manifest.

    manifest.json                                       what is in it: configuration, counts, SHA-256 of every file
    <invariant|variant>/pairs/part-00000-<content>.parquet        PairRow
    <invariant|variant>/<family>-<fingerprint>/part-00000-<content>.parquet    pair_id and a feature; rows as in pairs
    faces/...                                           of another kind of dataset, see pipelines.face_shards
    subjects/part-00000-<content>.parquet               every SubjectRow: accepted, rejected, quarantined
    contact_sheet.png
    report.html                                         not in the manifest: it tells times, which no two runs share

The same rows give the same bytes. Reading needs neither Ray nor any model.
"""

import hashlib
import json
import os
from collections import OrderedDict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from flexip.rows import DATASETS, SPLITS, PairRow, Split

SCHEMA_VERSION = 2  # 2: parts are named by content; consent and provenance
MANIFEST = "manifest.json"
PARTIAL = ".partial"
FACES = "faces"  # the one dataset of those that hold people's pictures
GROUP_BYTES = 4 << 20  # a row group is what a random read decodes: a few MiB


class DatasetError(ValueError):
    """A dataset directory that is missing, incomplete, damaged or of another version. The message names the file."""


@dataclass(frozen=True)
class FileEntry:
    """One file of a dataset, as the manifest lists it."""

    path: str  # relative to the dataset
    sha256: str
    bytes: int
    rows: int  # 0 for files that are no tables


@dataclass(frozen=True)
class Manifest:
    """What a dataset is. Written last: a directory without it is no dataset."""

    schema_version: int
    config: dict[str, Any]
    encoders: dict[str, str]  # names of the models
    fingerprints: dict[str, str]  # family -> fingerprint
    shapes: dict[str, list[int]]  # family -> shape of one row
    dtype: str  # of the features
    counts: dict[str, dict[str, Any]]  # unit -> inputs, accepted, rejected, quarantined
    sizes: dict[str, dict[str, int]]  # dataset -> split -> pairs
    clusters: dict[str, int]  # split -> identity clusters
    device: str = ""  # class of device that computed the features: on others the last bits differ
    tools: dict[str, str] = field(default_factory=dict)  # detector, masks, captions ... -> fingerprint of its weights
    inputs: str = ""  # digest of the sources' names and sizes
    files: dict[str, dict[str, Any]] = field(default_factory=dict)  # relative path -> sha256, bytes, rows


def feature_folder(dataset: str, family: str, fingerprint: str) -> str:
    """Where a feature family of a dataset lies."""
    return f"{dataset}/{family}-{fingerprint}"


def part_name(number: int, content: str) -> str:
    """File name of a part; `content` is a digest of which rows it holds, so that another plan makes another file."""
    return f"part-{number:05d}-{content}.parquet"


def feature_table(pair_ids: Sequence[str], family: str, values: np.ndarray) -> pa.Table:
    """pair_id, or a face's key under that name, and one column of fixed-size lists, each row flattened."""
    flat = np.ascontiguousarray(values).reshape(len(values), -1)
    lists = pa.FixedSizeListArray.from_arrays(pa.array(flat.ravel()), flat.shape[1])
    schema = pa.schema([pa.field("pair_id", pa.string(), nullable=False), pa.field(family, lists.type, nullable=False)])
    return pa.Table.from_arrays([pa.array(pair_ids, pa.string()), lists], schema=schema)


def write_table(root: Path, path: str, table: pa.Table) -> FileEntry:
    """Write one Parquet file below root so that it is there whole or not at all."""
    target = root / path
    target.parent.mkdir(parents=True, exist_ok=True)
    row_bytes = max(1, table.nbytes // max(1, len(table)))
    partial = target.with_name(f"{target.name}.{os.getpid()}{PARTIAL}")
    pq.write_table(
        table,
        partial,
        row_group_size=max(1, GROUP_BYTES // row_bytes),
        compression="zstd",
        use_dictionary=False,
        write_statistics=False,
    )
    os.replace(partial, target)
    return file_entry(root, path, len(table))


def read_part(path: Path, columns: list[str] | None = None) -> pa.Table:
    """One Parquet file. Its folder's name is not read for columns, as pyarrow's `read_table` would."""
    with pq.ParquetFile(path) as file:
        return file.read(columns)


def sweep(root: Path, listed: Collection[str]) -> None:
    """Removes what an earlier start left in the dataset's folders and no manifest will list."""
    for folder in (*DATASETS, FACES, "subjects"):
        for path in (root / folder).rglob("*"):
            if path.is_file() and path.relative_to(root).as_posix() not in listed:
                path.unlink()


def file_entry(root: Path, path: str, rows: int = 0) -> FileEntry:
    """The manifest's entry for a file that lies below root."""
    digest = hashlib.sha256()
    with (root / path).open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return FileEntry(path, digest.hexdigest(), (root / path).stat().st_size, rows)


def write_manifest(root: Path, manifest: Manifest, files: Iterable[FileEntry]) -> Manifest:
    """Write the manifest with its list of files; the dataset is complete from then on."""
    listed = {e.path: {k: v for k, v in asdict(e).items() if k != "path"} for e in sorted(files, key=lambda e: e.path)}
    complete = Manifest(**{**asdict(manifest), "files": listed})
    partial = root / f"{MANIFEST}.partial"
    partial.write_text(json.dumps(asdict(complete), indent=1, sort_keys=True) + "\n", encoding="utf-8")
    os.replace(partial, root / MANIFEST)
    return complete


def read_manifest(path: str | Path) -> Manifest:
    """The manifest of a dataset directory. Raises DatasetError."""
    file = Path(path) / MANIFEST
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        version = content.get("schema_version")
        if version != SCHEMA_VERSION:
            raise DatasetError(f"{file}: schema version {version}; this program reads version {SCHEMA_VERSION}")
        return Manifest(**content)
    except FileNotFoundError as error:
        raise DatasetError(
            f"{path}: no dataset ({MANIFEST} is missing); make one with python -m jobs.curate"
        ) from error
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise error if isinstance(error, DatasetError) else DatasetError(f"{file}: not a manifest ({error})") from error


def verify(path: str | Path) -> Manifest:
    """Check that every listed file is there with its bytes. Raises DatasetError naming the first that is not."""
    root, manifest = Path(path), read_manifest(path)
    for name, listed in manifest.files.items():
        if not (root / name).is_file():
            raise DatasetError(f"{root / name}: missing; the manifest lists it with {listed['bytes']} bytes")
        entry = file_entry(root, name)
        if entry.bytes != listed["bytes"] or entry.sha256 != listed["sha256"]:
            raise DatasetError(
                f"{root / name}: changed; SHA-256 {entry.sha256[:12]}..., listed {listed['sha256'][:12]}..."
            )
    return manifest


def open_dataset(path: str | Path, cache_bytes: int = 1 << 30) -> "PairDataset":
    """Open a dataset for reading; `cache_bytes` bounds the decoded row groups kept in memory. Raises DatasetError."""
    manifest = read_manifest(path)
    if FACES in manifest.sizes:
        raise DatasetError(f"{path}: holds faces, for DynamicID, and no pairs; name a dataset of pairs")
    return PairDataset(Path(path), manifest, cache_bytes)


class PairDataset:
    """Pairs and their features. Rows of a split are numbered from 0 in the order of the parts. Not thread-safe."""

    names: tuple[str, ...] = DATASETS
    table = "pairs"  # folder of the rows
    row_class: type[Any] = PairRow
    told = ("pair_id", "caption")  # columns of the rows that come with their features

    def __init__(self, root: Path, manifest: Manifest, cache_bytes: int):
        self.root = root
        self.manifest = manifest
        self._cache = GroupCache(cache_bytes)
        self._parts = {name: self._list_parts(name) for name in self.names}
        self._rows = {name: self._index_splits(name) for name in self.names}

    def size(self, dataset: str, split: Split) -> int:
        """Number of pairs."""
        return len(self._rows[dataset][split])

    def pairs(self, dataset: str, split: Split, columns: Sequence[str] | None = None) -> pa.Table:
        """The rows of a split as a table of PairRow, or of some of its columns."""
        wanted = None if columns is None else [*columns, *({"split"} - set(columns))]
        folder = self.root / dataset / self.table
        tables = [self._load(folder / name, wanted) for name, _ in self._parts[dataset]]
        if not tables:
            raise DatasetError(f"{self.root}: holds no {dataset} {self.table}; the manifest says {self.manifest.sizes}")
        table = pa.concat_tables(tables)
        kept = table.take(pa.array(self._rows[dataset][split]))
        return kept if columns is None else kept.select(list(columns))

    def read(self, dataset: str, split: Split, rows: Sequence[int], families: Sequence[str]) -> dict[str, np.ndarray]:
        """Features of some rows in the order asked for: family -> (len(rows), *shape), and the columns `told`."""
        numbers = self._rows[dataset][split][np.asarray(rows, dtype=np.int64)]
        result: dict[str, np.ndarray] = {}
        for family in families:
            folder = self.root / feature_folder(dataset, family, self.manifest.fingerprints[family])
            values = self._gather(folder, dataset, numbers, family)
            result[family] = np.stack(values).reshape(len(numbers), *self.manifest.shapes[family])
        for column in self.told:
            result[column] = np.array(self._gather(self.root / dataset / self.table, dataset, numbers, column))
        return result

    def read_pairs(self, dataset: str, split: Split, rows: Sequence[int]) -> list[Any]:
        """Some pairs in the order asked for, with their pictures."""
        numbers = self._rows[dataset][split][np.asarray(rows, dtype=np.int64)]
        folder = self.root / dataset / self.table
        columns = {f.name: self._gather(folder, dataset, numbers, f.name) for f in fields(self.row_class)}
        return [
            self.row_class(**dict(zip(columns, values, strict=True))) for values in zip(*columns.values(), strict=True)
        ]

    def _gather(self, folder: Path, dataset: str, numbers: np.ndarray, column: str) -> list[Any]:
        names, starts = [name for name, _ in self._parts[dataset]], self._starts(dataset)
        parts = np.searchsorted(starts, numbers, side="right") - 1
        where = zip(parts, numbers - starts[parts], strict=True)
        try:
            return [self._cache.row(folder / names[part], int(offset), column) for part, offset in where]
        except (OSError, pa.ArrowInvalid) as error:
            raise DatasetError(f"{folder}: cannot be read ({error})") from error

    def _list_parts(self, dataset: str) -> list[tuple[str, int]]:
        """File name and rows of each part, in their order."""
        prefix, listed = f"{dataset}/{self.table}/", sorted(self.manifest.files.items())
        return [(name.removeprefix(prefix), entry["rows"]) for name, entry in listed if name.startswith(prefix)]

    def _starts(self, dataset: str) -> np.ndarray:
        return np.cumsum([0, *(rows for _, rows in self._parts[dataset])])

    def _index_splits(self, dataset: str) -> dict[str, np.ndarray]:
        folder = self.root / dataset / self.table
        columns = [self._load(folder / name, ["split"])["split"] for name, _ in self._parts[dataset]]
        names = np.array([value for column in columns for value in column.to_pylist()], dtype=str)
        return {split: np.flatnonzero(names == split) for split in SPLITS}

    def _load(self, file: Path, columns: list[str] | None) -> pa.Table:
        try:
            return read_part(file, columns)
        except (OSError, pa.ArrowInvalid) as error:
            raise DatasetError(f"{file}: cannot be read ({error})") from error


class GroupCache:
    """Decoded row groups of single columns, the least recently used dropped first. A random read decodes one group."""

    def __init__(self, limit: int):
        self.limit = limit
        self.held = 0
        self._groups: OrderedDict[tuple[Path, int, str], tuple[np.ndarray, int]] = OrderedDict()  # values, bytes
        self._files: OrderedDict[Path, tuple[pq.ParquetFile, np.ndarray]] = OrderedDict()

    def row(self, path: Path, offset: int, column: str) -> Any:
        """The value of one row of a file: a flat array for a feature, else a Python value."""
        file, starts = self._open(path)
        group = int(np.searchsorted(starts, offset, side="right")) - 1
        return self._group(path, file, group, column)[offset - starts[group]]

    def _open(self, path: Path) -> tuple[pq.ParquetFile, np.ndarray]:
        if path not in self._files:
            file = pq.ParquetFile(path)
            sizes = [file.metadata.row_group(i).num_rows for i in range(file.metadata.num_row_groups)]
            self._files[path] = (file, np.cumsum([0, *sizes])[:-1])
            if len(self._files) > 64:
                self._files.popitem(last=False)[1][0].close()
        self._files.move_to_end(path)
        return self._files[path]

    def _group(self, path: Path, file: pq.ParquetFile, group: int, column: str) -> np.ndarray:
        key = (path, group, column)
        if key not in self._groups:
            array = file.read_row_group(group, columns=[column])[column].combine_chunks()
            self._groups[key] = _to_numpy(array), array.nbytes  # NumPy counts no bytes of Python values
            self.held += array.nbytes
            while self.held > self.limit and len(self._groups) > 1:
                self.held -= self._groups.popitem(last=False)[1][1]
        self._groups.move_to_end(key)
        return self._groups[key][0]


def _to_numpy(column: pa.Array | pa.ChunkedArray) -> np.ndarray:
    array = pa.concat_arrays(column.chunks) if isinstance(column, pa.ChunkedArray) else column
    if isinstance(array, pa.FixedSizeListArray):
        return array.flatten().to_numpy(zero_copy_only=False).reshape(len(array), -1)
    return np.fromiter(array.to_pylist(), object, len(array))  # a list stays a value, however long the others are
