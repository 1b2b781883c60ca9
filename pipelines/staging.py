"""Between the passes: staged rows of each unit, the plan of the files, and what is asserted before the end."""

import copy
import dataclasses
import hashlib
import itertools
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from flexip.rows import DATASETS, SPLITS, DatasetName, PairRow, Split, SubjectRow
from pipelines import features, ledger, shards
from pipelines.cross import Joined
from pipelines.looks import NEAR, Duplicate
from pipelines.pairs import assign_splits
from pipelines.records import UNITS, StageCount, count_units, from_table, to_table
from pipelines.settings import CurationSettings
from pipelines.shards import FileEntry, Manifest

if TYPE_CHECKING:
    from flexip.encoders import EncoderNames, Encoders


@dataclass(frozen=True)
class StagedUnit:
    """What the first pass records of a unit; its rows lie in the staging folder under its key."""

    unit: str
    rows: int  # subject rows
    counts: dict[str, StageCount]  # by unit of count
    seconds: dict[str, float]  # stage -> time that it was busy with this unit
    dropped: frozenset[int] = frozenset()  # rows of its staged pairs that the plan leaves out

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> "StagedUnit":
        """The unit that `stage_unit` recorded."""
        counts = {name: StageCount(**count) for name, count in record["counts"].items()}
        return cls(record["unit"], record["rows"], counts, record["seconds"])


@dataclass(frozen=True)
class Shard:
    """One part of a dataset: which staged pairs, in this order, and their splits."""

    dataset: DatasetName
    name: str  # of the file, in every family's folder: number and content
    pairs: list[tuple[str, list[int]]]  # unit, rows of its staged pairs
    splits: list[Split]
    joint: dict[str, str] = field(default_factory=dict)  # cluster -> the one that it was joined to


@dataclass(frozen=True)
class SubjectPart:
    """One part of the subject rows: those of whole units."""

    name: str
    units: list[str]
    near: list[str] = field(default_factory=list)  # uris of near-duplicates among their sources
    joint: dict[str, str] = field(default_factory=dict)  # cluster -> the one that it was joined to


def stage_unit(
    folder: Path, unit: str, rows: Sequence[SubjectRow], pairs: Sequence[PairRow], ended: StageCount, seconds: Mapping
) -> None:
    """Writes the rows of one unit and then its record, with which it is finished.

    Raises:
        RuntimeError: rows that their parents do not account for; that would be a fault of ours.
    """
    counts = count_units(rows) | {"pair": ended}
    frames = sum(row.scores["frames"] for row in rows if row.unit == "source")
    subjects = sum(row.scores["subjects"] for row in rows if row.unit == "frame")
    _require("frame", counts["frame"].total, int(frames))
    _require("subject", counts["subject"].total, int(subjects))
    _require("pair", ended.accepted, len(pairs))
    shards.write_table(folder, subjects_name(unit), to_table(rows, SubjectRow))
    shards.write_table(folder, pairs_name(unit), to_table(sorted(pairs, key=lambda p: p.pair_id), PairRow))
    record = {"unit": unit, "rows": len(rows), "seconds": dict(seconds)}
    ledger.finish(folder, unit, record | {"counts": {name: dataclasses.asdict(c) for name, c in counts.items()}})


def count_all(units: Iterable[StagedUnit], others: Sequence[SubjectRow], files: int) -> dict[str, StageCount]:
    """Counts over all units and the rows of sources that never became one. Raises RuntimeError as `stage_unit`."""
    counts = {name: StageCount() for name in UNITS}
    for row in others:
        counts[row.unit].add(row.status, row.reason)
    for unit in units:
        for name, count in unit.counts.items():
            counts[name].merge(count)
    _require("source", counts["source"].total, files)
    return counts


def without_duplicates(folder: Path, units: Sequence[StagedUnit], duplicates: Sequence[Duplicate]) -> list[StagedUnit]:
    """The units after near-duplicates are rejected, with all that came of them."""
    by_unit: dict[str, set[str]] = {}
    for duplicate in duplicates:
        by_unit.setdefault(duplicate.unit, set()).add(duplicate.source)
    return [_without(folder, unit, by_unit[unit.unit]) if unit.unit in by_unit else unit for unit in units]


def stage_cross(folder: Path, unit: str, pairs: Sequence[PairRow], ended: StageCount) -> None:
    """Writes the pairs of a unit of pairs across sources, and then its record."""
    _require("pair", ended.accepted, len(pairs))
    shards.write_table(folder, pairs_name(unit), to_table(sorted(pairs, key=lambda p: p.pair_id), PairRow))
    counts = {name: StageCount() for name in UNITS} | {"pair": ended}
    record = {"unit": unit, "rows": 0, "seconds": {}}
    ledger.finish(folder, unit, record | {"counts": {name: dataclasses.asdict(c) for name, c in counts.items()}})


