"""Curation: the chain of steps from videos and stills to a dataset of pairs, where each runs and what it needs.

Three passes, because duplicates are known only when every source was read, and splits and shards only when every pair
is known: sources are hashed; units of clips become staged rows; ranges of the staged pairs become shards. Between the
last two sources that look the same are found, and pairs across sources where they are wanted.
"""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flexip.rows import SubjectRow
from pipelines import (
    cross,
    features,
    ledger,
    looks,
    outputs,
    pretrained,
    report,
    report_html,
    sources,
    stages,
    staging,
)
from pipelines.cross import Joined
from pipelines.listing import list_sources
from pipelines.outputs import DRY_RUN, STAGING
from pipelines.passes import (
    Pools,
    Progress,
    Say,
    Step,
    ask_worker,
    files_of,
    part_rows,
    quieten,
    record_of,
    run_pass,
)
from pipelines.records import UNITS, Source, StageCount, pack
from pipelines.report_html import Facts, StageTime
from pipelines.sandbox import START_S
from pipelines.settings import CurationSettings
from pipelines.shards import DatasetError, Manifest, sweep, write_manifest
from pipelines.staging import Shard, StagedUnit, SubjectPart
from pipelines.truth import measure, read_truth
from pipelines.units import Unit, inputs_digest, plan_hashing, plan_units
from pipelines.workers import (
    LOADING_S,
    EmbedCrops,
    FindSubjects,
    ReadFrames,
    Run,
    WriteShard,
    hash_sources,
    stage_cross,
    stage_pairs,
    write_subjects,
)

if TYPE_CHECKING:
    from flexip.encoders import EncoderNames

EMBEDDING_S = 60.0  # for the crops of one source, with large encoders on a CPU [s]


def curate(
    settings: CurationSettings, names: "EncoderNames", output: Path, *, use_gpu: bool, say: Say, progress: Progress
) -> Manifest:
    """Curate `settings.input` into a dataset directory at `output`, or go on where an earlier start ended.

    Needs a running Ray.

    Raises:
        SourceError: the input is missing or holds no video or image.
        DatasetError: the output holds something else, a dataset or unfinished run of other settings, encoders or
            sources; or not one pair was accepted (with the counted reasons).
    """
    listed = list_sources(settings.input)
    quieten()
    info = _models_info(names, settings, use_gpu)
    output = output.absolute()
    if finished := outputs.finished(output, settings, info, listed):
        say("curate", f"{output} is complete already")
        return finished
    outputs.check_output(output)
    with ledger.open_run(output / STAGING, outputs.identity(settings, info)) as folder:
        run = Run(settings, names, info, folder, output, use_gpu)
        plan = _plan(run, listed, say, progress)
        manifest = _write(run, plan, listed, progress)
    ledger.discard(output / STAGING)
    return manifest


def dry_run(
    settings: CurationSettings,
    names: "EncoderNames",
    output: Path,
    number: int,
    *,
    use_gpu: bool,
    say: Say,
    progress: Progress,
) -> Path:
    """The report on `number` of the inputs, drawn by hash, and nothing else; its path. Needs a running Ray.

    Raises:
        SourceError: the input is missing or holds no video or image.
        DatasetError: the output holds something else.
    """
    listed = list_sources(settings.input)
    chosen = sources.sample(listed, number, settings.seed)
    quieten()
    output = output.absolute()
    outputs.check_output(output)
    info = _models_info(names, settings, use_gpu)
    with ledger.open_run(output / DRY_RUN, outputs.identity(settings, info) | {"dry_run": number}) as folder:
        run = Run(settings, names, info, folder, folder / "dataset", use_gpu)
        plan = _plan(run, chosen, say, progress)
        for shard in plan.shards.values():
            staging.write_pairs(shard, folder, run.output)
        for part in plan.parts.values():
            staging.write_subjects(part, folder, run.output)
        staging.write_others(plan.others, run.output)
        facts = _facts(run, plan, _manifest(run, plan, chosen), len(listed), sampled=True)
        path = report_html.write_report(output / report_html.REPORT, run.output, facts)
    ledger.discard(output / DRY_RUN)
    say("dry run", report_html.verdict(facts))
    return path


