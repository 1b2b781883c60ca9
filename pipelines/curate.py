"""Curation with Ray Data: the chain of stages, where each runs and what it needs. The only file here that knows Ray.

Two passes, because splits and shards need to know every pair. The first turns each clip (one video, one still, one
multi-view folder) into staged rows; the second turns fixed ranges of the sorted pairs into shards. A row of a Ray
dataset is one clip or one shard, and carries paths and encoded bytes, never raw frames. Nothing that is written
depends on the order in which Ray runs things.
"""

import dataclasses
import json
import logging
import shutil
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

import cv2
import numpy as np
import ray
from ray.data import ActorPoolStrategy, DataContext, Dataset

from flexip.images import decode_image, decode_mask
from flexip.rows import PairRow, SubjectRow
from pipelines import features, report, sources, stages, staging
from pipelines.records import UNITS, Crop, Frame, Source, StageCount, pack, unpack
from pipelines.sandbox import Sandbox
from pipelines.settings import CurationSettings
from pipelines.shards import DatasetError, FileEntry, Manifest, write_manifest
from pipelines.staging import Shard, StagedClip
from pipelines.subjects import detect

if TYPE_CHECKING:
    from flexip.encoders import EncoderNames

STAGING = ".staging"  # below the output; removed when the dataset is complete
BLOCKS = 10_000  # at most so many blocks in a pass
Row = dict[str, Any]


class Say(Protocol):
    """Prints one line about a stage."""

    def __call__(self, stage: str, text: str) -> None: ...


class Progress(Protocol):
    """Opens a progress bar: a context manager whose value has `update(n)`."""

    def __call__(self, total: int | None, description: str, unit: str) -> AbstractContextManager[Any]: ...