def plan_shards(
    folder: Path, units: Sequence[StagedUnit], settings: CurationSettings, joint: Mapping[str, str]
) -> tuple[list[Shard], Counter[str]]:
    """Shards of exactly `rows_per_file` pairs, and the number of identity clusters of each split; `joint` clusters are
    one.

    Pairs stand in the order of units and pair_id: units are named by content, so that neighbours have nothing in
    common, and a shard reads few of them.
    """
    light = [
        _light_pairs(folder, number, unit, joint) for number, unit in enumerate(units) if unit.counts["pair"].accepted
    ]
    if not light:
        return [], Counter()
    table = pa.concat_tables(light).combine_chunks().to_pandas()
    varied = set(table.loc[table.dataset == "variant", "cluster"])
    clusters = table.cluster.unique()
    kinds = {cluster: "variant" if cluster in varied else "invariant" for cluster in clusters}
    splits = assign_splits(kinds, settings.splits, settings.seed)
    table["split"] = table.cluster.map(splits)
    plan = []
    for dataset in DATASETS:
        part = table[table.dataset == dataset]
        for number, start in enumerate(range(0, len(part), settings.shards.rows_per_file)):
            chosen = part.iloc[start : start + settings.shards.rows_per_file]
            plan.append(_shard(dataset, number, chosen, units))
    return plan, Counter(splits.values())


def plan_subjects(
    units: Sequence[StagedUnit], rows_per_file: int, duplicates: Sequence[Duplicate], joined: Sequence[Joined]
) -> list[SubjectPart]:
    """Parts of whole units, each of `rows_per_file` rows or just more."""
    parts, held, rows = [], [], 0
    for unit in (unit for unit in units if unit.rows):
        held.append(unit.unit)
        rows += unit.rows
        if rows >= rows_per_file:
            parts.append(held)
            held, rows = [], 0
    listed = [*parts, held] if held else parts
    near, joint = dict[str, list[str]](), dict[str, list[Joined]]()
    for duplicate in duplicates:
        near.setdefault(duplicate.unit, []).append(duplicate.source)
    for cluster in joined:
        joint.setdefault(cluster.unit, []).append(cluster)
    return [_subject_part(number, part, near, joint) for number, part in enumerate(listed, start=1)]


def write_shard(
    shard: Shard, folder: Path, output: Path, encoders: "Encoders", settings: CurationSettings
) -> list[FileEntry]:
    """Encode the pairs of a shard in batches of fixed size and write all its files."""
    rows, entry = write_pairs(shard, folder, output)
    entries = [entry]
    ids, wanted = [row.pair_id for row in rows], settings.shards
    for family in features.families(wanted.hidden):
        values = features.encode_family(encoders, rows, family, wanted.batch_size, wanted.dtype)
        path = f"{shards.feature_folder(shard.dataset, family, encoders.fingerprints[family])}/{shard.name}"
        entries.append(shards.write_table(output, path, shards.feature_table(ids, family, values)))
    return entries


def write_pairs(shard: Shard, folder: Path, output: Path) -> tuple[list[PairRow], FileEntry]:
    """The pairs of a shard, brought together from their units."""
    table = pa.concat_tables([shards.read_part(folder / pairs_name(unit)).take(rows) for unit, rows in shard.pairs])
    rows = [
        dataclasses.replace(row, split=split, cluster=shard.joint.get(row.cluster, row.cluster))
        for row, split in zip(from_table(table, PairRow), shard.splits, strict=True)
    ]
    return rows, shards.write_table(output, f"{shard.dataset}/pairs/{shard.name}", to_table(rows, PairRow))


def write_subjects(part: SubjectPart, folder: Path, output: Path) -> FileEntry:
    """The subject rows of a part's units, one after the other, as the plan has judged them."""
    table = pa.concat_tables([shards.read_part(folder / subjects_name(unit)) for unit in part.units]).combine_chunks()
    if part.near or part.joint:
        rows = [_judged(row, part) for row in from_table(table, SubjectRow)]
        table = to_table(rows, SubjectRow)
    return shards.write_table(output, f"subjects/{part.name}", table)


def write_others(others: Sequence[SubjectRow], output: Path) -> list[FileEntry]:
    """The rows of sources that never became part of a unit, as the first part."""
    if not others:
        return []
    table = to_table(others, SubjectRow)
    return [shards.write_table(output, f"subjects/{shards.part_name(0, _digest([r.key for r in others]))}", table)]


