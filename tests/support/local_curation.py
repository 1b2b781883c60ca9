"""A curation without Ray: the same functions in one process, up to the dataset's rows; no features."""

from dataclasses import dataclass
from pathlib import Path

from flexip.encoders import Encoders
from flexip.images import decode_image, decode_mask
from flexip.rows import SubjectRow
from pipelines import cross, features, looks, sources, stages, staging
from pipelines.listing import list_sources
from pipelines.records import StageCount
from pipelines.settings import CurationSettings
from pipelines.staging import StagedUnit
from pipelines.tools import Tools
from pipelines.units import by_cluster, plan_units
from pipelines.video import read_video


@dataclass(frozen=True)
class Local:
    """What came of it."""

    dataset: Path  # subjects/ and */pairs/
    staging: Path
    units: list[str]
    staged: list[StagedUnit]
    duplicates: list[looks.Duplicate]
    joined: list[cross.Joined]
    counts: dict[str, StageCount]
    splits: dict[str, int]


def stage(settings: CurationSettings, folder: Path, encoders: Encoders) -> tuple[list[str], list[SubjectRow], int]:
    """Stages every unit in turn: their names, the rows of other sources, the number of sources."""
    listed = list_sources(settings.input)
    hashed = sources.reject_duplicates([sources.read_hash(source) for source in listed])
    units = plan_units(sources.group_clips(hashed))
    for unit in units:
        judged, frames = stages.read_frames(unit.sources, settings.frames, read_video)
        rows, crops = [], []
        for cluster, clip in by_cluster(judged):
            own = [frame for frame in frames if frame.source_hash in {source.sha256 for source in clip}]
            found = stages.find_subjects(cluster, clip, own, settings, Tools())
            rows += found[0]
            crops += found[1]
        images, masks = [decode_image(crop.image) for crop in crops], [decode_mask(crop.mask) for crop in crops]
        embeddings = features.embed_crops(encoders, images, masks, settings.shards.batch_size)
        rows, pairs, count = stages.pair_unit(rows, crops, embeddings, settings, 64)
        looks.stage_looks(folder, unit.key, rows, crops, embeddings)
        staging.stage_unit(folder, unit.key, rows, pairs, count, {"read": 0.5, "search": 1.0})
    others = [stages.source_row(source) for source in hashed if source.status != "accepted"]
    return [unit.key for unit in units], others, len(listed)


def curate_local(settings: CurationSettings, folder: Path, encoders: Encoders) -> Local:
    """Stages, plans and writes the rows."""
    scratch, dataset = folder / "staging", folder / "dataset"
    units, others, files = stage(settings, scratch, encoders)
    staged = [StagedUnit.from_record(staging.ledger.finished(scratch, unit) or {}) for unit in units]
    duplicates = looks.near_duplicates(scratch, units, settings.duplicates)
    staged = staging.without_duplicates(scratch, staged, duplicates)
    joined: list[cross.Joined] = []
    if settings.pairs.cross_video:
        rejected = frozenset(duplicate.source for duplicate in duplicates)
        planned, joined = cross.plan_cross(scratch, units, rejected, settings.pairs.cross_identity_min)
        for unit in planned:
            staging.stage_cross(scratch, unit.key, *cross.pair_across(unit.links, scratch, settings, 64))
            staged.append(StagedUnit.from_record(staging.ledger.finished(scratch, unit.key) or {}))
    counts = staging.count_all(staged, others, files)
    plan, clusters = staging.plan_shards(scratch, staged, settings, {j.name: j.into for j in joined})
    for shard in plan:
        staging.write_pairs(shard, scratch, dataset)
    for part in staging.plan_subjects(staged, settings.shards.rows_per_file, duplicates, joined):
        staging.write_subjects(part, scratch, dataset)
    staging.write_others(others, dataset)
    return Local(dataset, scratch, units, staged, duplicates, joined, counts, dict(clusters))
