"""Between the two passes: staged rows of each clip, the plan of the shards, and what is asserted before the end."""

import dataclasses
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from flexip.rows import DATASETS, SPLITS, DatasetName, PairRow, Split, SubjectRow
from pipelines import features, shards
from pipelines.pairs import assign_splits
from pipelines.records import UNITS, StageCount, from_table, to_table
from pipelines.settings import CurationSettings
from pipelines.shards import FileEntry, Manifest

if TYPE_CHECKING:
    from flexip.encoders import EncoderNames, Encoders


@dataclass(frozen=True)
class StagedClip:
    """What the first pass reports of a clip; its rows lie in the staging folder under its key."""

    clip: str
    kind: str
    cluster: str
    pairs: StageCount
    encoders: dict[str, Any]  # fingerprints, shapes, resolution

    def to_json(self) -> str:
        """The report as text."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "StagedClip":
        """The report that `to_json` wrote."""
        values = json.loads(text)
        return cls(pairs=StageCount(**values.pop("pairs")), **values)


@dataclass(frozen=True)
class Shard:
    """One part of a dataset: which staged pairs, in this order, and their splits."""

    dataset: DatasetName
    number: int
    pairs: list[tuple[str, int]]  # clip key, row in its staged pairs
    splits: list[Split]


def stage_clip(folder: Path, clip: str, rows: Sequence[SubjectRow], pairs: Sequence[PairRow]) -> None:
    """Write the rows of one clip."""
    shards.write_table(folder, _subjects_name(clip), to_table(rows, SubjectRow))
    shards.write_table(folder, _pairs_name(clip), to_table(pairs, PairRow))


def count_all(folder: Path, clips: Sequence[StagedClip], others: Sequence[SubjectRow]) -> dict[str, StageCount]:
    """Counts of every unit over the staged clips and the rows of sources that never became a clip."""
    counts = {unit: StageCount() for unit in UNITS}
    for row in others:
        counts[row.unit].add(row.status, row.reason)
    for clip in clips:
        columns = ["unit", "status", "reason"]
        for row in pq.read_table(folder / _subjects_name(clip.clip), columns=columns).to_pylist():
            counts[row["unit"]].add(row["status"], row["reason"])
        counts["pair"].merge(clip.pairs)
    return counts


def check_counts(
    folder: Path, clips: Sequence[StagedClip], counts: dict[str, StageCount], files: int, planned: int
) -> None:
    """Every unit's total must be what the parents say they have. Raises RuntimeError: that would be a fault of ours."""
    frames = subjects = 0.0
    for clip in clips:
        for row in pq.read_table(folder / _subjects_name(clip.clip), columns=["unit", "scores"]).to_pylist():
            scores = dict(row["scores"])
            frames += scores["frames"] if row["unit"] == "source" else 0
            subjects += scores["subjects"] if row["unit"] == "frame" else 0
    expected = {"source": files, "frame": int(frames), "subject": int(subjects)}
    for unit, number in expected.items():
        if counts[unit].total != number:
            raise RuntimeError(f"{unit}: {counts[unit].total} rows are accounted for, there were {number}")
    if counts["pair"].accepted != planned:
        raise RuntimeError(f"pair: {counts['pair'].accepted} were accepted, {planned} are planned for shards")


def plan_shards(folder: Path, clips: Sequence[StagedClip], settings: CurationSettings) -> tuple[list[Shard], Counter]:
    """Shards of exactly `rows_per_file` pairs sorted by pair_id, and the number of identity clusters of each split."""
    light: list[dict[str, Any]] = []
    for clip in clips:
        table = pq.read_table(folder / _pairs_name(clip.clip), columns=["pair_id", "dataset", "cluster"])
        light += [{**row, "clip": clip, "row": i} for i, row in enumerate(table.to_pylist())]
    varied = {row["cluster"] for row in light if row["dataset"] == "variant"}
    kinds = {row["cluster"]: "variant" if row["cluster"] in varied else "invariant" for row in light}
    splits = assign_splits(kinds, settings.splits, settings.seed)
    plan = []
    for dataset in DATASETS:
        rows = sorted((row for row in light if row["dataset"] == dataset), key=lambda row: row["pair_id"])
        for number, start in enumerate(range(0, len(rows), settings.shards.rows_per_file)):
            part = rows[start : start + settings.shards.rows_per_file]
            where = [(row["clip"].clip, row["row"]) for row in part]
            plan.append(Shard(dataset, number, where, [splits[row["cluster"]] for row in part]))
    return plan, Counter(splits.values())


def write_shard(
    shard: Shard, folder: Path, output: Path, encoders: "Encoders", settings: CurationSettings
) -> list[FileEntry]:
    """Encode the pairs of a shard in batches of fixed size and write all its files."""
    staged = {
        clip: pq.read_table(folder / _pairs_name(clip), schema=None) for clip in sorted({c for c, _ in shard.pairs})
    }
    table = pa.concat_tables([staged[clip].slice(row, 1) for clip, row in shard.pairs])
    rows = from_table(table, PairRow)
    rows = [dataclasses.replace(row, split=split) for row, split in zip(rows, shard.splits, strict=True)]
    name = shards.part_name(shard.number)
    entries = [shards.write_table(output, f"{shard.dataset}/pairs/{name}", to_table(rows, PairRow))]
    ids = [row.pair_id for row in rows]
    wanted = settings.shards
    encoded = features.encode_pairs(encoders, rows, wanted.batch_size, wanted.dtype, wanted.hidden)
    for family, values in encoded.items():
        path = f"{shards.feature_folder(shard.dataset, family, encoders.fingerprints[family])}/{name}"
        entries.append(shards.write_table(output, path, shards.feature_table(ids, family, values)))
    return entries


def write_subjects(
    folder: Path, clips: Sequence[StagedClip], others: Sequence[SubjectRow], output: Path, rows_per_file: int
) -> list[FileEntry]:
    """Every SubjectRow into parts: sources that never became a clip first, then clip by clip in the order of keys."""
    entries, held = [], to_table(others, SubjectRow)
    for table in (pq.read_table(folder / _subjects_name(clip.clip)) for clip in clips):
        held = pa.concat_tables([held, table.cast(held.schema)])
        while len(held) >= rows_per_file:
            entries.append(_write_part(output, len(entries), held.slice(0, rows_per_file)))
            held = held.slice(rows_per_file)
    return [*entries, _write_part(output, len(entries), held)] if len(held) else entries


def make_manifest(
    settings: CurationSettings,
    names: "EncoderNames",
    info: dict[str, Any],
    counts: dict[str, StageCount],
    plan: Iterable[Shard],
    clusters: Counter,
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
        shapes={family: info["shapes"][family] for family in held},
        dtype=settings.shards.dtype,
        counts={unit: {"inputs": count.total, **dataclasses.asdict(count)} for unit, count in counts.items()},
        sizes=sizes,
        clusters={split: clusters[split] for split in SPLITS},
    )


def _write_part(output: Path, number: int, table: pa.Table) -> FileEntry:
    return shards.write_table(output, f"subjects/{shards.part_name(number)}", table.combine_chunks())


def _subjects_name(clip: str) -> str:
    return f"{clip}.subjects.parquet"


def _pairs_name(clip: str) -> str:
    return f"{clip}.pairs.parquet"