def make_manifest(
    settings: CurationSettings,
    names: "EncoderNames",
    info: Mapping[str, Any],
    counts: Mapping[str, StageCount],
    plan: Iterable[Shard],
    clusters: Counter[str],
    inputs: str,
) -> Manifest:
    """The manifest, still without its list of files."""
    sizes: dict[str, dict[str, int]] = {dataset: dict.fromkeys(map(str, SPLITS), 0) for dataset in DATASETS}
    for shard in plan:
        for split in shard.splits:
            sizes[shard.dataset][split] += 1
    held = features.families(settings.shards.hidden)
    return Manifest(
        schema_version=shards.SCHEMA_VERSION,
        config=settings.model_dump(mode="json"),
        encoders=dataclasses.asdict(names),
        fingerprints={family: info["fingerprints"][family] for family in held},
        shapes={family: list(info["shapes"][family]) for family in held},
        dtype=settings.shards.dtype,
        device=info["device"],
        tools=dict(info.get("tools", {})),
        inputs=inputs,
        counts={unit: {"inputs": count.total, **dataclasses.asdict(count)} for unit, count in counts.items()},
        sizes=sizes,
        clusters={split: clusters[split] for split in SPLITS},
    )


def subjects_name(unit: str) -> str:
    """Where a unit's subject rows are staged, below the staging folder."""
    return f"units/{unit[:2]}/{unit}.subjects.parquet"


def pairs_name(unit: str) -> str:
    """Where a unit's pairs are staged, below the staging folder."""
    return f"units/{unit[:2]}/{unit}.pairs.parquet"


def _without(folder: Path, unit: StagedUnit, near: set[str]) -> StagedUnit:
    counts = copy.deepcopy(unit.counts)
    rows = shards.read_part(folder / subjects_name(unit.unit), ["key", "source", "unit", "status"]).to_pylist()
    gone = [row for row in rows if row["source"] in near and row["status"] == "accepted"]
    for row in gone:
        counts[row["unit"]].reject(NEAR)
    keys = {row["key"] for row in gone}
    pairs = shards.read_part(folder / pairs_name(unit.unit), ["reference_key", "target_key"]).to_pylist()
    dropped = frozenset(i for i, pair in enumerate(pairs) if keys & {pair["reference_key"], pair["target_key"]})
    counts["pair"].reject(NEAR, len(dropped))
    return dataclasses.replace(unit, counts=counts, dropped=dropped)


def _judged(row: SubjectRow, part: SubjectPart) -> SubjectRow:
    row = dataclasses.replace(row, cluster=part.joint.get(row.cluster, row.cluster))
    rejected = row.source in part.near and row.status == "accepted"
    return dataclasses.replace(row, status="rejected", reason=NEAR) if rejected else row


def _light_pairs(folder: Path, number: int, unit: StagedUnit, joint: Mapping[str, str]) -> pa.Table:
    table = shards.read_part(folder / pairs_name(unit.unit), ["pair_id", "dataset", "cluster"])
    clusters = [joint.get(name, name) for name in table["cluster"].to_pylist()]
    table = table.rename_columns(["pair_id", "dataset", "own"]).append_column(
        "cluster", pa.array(clusters, pa.string())
    )
    place = {"unit": pa.array([number] * len(table), pa.int32()), "row": pa.array(range(len(table)), pa.int32())}
    for name, column in place.items():
        table = table.append_column(name, column)
    return table.take([row for row in range(len(table)) if row not in unit.dropped]) if unit.dropped else table


def _shard(dataset: DatasetName, number: int, chosen: Any, units: Sequence[StagedUnit]) -> Shard:
    rows = [(units[unit].unit, group.row.tolist()) for unit, group in chosen.groupby("unit", sort=False)]
    splits = chosen.split.tolist()
    moved = chosen[chosen.own != chosen.cluster].drop_duplicates("own").sort_values("own")
    changed = dict(zip(moved.own, moved.cluster, strict=True))
    name = shards.part_name(number, _digest([*chosen.pair_id, *splits, *itertools.chain(*changed.items())]))
    return Shard(dataset, name, rows, splits, changed)


def _subject_part(
    number: int, units: list[str], near: Mapping[str, list[str]], joint: Mapping[str, list[Joined]]
) -> SubjectPart:
    sources = sorted(source for unit in units for source in near.get(unit, []))
    moved = {cluster.name: cluster.into for unit in units for cluster in joint.get(unit, [])}
    name = shards.part_name(number, _digest([*units, *sources, *itertools.chain(*moved.items())]))
    return SubjectPart(name, units, sources, moved)


def _digest(parts: Iterable[str]) -> str:
    return hashlib.sha256(json.dumps(list(parts)).encode()).hexdigest()[:12]


def _require(unit: str, found: int, expected: int) -> None:
    if found != expected:
        raise RuntimeError(f"{unit}: {found} rows are accounted for, there were {expected}")
