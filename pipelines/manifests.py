"""Manifests: tables that name files and say what they show and on what terms they may be used.

JSON lines, a JSON list (the layouts that IP-Adapter and UNO train from), CSV with a header, Parquet. All but a JSON
list are read row by row. Columns may be in any order and case, and columns not named in `COLUMNS` are ignored.
"""

import csv
import io
import json
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines import storage

COLUMNS = {  # of several the first that says something holds
    "file": ("file", "path", "url", "image_file", "file_name", "image", "video"),
    "kind": ("kind",),
    "group": ("group",),
    "caption": ("caption", "text", "alt"),
    "licence": ("licence", "license"),
    "consent": ("consent",),
    "provenance": ("provenance", "page", "source"),
}
TERMS = ("licence", "consent", "provenance")
UNTOLD = {"", "?", "n/a", "nan", "null", "unknown"}  # as good as an empty cell
DENIED = {"0", "false", "no", "none"}


class ManifestError(ValueError):
    """A manifest that cannot be used at all; the message says why and what would be right."""


@dataclass(frozen=True)
class Notes:
    """What is told of one source. Terms are None when nothing is said of them and empty when they are denied."""

    file: str = ""
    kind: str = ""
    group: str = ""
    caption: str = ""
    licence: str | None = None
    consent: str | None = None
    provenance: str | None = None


def read(path: str) -> Iterator[Notes | None]:
    """Every source of a manifest in its order; None for a row that cannot be read.

    Raises:
        ManifestError: the file cannot be read, or has no column that names files.
    """
    columns: set[str] = set()
    try:
        with storage.open_path(path) as file:
            for row in READERS[storage.suffix(path).lower()](file):
                for known in _told(row):
                    columns.update(map(str, row or ()) if known and not known.file and len(columns) < 100 else ())
                    columns.update(COLUMNS["file"] if known and known.file else ())
                    yield known
    except ManifestError as error:
        raise ManifestError(f"{path}: {error}") from error
    except (OSError, ValueError, RecursionError, pa.ArrowException) as error:
        raise ManifestError(f"{path}: cannot be read ({str(error).splitlines()[0]})") from error
    if columns and not _names_files(columns):
        raise ManifestError(f"{path}: {_no_file(columns)}")


def _told(row: Any) -> list[Notes | None]:
    """What a row says: of one source, or in UNO's layout of a target and its reference, views of one subject.

    A row of UNO's with several references shows several subjects in one target, which are no views of each other.
    """
    if not isinstance(row, dict) or "image_tgt_path" not in row:
        return [notes(row) if isinstance(row, dict) else None]
    references, target = row.get("image_paths"), row["image_tgt_path"]
    if not isinstance(references, list) or len(references) != 1:
        return [None]
    shared = row | {"group": references[0]}  # which may have more targets
    return [notes(shared | {"file": target, "caption": row.get("prompt")}), notes(shared | {"file": references[0]})]


def notes(row: dict[Any, Any]) -> Notes | None:
    """What a row or the metadata beside a file says; None when its text is no valid Unicode."""
    lowered = {key.lower(): _text(value) for key, value in row.items() if isinstance(key, str)}
    told = {field: [lowered.get(column, "") for column in columns] for field, columns in COLUMNS.items()}
    file, kind, group, caption = (next(filter(None, told[f]), "") for f in ("file", "kind", "group", "caption"))
    found = Notes(file, kind, group, " ".join(caption.split()), *(_term(told[field]) for field in TERMS))
    try:
        "".join(filter(None, vars(found).values())).encode()
    except UnicodeEncodeError:
        return None
    return found


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):  # several captions: the first
        return _text(value[0]) if value else ""
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:g}"
    return str(value).strip() if isinstance(value, str | int) else ""


def _term(texts: Iterable[str]) -> str | None:
    told = next((text for text in texts if text.lower() not in UNTOLD), None)
    return "" if told and told.lower() in DENIED else told


def _names_files(columns: Iterable[str]) -> bool:
    return any(column.lower() in COLUMNS["file"] for column in columns)


def _no_file(columns: Iterable[str]) -> str:
    wanted = ", ".join(COLUMNS["file"])
    return f"no column names files; it has {', '.join(sorted(columns)) or 'none'}, one of {wanted} is needed"


def _json_lines(file: BinaryIO) -> Iterator[Any]:
    for number, line in enumerate(file):
        if line.strip():
            try:
                yield json.loads(line.removeprefix(b"\xef\xbb\xbf") if number == 0 else line)
            except (ValueError, RecursionError):
                yield None


def _json_list(file: BinaryIO) -> Iterator[Any]:
    rows = json.loads(file.read())
    if not isinstance(rows, list):
        raise ManifestError('no JSON list; right would be [{"image_file": "1.png", "text": "..."}], or .jsonl')
    yield from rows


def _csv(file: BinaryIO) -> Iterator[Any]:
    # Bytes that are no UTF-8 become characters that cannot be encoded again: they cost their row, not the file.
    rows = csv.DictReader(io.TextIOWrapper(file, "utf-8-sig", "surrogateescape", newline=""), strict=True)
    if not _names_files(rows.fieldnames or ()):
        raise ManifestError(_no_file(rows.fieldnames or ()))
    while True:
        try:
            row = next(rows)
        except StopIteration:
            return
        except csv.Error:
            yield None
        else:
            yield None if None in row else row  # more cells than the header has


def _parquet(file: BinaryIO) -> Iterator[Any]:
    table = pq.ParquetFile(file)
    known = {name for names in COLUMNS.values() for name in names}
    texts = [f.name for f in table.schema_arrow if not (pa.types.is_struct(f.type) or _is_bytes(f.type))]
    if not _names_files(texts):
        raise ManifestError(_no_file(table.schema_arrow.names))
    for batch in table.iter_batches(1024, columns=[name for name in texts if name.lower() in known]):
        yield from batch.to_pylist()


def _is_bytes(kind: pa.DataType) -> bool:
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind)


READERS: dict[str, Callable[[BinaryIO], Iterator[Any]]] = {
    ".jsonl": _json_lines,
    ".json": _json_list,
    ".csv": _csv,
    ".parquet": _parquet,
}
