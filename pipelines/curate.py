"""Curation with Ray Data: the chain of stages, where each runs and what it needs. The only file here that knows Ray.

Two passes, because splits and shards need to know every pair. The first turns each clip (one video, one still, one
multi-view folder) into staged rows; the second turns fixed ranges of the sorted pairs into shards. A row of a Ray
dataset is one clip or one shard, and carries paths and encoded bytes, never raw frames. Nothing that is written
depends on the order in which Ray runs things.
"""

import dataclasses
import json
import shutil
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray
from ray.data import ActorPoolStrategy, DataContext, Dataset

from flexip.encoders import EncoderNames
from flexip.images import decode_image, decode_mask
from flexip.rows import DATASETS, SPLITS, PairRow, Split, SubjectRow
from pipelines import features, report, shards, sources, stages
from pipelines.pairs import assign_splits
from pipelines.records import UNITS, Crop, Frame, Source, StageCount, count_units, from_table, pack, to_table, unpack
from pipelines.sandbox import Sandbox
from pipelines.settings import CurationSettings
from pipelines.shards import DatasetError, FileEntry, Manifest
from pipelines.subjects import detect

STAGING = ".staging"  # below the output; removed when the dataset is complete
Row = dict[str, Any]


class Say(Protocol):
    """Prints one line about a stage."""

    def __call__(self, stage: str, text: str) -> None: ...


class Progress(Protocol):
    """Opens a progress bar: a context manager whose value has `update(n)`."""

    def __call__(self, total: int | None, description: str, unit: str) -> AbstractContextManager[Any]: ...


@dataclass(frozen=True)
class Pools:
    """Actors of the stages that keep state. They take half a CPU each: the rest must always be enough for tasks."""

    readers: int
    encoders: int
    encoder_gpus: float

    @classmethod
    def of_cluster(cls, use_gpu: bool) -> "Pools":
        """One reader for every four logical CPUs, one encoder for every GPU (or a single one without)."""
        have = ray.cluster_resources()
        if have.get("CPU", 0) < 2:
            raise DatasetError(f"ray: {have.get('CPU', 0):g} CPUs; curation needs 2 at least (--ray.num_cpus 2)")
        gpus = int(have.get("GPU", 0)) if use_gpu else 0
        return cls(max(1, int(have["CPU"]) // 4), max(1, gpus), 1.0 if gpus else 0.0)


def curate(
    settings: CurationSettings, names: EncoderNames, output: Path, *, use_gpu: bool, say: Say, progress: Progress
) -> Manifest:
    """Curate `settings.input` into a dataset directory at `output`. Needs a running Ray.

    Raises:
        SourceError: the input is missing or holds no video or image.
        DatasetError: the output already holds something, or no pair at all was accepted (with the counted reasons).
    """
    staging = _prepare(output)
    _quiet()
    pools = Pools.of_cluster(use_gpu)
    found = _hash(sources.list_sources(settings.input))
    clips = sources.group_clips(found)
    say("sources", f"{len(found)} files, {len(clips)} clips to read from {settings.input.path}")
    with progress(len(clips), "clips", "clip") as bar:
        done = _collect(_clip_pass(clips, settings, names, staging, pools), bar)
    counts = _clip_counts(found, clips, done, staging, settings)
    for unit in UNITS:
        say("curate", report.count_line(unit, counts[unit]))
    if not any(row["pairs"] for row in done):
        raise DatasetError(f"input.path = {settings.input.path}: no pair was accepted; {report.reasons(counts)}")
    encoders = json.loads(next(row["encoders"] for row in done if row["encoders"]))
    plan, splits = _plan(done, settings, staging)
    with progress(len(plan), "features", "shard") as bar:
        written = _collect(_shard_pass(plan, settings, names, output, encoders, pools), bar)
    files = [FileEntry(**entry) for row in written for entry in json.loads(row["files"])]
    files += _write_subjects(found, done, staging, output, settings)
    manifest = _manifest(settings, names, encoders, counts, splits, plan)
    _check(manifest, files)
    files.append(report.write_contact_sheet(output, plan_rows=_sheet_rows(output, plan), seed=settings.seed))
    shutil.rmtree(staging)
    return shards.write_manifest(output, manifest, files)


def _clip_pass(
    clips: Sequence[sources.Clip], settings: CurationSettings, names: EncoderNames, staging: Path, pools: Pools
) -> Dataset:
    """Clips to staged rows. One block per clip, so that a slow video holds up nobody."""
    items = [
        {"clip": c.key, "kind": c.kind, "cluster": c.cluster, "sources": pack(c.sources, Source)} for c in clips
    ]
    half = {"num_cpus": 0.5}
    return (
        ray.data.from_items(items, override_num_blocks=min(len(items), 10_000))
        # decoding: one child process per actor, killed at the time limit; bound by CPU
        .map(ReadFrames, fn_constructor_args=[settings], compute=ActorPoolStrategy(size=pools.readers), **half)
        # detection, masks, tracks, filters, captions: one core per task, no state
        .map(FindSubjects, fn_constructor_args=[settings], compute=ActorPoolStrategy(size=pools.readers), num_cpus=0.5)
        # DINO embeddings of the crops: one actor per GPU, or one on the CPU
        .map(
            EmbedCrops,
            fn_constructor_args=[settings, names, pools.encoder_gpus > 0],
            compute=ActorPoolStrategy(size=pools.encoders),
            num_cpus=0.5,
            num_gpus=pools.encoder_gpus,
        )
        # pairs, and everything of the clip onto disk: little work
        .map(StagePairs(settings, staging), num_cpus=1)
    )


def _shard_pass(
    plan: Sequence["Shard"],
    settings: CurationSettings,
    names: EncoderNames,
    output: Path,
    encoders: Row,
    pools: Pools,
) -> Dataset:
    """Shards to files: features in fixed batches, then Parquet."""
    items = [{"shard": json.dumps(dataclasses.asdict(shard))} for shard in plan]
    return ray.data.from_items(items, override_num_blocks=len(items)).map(
        WriteShard,
        fn_constructor_args=[settings, names, output, encoders["fingerprints"], pools.encoder_gpus > 0],
        compute=ActorPoolStrategy(size=pools.encoders),
        num_cpus=0.5,
        num_gpus=pools.encoder_gpus,
    )