@dataclass(frozen=True)
class _Plan:
    """What is known when every unit is staged and before any file of the dataset is written."""

    staged: list[StagedUnit]
    others: list[SubjectRow]  # sources that never became part of a unit
    counts: dict[str, StageCount]
    shards: dict[str, Shard]
    parts: dict[str, SubjectPart]
    clusters: Counter[str]
    times: list[StageTime]


def _plan(run: Run, listed: Sequence[Source], say: Say, progress: Progress) -> _Plan:
    """All that decides what the dataset will hold."""
    settings, folder = run.settings, run.folder
    hashed = _hash(run, listed, progress)
    units = plan_units(sources.group_clips(hashed))
    others = [stages.source_row(source) for source in hashed if source.status != "accepted"]
    say("sources", f"{len(listed)} files, {len(units)} units of work in {settings.input.path}")
    staged, times = _stage(run, units, progress)
    duplicates = looks.near_duplicates(folder, [unit.key for unit in units], settings.duplicates)
    staged = staging.without_duplicates(folder, staged, duplicates)
    across, joined = _cross(run, staged, frozenset(d.source for d in duplicates), progress)
    staged += across
    counts = staging.count_all(staged, others, len(listed))
    for unit in UNITS:
        say(f"{unit}s", report.count_line(counts[unit]))
    shards, clusters = staging.plan_shards(folder, staged, settings, {one.name: one.into for one in joined})
    parts = staging.plan_subjects(staged, settings.shards.rows_per_file, duplicates, joined)
    return _Plan(
        staged,
        others,
        counts,
        {f"{shard.dataset}-{shard.name}": shard for shard in shards},
        {part.name: part for part in parts},
        clusters,
        times,
    )


def _hash(run: Run, listed: Sequence[Source], progress: Progress) -> list[Source]:
    """Content hashes: every byte is read once, and not again while a source keeps its size and time of change."""
    planned = plan_hashing(listed)
    rows = {unit.key: {"unit": unit.key, "sources": pack(unit.sources, Source)} for unit in planned}
    run_pass(rows, [Step(partial(hash_sources, run=run))], run.folder, "hashes", progress)
    hashed = [Source(**entry) for name in rows for entry in record_of(run.folder, name)["sources"]]
    return sources.reject_duplicates(hashed)


def _stage(run: Run, units: Sequence[Unit], progress: Progress) -> tuple[list[StagedUnit], list[StageTime]]:
    """Units to staged rows, and how long each step was at it; a wall time of 0: other starts had their part in it."""
    pools = Pools.of_cluster(run.gpu, pretrained.on_torch(run.settings))
    steps = {
        # Decoding, bound by CPU: each actor has one child process, which is killed at its limits.
        "read": Step(ReadFrames, (run.settings,), pools.readers),
        # Detection, masks, tracks, filters, captions, in a child as above, for detectors crash too. Bound by CPU, or a
        # part of a GPU where the settings name models of torch.
        "search": Step(FindSubjects, (run,), pools.searchers, pools.searcher_gpus),
        # Embeddings of the crops: one actor per GPU, or one on the CPU.
        "embed": pools.encoding(EmbedCrops, run),
        # Pairs, and everything about the unit onto disk; the ledger last.
        "pairs": Step(partial(stage_pairs, run=run)),
    }
    rows = {
        unit.key: {"unit": unit.key, "sources": pack(unit.sources, Source), "seconds": json.dumps({})} for unit in units
    }
    wall = run_pass(rows, list(steps.values()), run.folder, "clips", progress, _longest(units, run.settings))
    staged = [StagedUnit.from_record(record_of(run.folder, name)) for name in rows]
    frames = sum(unit.counts["frame"].total for unit in staged)
    times = [
        StageTime(name, frames, sum(unit.seconds.get(name, 0.0) for unit in staged), min(step.actors, len(units)), wall)
        for name, step in steps.items()
    ]
    return staged, times


