"""What a worker does with a row of each pass: plain classes and functions, which know no Ray.

A row is a dict of plain values and bytes; what each takes and gives is said in its first line.
"""

import dataclasses
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from flexip.images import decode_image, decode_mask
from flexip.rows import SubjectRow
from pipelines import cross, features, ledger, looks, pretrained, sources, stages, staging
from pipelines.records import Crop, Frame, Source, pack, unpack
from pipelines.sandbox import Sandbox
from pipelines.settings import CurationSettings
from pipelines.shards import DatasetError
from pipelines.staging import Shard, SubjectPart
from pipelines.units import by_cluster

if TYPE_CHECKING:
    from flexip.encoders import EncoderNames

Row = dict[str, Any]

LOADING_S = 900  # limit of loading, or fetching, the weights of a detector [s]


@dataclass(frozen=True)
class Run:
    """What all passes of one curation share."""

    settings: CurationSettings
    names: "EncoderNames"
    info: dict[str, Any]  # of the encoders: fingerprints, shapes, resolution, device
    folder: Path  # staging
    output: Path
    gpu: bool


class ReadFrames:
    """sources -> sources judged, frames."""

    def __init__(self, settings: CurationSettings):
        self.settings = settings.frames
        self.read_video = Sandbox(
            "pipelines.video:read_video", settings.frames.timeout_s, memory_mb=settings.frames.memory_mb
        )

    def __call__(self, row: Row) -> Row:
        began = time.perf_counter()
        judged, frames = stages.read_frames(unpack(row["sources"], Source), self.settings, self.read_video)
        return timed(row, "read", began) | {"sources": pack(judged, Source), "frames": pack(frames, Frame)}


class FindSubjects:
    """frames -> subjects (rows of sources, frames and subjects), crops of the accepted ones."""

    def __init__(self, run: Run):
        self.settings, self.gpu = run.settings, run.gpu and pretrained.on_torch(run.settings)
        heavy = bool(pretrained.needed(run.settings))
        # The child holds the weights; one that has none is renewed now and then, against leaks.
        memory_mb = None if heavy else run.settings.subjects.memory_mb  # weights take what they take
        self.search = Sandbox("pipelines.stages:search_clip", LOADING_S, 10_000 if heavy else 100, memory_mb)
        if heavy:
            if pretrained.fingerprints(run.settings) != run.info["tools"]:
                raise DatasetError("the weights of a detector, masker or captioner have changed since this run began")
            self.search("", [], [], self.settings, self.gpu)
        self.search.timeout_s = run.settings.subjects.timeout_s

    def _search(self, *clip: Any) -> Any:
        return self.search(*clip, self.gpu)

    def __call__(self, row: Row) -> Row:
        began = time.perf_counter()
        judged, frames = unpack(row["sources"], Source), unpack(row["frames"], Frame)
        rows, crops = list[SubjectRow](), list[Crop]()
        for cluster, clip in by_cluster(judged):
            found = stages.find_or_quarantine(cluster, clip, frames, self.settings, self._search)
            rows += found[0]
            crops += found[1]
        kept = {"unit": row["unit"], "seconds": row["seconds"]}
        return timed(kept, "search", began) | {"subjects": pack(rows, SubjectRow), "crops": pack(crops, Crop)}


class EmbedCrops:
    """crops -> embeddings (float32 bytes), in the crops' order."""

    def __init__(self, run: Run):
        self.batch_size = run.settings.shards.batch_size
        self.encoders = open_encoders(run)

    def __call__(self, row: Row) -> Row:
        began = time.perf_counter()
        crops = unpack(row["crops"], Crop)
        images, masks = [decode_image(c.image) for c in crops], [decode_mask(c.mask) for c in crops]
        embeddings = features.embed_crops(self.encoders, images, masks, self.batch_size)
        return timed(row, "embed", began) | {"embeddings": embeddings.tobytes(), "width": embeddings.shape[1]}


def stage_pairs(row: Row, run: Run) -> Row:
    """subjects, crops, embeddings -> the unit's rows and pairs on disk, and its record."""
    began, settings = time.perf_counter(), run.settings
    rows, crops = unpack(row["subjects"], SubjectRow), unpack(row["crops"], Crop)
    embeddings = np.frombuffer(row["embeddings"], np.float32).reshape(len(crops), row["width"])
    side = settings.pairs.target_side or run.info["resolution"]
    rows, pairs, count = stages.pair_unit(rows, crops, embeddings, settings, side)
    looks.stage_looks(run.folder, row["unit"], rows, crops, embeddings)
    seconds = json.loads(timed(row, "pairs", began)["seconds"])
    staging.stage_unit(run.folder, row["unit"], rows, pairs, count, seconds)
    return {"unit": row["unit"]}


def stage_cross(row: Row, run: Run) -> Row:
    """links -> pairs across sources on disk, and their record."""
    side = run.settings.pairs.target_side or run.info["resolution"]
    pairs, count = cross.pair_across(json.loads(row["links"]), run.folder, run.settings, side)
    staging.stage_cross(run.folder, row["unit"], pairs, count)
    return {"unit": row["unit"]}


class WriteShard:
    """shard -> its files, described for the manifest."""

    def __init__(self, run: Run):
        self.run = run
        self.encoders = open_encoders(run)

    def __call__(self, row: Row) -> Row:
        shard, run, began = Shard(**json.loads(row["shard"])), self.run, time.perf_counter()
        entries = staging.write_shard(shard, run.folder, run.output, self.encoders, run.settings)
        record = {"files": [dataclasses.asdict(entry) for entry in entries]}
        ledger.finish(run.folder, row["name"], record | {"seconds": time.perf_counter() - began})
        return {"name": row["name"]}


def write_subjects(row: Row, run: Run) -> Row:
    """part -> one file of the subject rows of its units."""
    entry = staging.write_subjects(SubjectPart(**json.loads(row["part"])), run.folder, run.output)
    ledger.finish(run.folder, row["name"], {"files": [dataclasses.asdict(entry)]})
    return {"name": row["name"]}


def hash_sources(row: Row, run: Run) -> Row:
    """Sources -> the same with hash, size and perhaps a status, in the ledger."""
    hashed = [sources.read_hash(source) for source in unpack(row["sources"], Source)]
    ledger.finish(run.folder, row["unit"], {"sources": [dataclasses.asdict(source) for source in hashed]})
    return {"unit": row["unit"]}


def timed(row: Row, stage: str, began: float) -> Row:
    """The row with the time that a stage was busy with it [s]."""
    seconds = json.loads(row["seconds"]) | {stage: round(time.perf_counter() - began, 4)}
    return {**row, "seconds": json.dumps(seconds)}


def open_encoders(run: Run) -> Any:
    """The encoders of this run. Raises DatasetError when their weights have changed since it began."""
    encoders = features.open_encoders(run.names, gpu=run.gpu, threads=run.settings.shards.threads)
    if encoders.fingerprints != run.info["fingerprints"]:
        raise DatasetError(f"models = {run.names}: their weights have changed since this curation began")
    return encoders
