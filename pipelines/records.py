"""Rows as dataclasses on one side, Arrow on the other; what travels between stages is Arrow bytes of a fixed schema.

A fixed schema in one bytes column, instead of nested Python lists: Ray then knows the true size of a row and
never has to guess a type for an empty list.
"""

import dataclasses
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

import pyarrow as pa

from flexip.rows import SourceKind, Status, SubjectRow, arrow_schema

Row = TypeVar("Row")


@dataclass(frozen=True)
class Source:
    """One input: a file, or a member of a tar file. Path is where it is read, uri its name in the dataset."""

    path: str  # of this machine, or a URL such as s3://bucket/clips/a.mp4
    uri: str  # relative to the input
    kind: SourceKind
    sha256: str = ""
    bytes: int = 0
    licence: str = ""
    consent: str = ""  # on what ground people in it are shown, in the words of the manifest
    provenance: str = ""  # where it comes from, e.g. the page that it was found on
    caption: str = ""  # what a manifest says of the whole source: alt text
    group: str = ""  # name of the multi-view set that it belongs to; empty: the folder of its uri
    offset: int = -1  # of a tar member's first byte; -1: the whole file
    cluster: str = ""  # identity cluster of its clip
    status: Status = "accepted"
    reason: str = ""  # why rejected or quarantined


@dataclass(frozen=True)
class Frame:
    """One decoded frame of a video, or a still, at curation resolution."""

    uri: str
    source_hash: str
    index: int  # in the video's order of display; 0 for a still
    timestamp: float  # [s]
    duration: float  # of the whole source [s]; 0 for a still
    image: bytes  # PNG
    neighbour: bytes = b""  # PNG of the frame a moment later, same size: what moved; empty for a still
    shot: int = 0  # number of its shot in the video
    tone_mapped: bool = False  # from high dynamic range
    decoded: int = 0  # frames that were decoded for all those of its source
    damaged: int = 0  # of them, those that could not be used


@dataclass(frozen=True)
class Crop:
    """A subject cut out for the encoders: square, on white."""

    key: str  # SubjectRow.key
    image: bytes  # PNG
    mask: bytes  # PNG, one channel


@dataclass
class StageCount:
    """`accepted + sum(rejected) + sum(quarantined) == inputs`, in one unit: a source, a frame, a subject or a pair."""

    accepted: int = 0
    rejected: dict[str, int] = field(default_factory=dict)  # reason -> number
    quarantined: dict[str, int] = field(default_factory=dict)  # class -> number

    def add(self, status: str, reason: str, number: int = 1) -> None:
        """Count `number` rows that ended so."""
        if status == "accepted":
            self.accepted += number
        else:
            reasons: dict[str, int] = getattr(self, status)
            reasons[reason] = reasons.get(reason, 0) + number

    def reject(self, reason: str, number: int = 1) -> None:
        """So many of the accepted are rejected after all."""
        self.accepted -= number
        self.add("rejected", reason, number)

    def merge(self, other: "StageCount") -> None:
        """Add the other's numbers to this one."""
        self.add("accepted", "", other.accepted)
        for status in ("rejected", "quarantined"):
            for reason, number in getattr(other, status).items():
                self.add(status, reason, number)

    @property
    def total(self) -> int:
        """Everything that was counted."""
        return self.accepted + sum(self.rejected.values()) + sum(self.quarantined.values())


Unit = Literal["source", "frame", "subject", "pair"]
UNITS: tuple[Unit, ...] = ("source", "frame", "subject", "pair")


def count_units(rows: Iterable[SubjectRow]) -> dict[str, StageCount]:
    """Counts of each unit among subject rows."""
    counts: dict[str, StageCount] = {unit: StageCount() for unit in UNITS}
    for row in rows:
        counts[row.unit].add(row.status, row.reason)
    return counts


def to_table(rows: Sequence[Any], row_class: type) -> pa.Table:
    """An Arrow table in the schema of the dataclass, in the order given."""
    schema = arrow_schema(row_class)
    columns = [pa.array([_value(getattr(row, name)) for row in rows], schema.field(name).type) for name in schema.names]
    return pa.Table.from_arrays(columns, schema=schema)


def from_table(table: pa.Table, row_class: type[Row]) -> list[Row]:
    """The rows of a table that `to_table` made."""
    maps = {f.name for f in table.schema if pa.types.is_map(f.type)}
    rows = table.to_pylist()
    return [row_class(**{k: dict(v) if k in maps else v for k, v in row.items()}) for row in rows]


def pack(rows: Sequence[Any], row_class: type) -> bytes:
    """Arrow IPC stream of the rows."""
    sink = pa.BufferOutputStream()
    table = to_table(rows, row_class)
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def unpack(data: bytes, row_class: type[Row]) -> list[Row]:
    """The rows that `pack` wrote."""
    with pa.ipc.open_stream(data) as reader:
        return from_table(reader.read_all(), row_class)


def replaced(rows: Sequence[Row], **changes: Any) -> list[Row]:
    """Copies of the rows with some fields changed."""
    return [dataclasses.replace(row, **changes) for row in rows]  # type: ignore[type-var]


def _value(value: Any) -> Any:
    return sorted(value.items()) if isinstance(value, dict) else value


def chance(*parts: object) -> float:
    """A number in 0..1 drawn from a hash of the parts: random over rows, the same in every run and on every machine."""
    digest = hashlib.sha256(":".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