def _longest(units: Sequence[Unit], settings: CurationSettings) -> float:
    """What the slowest unit may take: every source twice at its limits, and the start of its workers [s]."""
    source_s = 2 * (settings.frames.timeout_s + settings.subjects.timeout_s) + EMBEDDING_S
    start_s = LOADING_S if pretrained.needed(settings) else START_S
    return start_s + source_s * max((len(unit.sources) for unit in units), default=0)


def _cross(
    run: Run, staged: Sequence[StagedUnit], rejected: frozenset[str], progress: Progress
) -> tuple[list[StagedUnit], list[Joined]]:
    """Pairs across sources, where they are wanted, as more units; and the clusters that became one."""
    if not run.settings.pairs.cross_video:
        return [], []
    keys = [unit.unit for unit in staged]
    planned, joined = cross.plan_cross(run.folder, keys, rejected, run.settings.pairs.cross_identity_min)
    rows = {unit.key: {"unit": unit.key, "links": json.dumps(unit.links)} for unit in planned}
    run_pass(rows, [Step(partial(stage_cross, run=run))], run.folder, "links", progress)
    return [StagedUnit.from_record(record_of(run.folder, name)) for name in rows], joined


def _write(run: Run, plan: _Plan, listed: Sequence[Source], progress: Progress) -> Manifest:
    """The files of the dataset, then its manifest."""
    settings, folder = run.settings, run.folder
    if not plan.counts["pair"].accepted:
        told = report.reasons(plan.counts)
        raise DatasetError(f"input.path = {settings.input.path}: not one pair was accepted; {told}")
    # Features in batches of fixed size on the encoders' actors, which write what they made.
    encoding = Pools.of_cluster(run.gpu).encoding(WriteShard, run)
    run_pass(part_rows(plan.shards, "shard"), [encoding], folder, "features", progress)
    # Staged subject rows, brought together into files of a useful size.
    run_pass(part_rows(plan.parts), [Step(partial(write_subjects, run=run))], folder, "rows", progress)
    files = files_of([record_of(folder, name) for name in (*plan.shards, *plan.parts)])
    files += staging.write_others(plan.others, run.output)
    sweep(run.output, {entry.path for entry in files})
    manifest = _manifest(run, plan, listed)
    files.append(report.write_contact_sheet(run.output, manifest, settings.seed))
    facts = _facts(run, plan, manifest, len(listed), sampled=False)
    report_html.write_report(run.output / report_html.REPORT, run.output, facts)
    return write_manifest(run.output, manifest, files)


def _manifest(run: Run, plan: _Plan, listed: Sequence[Source]) -> Manifest:
    digest = inputs_digest(listed)
    return staging.make_manifest(
        run.settings, run.names, run.info, plan.counts, plan.shards.values(), plan.clusters, digest
    )


def _facts(run: Run, plan: _Plan, manifest: Manifest, inputs: int, *, sampled: bool) -> Facts:
    """What the report tells beside the rows."""
    quality = measure(run.output, read_truth(run.settings.input.path), run.settings)
    return Facts(run.settings, plan.counts, manifest.sizes, manifest.clusters, plan.times, quality, inputs, sampled)


def _models_info(names: "EncoderNames", settings: CurationSettings, gpu: bool) -> dict[str, Any]:
    """What identifies the encoders, and the weights of detector, masker, captioner and aesthetic head."""
    info = ask_worker(features.describe_encoders, names, gpu=gpu, threads=settings.shards.threads, on_gpu=gpu)
    return info | {"tools": ask_worker(pretrained.fingerprints, settings) if pretrained.needed(settings) else {}}
