"""Curation with Ray Data: the chain of stages, where each runs and what it needs. The only file here that knows Ray.

Three passes, because duplicates are known only when every source was read, and splits and shards only when every pair
is known: sources are hashed; units of clips become staged rows; ranges of the staged pairs become shards. Between the
last two sources that look the same are found, and pairs across sources where they are wanted. A row of a
Ray dataset is one unit of a pass; it carries paths and encoded bytes, never raw frames. Finished units are in the
ledger, so that the same command goes on after any kind of end, and nothing that is written depends on the order in
which Ray runs things.
"""

import dataclasses
import json
import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

import ray
from ray.data import ActorPoolStrategy, DataContext, Dataset

from flexip.rows import SubjectRow
from pipelines import (
    cross,
    face_shards,
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
from pipelines.backfill import FamilyPart, plan_family, replaced_family
from pipelines.cross import Joined
from pipelines.face_shards import FacePart, FaceSettings
from pipelines.listing import list_sources
from pipelines.outputs import DRY_RUN, STAGING
from pipelines.records import UNITS, Source, StageCount, pack
from pipelines.report_html import Facts, StageTime
from pipelines.settings import CurationSettings
from pipelines.shards import DatasetError, FileEntry, Manifest, read_manifest, sweep, write_manifest
from pipelines.staging import Shard, StagedUnit, SubjectPart
from pipelines.truth import measure, read_truth
from pipelines.units import Unit, inputs_digest, plan_hashing, plan_units
from pipelines.workers import (
    EmbedCrops,
    FindSubjects,
    ReadFrames,
    Row,
    Run,
    WriteFaces,
    WriteFamily,
    WriteShard,
    hash_sources,
    stage_cross,
    stage_pairs,
    write_subjects,
)

if TYPE_CHECKING:
    from flexip.encoders import EncoderNames

BLOCKS = 10_000  # at most so many blocks in a pass


class Say(Protocol):
    """Prints one line about a stage."""

    def __call__(self, stage: str, text: str) -> None: ...


class Progress(Protocol):
    """Opens a progress bar: a context manager whose value has `update(n)`."""

    def __call__(self, total: int | None, description: str, unit: str) -> AbstractContextManager[Any]: ...


@dataclass(frozen=True)
class Pools:
    """Actors of the stages that keep state. They take half a CPU each, as tasks do, so that both find their place."""

    readers: int
    searchers: int
    encoders: int
    encoder_gpus: float
    searcher_gpus: float

    @classmethod
    def of_cluster(cls, use_gpu: bool, search_on_gpu: bool = False) -> "Pools":
        """A reader for every four logical CPUs, a searcher for every two, an encoder for every GPU (or one without).

        Searchers whose models run on a GPU are two for each, and take half of it together.
        """
        have = ray.cluster_resources()
        if have.get("CPU", 0) < 2:
            raise DatasetError(f"ray.num_cpus = {have.get('CPU', 0):g}: curation needs 2 logical CPUs at least")
        gpus = int(have.get("GPU", 0)) if use_gpu else 0
        cpus = int(have["CPU"])
        shared = bool(gpus) and search_on_gpu
        searchers = min(cpus // 2, 2 * gpus) if shared else cpus // 2
        encoder_gpus = 0.5 if shared else 1.0 if gpus else 0.0
        return cls(max(1, cpus // 4), max(1, searchers), max(1, gpus), encoder_gpus, 0.25 if shared else 0.0)

    def at_most(self, units: int) -> "Pools":
        """No more actors of a stage than it has units of work."""
        fewer = {name: min(getattr(self, name), units) for name in ("readers", "searchers", "encoders")}
        return dataclasses.replace(self, **fewer)

    def encoding(self) -> dict[str, Any]:
        """What a stage needs whose actors hold the encoders."""
        return {"compute": ActorPoolStrategy(size=self.encoders), "num_cpus": 0.5, "num_gpus": self.encoder_gpus}


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
    _quieten()
    info = _encoder_info(names, settings, use_gpu) | {"tools": _tool_marks(settings)}
    output = output.absolute()
    if finished := outputs.finished(output, settings, info, listed):
        say("curate", f"{output} is complete already")
        return finished
    outputs.check_output(output)
    with ledger.open_run(output / STAGING, outputs.identity(settings, info)) as folder:
        manifest = _curate(Run(settings, names, info, folder, output, use_gpu), listed, say, progress)
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
    _quieten()
    output = output.absolute()
    outputs.check_output(output)
    info = _encoder_info(names, settings, use_gpu) | {"tools": _tool_marks(settings)}
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


def backfill(
    family: str, names: "EncoderNames", output: Path, *, use_gpu: bool, say: Say, progress: Progress
) -> Manifest:
    """Compute one feature family of a finished dataset anew, leaving all others alone. Needs a running Ray.

    Raises:
        DatasetError: no dataset there, or no such family.
    """
    manifest, output = read_manifest(output), output.absolute()
    plan = {f"{part.dataset}-{part.name}": part for part in plan_family(manifest, family)}
    _quieten()
    settings = CurationSettings(**manifest.config)
    info = _encoder_info(names, settings, use_gpu)
    mark = info["fingerprints"][family]
    if manifest.fingerprints.get(family) == mark:
        say("features", f"{family} of {output} is of encoder {mark} already")
        return manifest
    identity = {"only": f"features.{family}", "encoder": mark, "device": info["device"]}
    with ledger.open_run(output / STAGING, identity) as folder:
        run = Run(settings, names, info, folder, output, use_gpu)
        _do(list(plan), partial(_family_pass, run, plan), run.folder, "features", progress)
        files = [FileEntry(**entry) for name in plan for entry in _record(folder, name)["files"]]
        manifest, files = replaced_family(manifest, family, names, info, files)
        manifest = write_manifest(output, manifest, files)
    sweep(output, set(manifest.files))
    ledger.discard(output / STAGING)
    return manifest


def curate_faces(
    settings: FaceSettings, names: "EncoderNames", output: Path, *, use_gpu: bool, say: Say, progress: Progress
) -> Manifest:
    """A dataset of faces at `output`, begun or gone on with. Needs a running Ray.

    Raises:
        DatasetError: the output holds something else, or of other settings or models; not one face was accepted.
    """
    _quieten()
    task: Any = ray.remote(num_cpus=1, num_gpus=1 if use_gpu else 0)(cast(Any, face_shards.describe))
    info: dict[str, Any] = cast(Any, ray.get(task.remote(names, gpu=use_gpu, threads=settings.threads)))
    output = output.absolute()
    if made := face_shards.finished(output, settings, info):
        say("curate", f"{output} is complete already")
        return made
    outputs.check_output(output)
    plan = {part.name: part for part in face_shards.plan_parts(settings)}
    with ledger.open_run(output / STAGING, face_shards.identity_of(settings, info)) as folder:
        told = (settings, names, info, folder, output, use_gpu)
        _do(list(plan), partial(_face_pass, told, plan), folder, "parts", progress)
        records = [_record(folder, name) for name in plan]
        files = [FileEntry(**entry) for record in records for entry in record["files"]]
        manifest = face_shards.make_manifest(settings, names, info, records)
        sweep(output, {entry.path for entry in files})
        manifest = write_manifest(output, manifest, files)
    ledger.discard(output / STAGING)
    say("faces", report.count_line(StageCount(**{k: v for k, v in manifest.counts["face"].items() if k != "inputs"})))
    return manifest


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
    by_key = {unit.key: unit for unit in units}
    wall = _do(list(by_key), partial(_unit_pass, run, by_key), run.folder, "clips", progress)
    staged = [StagedUnit.from_record(_record(folder, unit.key)) for unit in units]
    duplicates = looks.near_duplicates(folder, list(by_key), settings.duplicates)
    staged = staging.without_duplicates(folder, staged, duplicates)
    across, joined = _cross(run, staged, frozenset(d.source for d in duplicates), progress)
    staged += across
    counts = staging.count_all(staged, others, len(listed))
    for unit in UNITS:
        say(f"{unit}s", report.count_line(counts[unit]))
    plan, clusters = staging.plan_shards(folder, staged, settings, {cluster.name: cluster.into for cluster in joined})
    parts = staging.plan_subjects(staged, settings.shards.rows_per_file, duplicates, joined)
    return _Plan(
        staged,
        others,
        counts,
        {f"{shard.dataset}-{shard.name}": shard for shard in plan},
        {part.name: part for part in parts},
        clusters,
        _times(run, staged, wall),
    )


def _cross(
    run: Run, staged: Sequence[StagedUnit], rejected: frozenset[str], progress: Progress
) -> tuple[list[StagedUnit], list[Joined]]:
    """Pairs across sources, where they are wanted, as more units; and the clusters that became one."""
    if not run.settings.pairs.cross_video:
        return [], []
    keys = [unit.unit for unit in staged]
    planned, joined = cross.plan_cross(run.folder, keys, rejected, run.settings.pairs.cross_identity_min)
    by_key = {unit.key: unit for unit in planned}

    def cross_pass(missing: Sequence[str]) -> Dataset:
        items = [{"unit": name, "links": json.dumps(by_key[name].links)} for name in missing]
        return _rows(items).map(partial(stage_cross, run=run), num_cpus=0.5)

    _do(list(by_key), cross_pass, run.folder, "links", progress)
    return [StagedUnit.from_record(_record(run.folder, key)) for key in by_key], joined


def _curate(run: Run, listed: Sequence[Source], say: Say, progress: Progress) -> Manifest:
    """All passes, then the manifest."""
    settings, folder = run.settings, run.folder
    plan = _plan(run, listed, say, progress)
    if not plan.counts["pair"].accepted:
        told = report.reasons(plan.counts)
        raise DatasetError(f"input.path = {settings.input.path}: not one pair was accepted; {told}")
    _do(list(plan.shards), partial(_shard_pass, run, plan.shards), run.folder, "features", progress)
    _do(list(plan.parts), partial(_subject_pass, run, plan.parts), run.folder, "rows", progress)
    names = (*plan.shards, *plan.parts)
    files = [FileEntry(**entry) for name in names for entry in _record(folder, name)["files"]]
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


def _times(run: Run, staged: Sequence[StagedUnit], wall: float) -> list[StageTime]:
    """Busy time of the stages of the pass over units; a wall time of 0 says that other starts had their part in it."""
    frames = sum(unit.counts["frame"].total for unit in staged)
    pools = Pools.of_cluster(run.gpu).at_most(len(staged))
    workers = {"read": pools.readers, "search": pools.searchers, "embed": pools.encoders, "pairs": 0}
    return [
        StageTime(name, frames, sum(unit.seconds.get(name, 0.0) for unit in staged), number, wall)
        for name, number in workers.items()
    ]


def _do(
    names: Sequence[str], make_pass: Callable[[Sequence[str]], Dataset], folder: Path, what: str, progress: Progress
) -> float:
    """Runs a pass over the units that are not finished. Seconds that it took, 0 when some were finished before."""
    began = time.perf_counter()
    missing = [name for name in names if ledger.finished(folder, name) is None]
    with progress(len(names), what, what.rstrip("s")) as bar:
        bar.update(len(names) - len(missing))
        if missing:
            for _ in make_pass(missing).iter_rows():
                bar.update(1)
    return time.perf_counter() - began if len(missing) == len(names) else 0.0


def _unit_pass(run: Run, units: dict[str, Unit], missing: Sequence[str]) -> Dataset:
    """Units to staged rows; a block per unit, so that a slow video holds up nobody."""
    items = [{"unit": name, "sources": pack(units[name].sources, Source), "seconds": "{}"} for name in missing]
    pools = Pools.of_cluster(run.gpu, pretrained.on_torch(run.settings)).at_most(len(missing))
    return (
        _rows(items)
        # Decoding, bound by CPU: each actor has one child process, which is killed at its limits.
        .map(
            cast(Any, ReadFrames),
            fn_constructor_args=[run.settings],
            compute=ActorPoolStrategy(size=pools.readers),
            num_cpus=0.5,
        )
        # Detection, masks, tracks, filters, captions, in a child as above, for detectors crash too. Bound by CPU, or a
        # part of a GPU where the settings name models of torch.
        .map(
            cast(Any, FindSubjects),
            fn_constructor_args=[run],
            compute=ActorPoolStrategy(size=pools.searchers),
            num_cpus=0.5,
            num_gpus=pools.searcher_gpus,
        )
        # Embeddings of the crops: one actor per GPU, or one on the CPU.
        .map(
            cast(Any, EmbedCrops),
            fn_constructor_args=[run],
            **pools.encoding(),
        )
        # Pairs, and everything about the unit onto disk; the ledger last.
        .map(partial(stage_pairs, run=run), num_cpus=0.5)
    )


def _shard_pass(run: Run, plan: dict[str, Shard], missing: Sequence[str]) -> Dataset:
    """Shards to files: features in batches of fixed size on the encoders' actors, which write what they made."""
    items = [{"name": name, "shard": json.dumps(dataclasses.asdict(plan[name]))} for name in missing]
    return _rows(items).map(
        cast(Any, WriteShard),
        fn_constructor_args=[run],
        **Pools.of_cluster(run.gpu).at_most(len(missing)).encoding(),
    )


def _family_pass(run: Run, plan: dict[str, FamilyPart], missing: Sequence[str]) -> Dataset:
    """Parts of pairs to files of one family."""
    items = [{"name": name, "part": json.dumps(dataclasses.asdict(plan[name]))} for name in missing]
    return _rows(items).map(
        cast(Any, WriteFamily),
        fn_constructor_args=[run],
        **Pools.of_cluster(run.gpu).at_most(len(missing)).encoding(),
    )


def _face_pass(told: tuple[Any, ...], plan: dict[str, FacePart], missing: Sequence[str]) -> Dataset:
    """Parts of people to files, each drawn, looked at and encoded by one actor. Bound by CPU."""
    items = [{"name": name, "part": json.dumps(dataclasses.asdict(plan[name]))} for name in missing]
    *_, use_gpu = told
    pools = Pools.of_cluster(use_gpu).at_most(len(missing))
    wanted = pools.encoding() if use_gpu else {"compute": ActorPoolStrategy(size=pools.searchers), "num_cpus": 0.5}
    return _rows(items).map(cast(Any, WriteFaces), fn_constructor_args=[*told], **wanted)


def _subject_pass(run: Run, parts: dict[str, SubjectPart], missing: Sequence[str]) -> Dataset:
    """Staged subject rows, brought together into files of a useful size."""
    items = [{"name": name, "part": json.dumps(dataclasses.asdict(parts[name]))} for name in missing]
    return _rows(items).map(partial(write_subjects, run=run), num_cpus=0.5)


def _hash(run: Run, listed: Sequence[Source], progress: Progress) -> list[Source]:
    """Content hashes: every byte is read once, and not again while a source keeps its size and time of change."""
    by_name = {unit.key: unit.sources for unit in plan_hashing(listed)}

    def hash_pass(missing: Sequence[str]) -> Dataset:
        items = [{"unit": name, "sources": pack(by_name[name], Source)} for name in missing]
        return _rows(items).map(partial(hash_sources, run=run), num_cpus=0.5)

    _do(list(by_name), hash_pass, run.folder, "hashes", progress)
    hashed = [Source(**entry) for name in by_name for entry in _record(run.folder, name)["sources"]]
    return sources.reject_duplicates(hashed)


def _rows(items: list[Row]) -> Dataset:
    return ray.data.from_items(items, override_num_blocks=min(len(items), BLOCKS))


def _record(folder: Path, name: str) -> dict[str, Any]:
    record = ledger.finished(folder, name)
    assert record is not None, name  # the pass before has finished it
    return record


def _encoder_info(names: "EncoderNames", settings: CurationSettings, gpu: bool) -> dict[str, Any]:
    """What identifies the encoders, found out where they will run."""
    task: Any = ray.remote(num_cpus=1, num_gpus=1 if gpu else 0)(cast(Any, features.describe_encoders))
    return ray.get(task.remote(names, gpu=gpu, threads=settings.shards.threads))


def _tool_marks(settings: CurationSettings) -> dict[str, str]:
    """What identifies the weights of detector, masker, captioner and aesthetic head, found out on a worker."""
    if not pretrained.needed(settings):
        return {}
    task: Any = ray.remote(num_cpus=1)(cast(Any, pretrained.fingerprints))
    return ray.get(task.remote(settings))


def _quieten() -> None:
    """Ray Data's own bars and notices would bury the lines of this program."""
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