@dataclass(frozen=True)
class Pools:
    """Actors of the stages that keep state. They take half a CPU each, so that tasks always find one."""

    readers: int
    encoders: int
    encoder_gpus: float

    @classmethod
    def of_cluster(cls, use_gpu: bool) -> "Pools":
        """One reader for every four logical CPUs, one encoder for every GPU (or a single one without)."""
        have = ray.cluster_resources()
        if have.get("CPU", 0) < 2:
            raise DatasetError(f"ray.num_cpus = {have.get('CPU', 0):g}: curation needs 2 logical CPUs at least")
        gpus = int(have.get("GPU", 0)) if use_gpu else 0
        return cls(max(1, int(have["CPU"]) // 4), max(1, gpus), 1.0 if gpus else 0.0)


def curate(
    settings: CurationSettings, names: "EncoderNames", output: Path, *, use_gpu: bool, say: Say, progress: Progress
) -> Manifest:
    """Curate `settings.input` into a dataset directory at `output`. Needs a running Ray.

    Raises:
        SourceError: the input is missing or holds no video or image.
        DatasetError: the output already holds something, or not one pair was accepted (with the counted reasons).
    """
    listed = sources.list_sources(settings.input)
    folder = _prepare(output)
    _quieten()
    pools = Pools.of_cluster(use_gpu)
    hashed = sources.reject_duplicates(_hash(listed))
    clips = sources.group_clips(hashed)
    others = [stages.source_row(source) for source in hashed if source.status != "accepted"]
    say("sources", f"{len(listed)} files, {len(clips)} clips in {settings.input.path}")
    with progress(len(clips), "clips", "clip") as bar:
        results = _collect(_clip_pass(clips, settings, names, folder, pools), "staged", bar) if clips else []
    done = sorted((StagedClip.from_json(text) for text in results), key=lambda staged: staged.clip)
    counts = staging.count_all(folder, done, others)
    for unit in UNITS:
        say(f"{unit}s", report.count_line(counts[unit]))
    if not counts["pair"].accepted:
        shutil.rmtree(folder)
        raise DatasetError(f"input.path = {settings.input.path}: not one pair was accepted; {report.reasons(counts)}")
    plan, clusters = staging.plan_shards(folder, done, settings)
    staging.check_counts(folder, done, counts, len(listed), sum(len(shard.pairs) for shard in plan))
    with progress(len(plan), "features", "shard") as bar:
        written = _collect(_shard_pass(plan, settings, names, folder, output, pools), "files", bar)
    files = [FileEntry(**entry) for text in written for entry in json.loads(text)]
    files += staging.write_subjects(folder, done, others, output, settings.shards.rows_per_file)
    manifest = staging.make_manifest(settings, names, done[0].encoders, counts, plan, clusters)
    files.append(report.write_contact_sheet(output, manifest, settings.seed))
    shutil.rmtree(folder)
    return write_manifest(output, manifest, files)


def _clip_pass(
    clips: Sequence[sources.Clip], settings: CurationSettings, names: "EncoderNames", folder: Path, pools: Pools
) -> Dataset:
    """Clips to staged rows; a block per clip, so that a slow video holds up nobody."""
    items = [{"clip": c.key, "kind": c.kind, "cluster": c.cluster, "sources": pack(c.sources, Source)} for c in clips]
    gpu = pools.encoder_gpus > 0
    return (
        ray.data.from_items(items, override_num_blocks=min(len(items), BLOCKS))
        # Decoding, bound by CPU: each actor has one child process, which is killed at the time limit.
        .map(
            cast(Any, ReadFrames),
            fn_constructor_args=[settings],
            compute=ActorPoolStrategy(size=pools.readers),
            num_cpus=0.5,
        )
        # Detection, masks, tracks, filters, captions, bound by CPU: one core per task, no state.
        .map(partial(find_subjects, settings=settings), num_cpus=1)
        # Embeddings of the crops: one actor per GPU, or one on the CPU; it waits more than it works.
        .map(
            cast(Any, EmbedCrops),
            fn_constructor_args=[settings, names, gpu],
            compute=ActorPoolStrategy(size=pools.encoders),
            num_cpus=0.5,
            num_gpus=pools.encoder_gpus,
        )
        # Pairs, and everything about the clip onto disk.
        .map(partial(stage_pairs, settings=settings, folder=folder), num_cpus=1)
    )


def _shard_pass(
    plan: Sequence[Shard], settings: CurationSettings, names: "EncoderNames", folder: Path, output: Path, pools: Pools
) -> Dataset:
    """Shards to files: features in batches of fixed size on the encoders' actors, which write what they made."""
    items = [{"shard": json.dumps(dataclasses.asdict(shard))} for shard in plan]
    return ray.data.from_items(items, override_num_blocks=min(len(items), BLOCKS)).map(
        cast(Any, WriteShard),
        fn_constructor_args=[settings, names, folder, output, pools.encoder_gpus > 0],
        compute=ActorPoolStrategy(size=pools.encoders),
        num_cpus=0.5,
        num_gpus=pools.encoder_gpus,
    )


class ReadFrames:
    """sources -> sources judged, frames."""

    def __init__(self, settings: CurationSettings):
        self.settings = settings.frames
        self.read_video = Sandbox("pipelines.video:read_video", settings.frames.timeout_s)

    def __call__(self, row: Row) -> Row:
        judged, frames = stages.read_frames(unpack(row["sources"], Source), self.settings, self.read_video)
        return {**row, "sources": pack(judged, Source), "frames": pack(frames, Frame)}


def find_subjects(row: Row, settings: CurationSettings) -> Row:
    """frames -> subjects (rows of sources, frames and subjects), crops of the accepted ones."""
    cv2.setNumThreads(1)  # the core that the task asked for
    judged, frames = unpack(row.pop("sources"), Source), unpack(row.pop("frames"), Frame)
    try:
        rows, crops = stages.find_subjects(row["cluster"], judged, frames, settings, detect)
    except Exception as error:  # whatever a clip does to the detector, it costs this clip alone and is counted
        rows = [stages.source_row(stages.quarantined(s, f"subjects:{type(error).__name__}")) for s in judged]
        crops = []
    return {**row, "subjects": pack(rows, SubjectRow), "crops": pack(crops, Crop)}


class EmbedCrops:
    """crops -> embeddings (float32 bytes), in the crops' order; tells which encoders made them."""

    def __init__(self, settings: CurationSettings, names: "EncoderNames", gpu: bool):
        self.batch_size = settings.shards.batch_size
        self.encoders = features.open_encoders(names, gpu=gpu, threads=settings.shards.threads)

    def __call__(self, row: Row) -> Row:
        crops = unpack(row["crops"], Crop)
        images, masks = [decode_image(c.image) for c in crops], [decode_mask(c.mask) for c in crops]
        embeddings = features.embed_crops(self.encoders, images, masks, self.batch_size)
        made_by = self.encoders
        info = {"fingerprints": made_by.fingerprints, "shapes": made_by.shapes, "resolution": made_by.resolution}
        return {**row, "embeddings": embeddings.tobytes(), "width": embeddings.shape[1], "encoders": json.dumps(info)}


def stage_pairs(row: Row, settings: CurationSettings, folder: Path) -> Row:
    """subjects, crops, embeddings -> the clip's rows and pairs on disk, and a short report."""
    rows, crops, info = unpack(row["subjects"], SubjectRow), unpack(row["crops"], Crop), json.loads(row["encoders"])
    embeddings = np.frombuffer(row["embeddings"], np.float32).reshape(len(crops), row["width"])
    try:
        side = settings.pairs.target_side or info["resolution"]
        pairs, count = stages.make_pairs(rows, crops, embeddings, settings, side)
    except Exception as error:  # as above
        rows = stages.quarantined_subjects(rows, f"pairs:{type(error).__name__}")
        pairs, count = list[PairRow](), StageCount()
    staging.stage_clip(folder, row["clip"], rows, pairs)
    return {"staged": StagedClip(row["clip"], row["kind"], row["cluster"], count, info).to_json()}


class WriteShard:
    """shard -> its files, described for the manifest."""

    def __init__(self, settings: CurationSettings, names: "EncoderNames", folder: Path, output: Path, gpu: bool):
        self.settings, self.folder, self.output = settings, folder, output
        self.encoders = features.open_encoders(names, gpu=gpu, threads=settings.shards.threads)

    def __call__(self, row: Row) -> Row:
        shard = Shard(**json.loads(row["shard"]))
        entries = staging.write_shard(shard, self.folder, self.output, self.encoders, self.settings)
        return {"files": json.dumps([dataclasses.asdict(entry) for entry in entries])}


def hash_row(row: Row) -> Row:
    """A source's fields -> the same with hash, size and perhaps a status."""
    return dataclasses.asdict(sources.read_hash(Source(**row)))


def _hash(listed: Sequence[Source]) -> list[Source]:
    """Content hashes: reading every byte once, so it is spread over the cluster like the rest."""
    items = [dataclasses.asdict(source) for source in listed]
    hashed = ray.data.from_items(items, override_num_blocks=min(len(items), 16)).map(hash_row, num_cpus=1)
    return sorted((Source(**row) for row in hashed.take_all()), key=lambda source: source.uri)


def _collect(dataset: Dataset, column: str, bar: Any) -> list[str]:
    """One column of all rows, in whatever order they come."""
    values = []
    for row in dataset.iter_rows():
        values.append(row[column])
        bar.update(1)
    return values


def _prepare(output: Path) -> Path:
    """A fresh staging folder below the output."""
    if (output / "manifest.json").exists():
        raise DatasetError(f"output = {output}: already holds a dataset; give another folder or remove it")
    leftover = [p.name for p in output.iterdir() if p.name != STAGING] if output.is_dir() else []
    if leftover and not (output / STAGING).is_dir():
        raise DatasetError(f"output = {output}: holds other files ({leftover[0]}); give an empty or new folder")
    folder = output.absolute() / STAGING
    shutil.rmtree(output, ignore_errors=True)  # what is left of a run that did not finish
    folder.mkdir(parents=True)
    return folder


def _quieten() -> None:
    """Ray Data's own bars and notices would bury the lines of this program."""
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
