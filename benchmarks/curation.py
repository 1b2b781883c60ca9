"""What curation costs at the paper's sizes, by stage: the table of measured costs that `jobs.plan` reckons with.

    python -m benchmarks.curation --videos 'DATA/video/*' --images DATA/images --output jobs/planning/measured.json

Seconds of some films (enlarged first), photographs each by itself, and photographs in a folder for each subject
go through curation's own functions in this process, with one thread, for a minute or two. CPU time is measured, so that
a busy machine does little harm. The networks are not run but counted: in their place stands noise of their shapes, so
that what is measured is all the work around them.
"""

import dataclasses
import itertools
import json
import os
import platform
import re
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import av
import cv2
import numpy as np
import pyarrow.parquet as pq
import torch
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from open_clip.transform import image_transform
from pydantic import Field

from benchmarks import sd15
from benchmarks.card import versions
from benchmarks.counted import counted
from flexip.encoders import Encoders, load_encoders
from flexip.images import decode_image, decode_mask
from flexip.rows import SubjectRow
from jobs.config import JobConfig, load
from jobs.console import command_line, say
from jobs.curate import CurateConfig
from jobs.planning.costs import Cost, read_table
from jobs.training.features import families
from pipelines import features, ledger, looks, sources, stages, staging
from pipelines.listing import list_sources
from pipelines.records import Crop, Source
from pipelines.settings import CurationSettings, InputSettings, ShardSettings
from pipelines.shards import GroupCache, feature_table, write_table
from pipelines.staging import StagedUnit
from pipelines.units import Unit, by_cluster, plan_units
from pipelines.video import read_video

READS = 32  # rows that are read as training does
CORE = "core-s"


class CurationConfig(JobConfig):
    """Measure what the stages of curation cost at the paper's sizes."""

    videos: str = Field(description="films: a folder or a glob; what cannot be decoded is left out")
    images: str = Field(description="photographs: a folder with a folder for each subject")
    curation: Path = Field(default=Path("configs/sd15/curate.yaml"), description="configuration of jobs.curate")
    height: int = Field(default=1080, ge=64, description="that films are enlarged to before anything is measured [px]")
    films: int = Field(default=3, ge=1, description="most films")
    seconds: float = Field(default=4.0, gt=0, description="that are taken out of the middle of each film [s]")
    subjects: int = Field(default=3, ge=1, description="most subjects, with all their photographs")
    parts: list[Literal["inputs", "rows", "counts"]] = Field(
        default=["inputs", "rows", "counts"],
        min_length=1,
        description="what is measured anew: curation's stages, the reading of rows, the counts; the rest stays",
    )
    output: Path = Field(description="JSON table to write, for jobs.plan --costs")


@dataclass
class Tally:
    """Of one kind of input: CPU seconds by stage, and how many of everything there were."""

    seconds: Any = field(default_factory=Counter)  # of floats, which the type of Counter does not know
    counts: Counter[str] = field(default_factory=Counter)

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        began = time.process_time()
        yield
        self.seconds[stage] += time.process_time() - began


def without_networks(pocket: Encoders) -> Encoders:
    """Encoders with the paper's preprocessing, whose networks answer with noise at once."""
    chance = torch.Generator().manual_seed(0)
    made = {name: torch.randn(16, *shape, generator=chance) for name, shape in sd15.SHAPES.items()}
    patches = torch.cat([made["dino"][:, :1], made["dino"]], dim=1)

    def vae(pixels: torch.Tensor) -> SimpleNamespace:
        return SimpleNamespace(latent_dist=SimpleNamespace(parameters=made["vae"][: len(pixels)]))

    return dataclasses.replace(
        pocket,
        clip=SimpleNamespace(encode_image=lambda pixels: made["clip"][: len(pixels)]),
        clip_preprocess=image_transform(sd15.LOOK, False, OPENAI_DATASET_MEAN, OPENAI_DATASET_STD),
        dino=lambda pixel_values: SimpleNamespace(last_hidden_state=patches[: len(pixel_values)]),
        dino_processor=sd15.dino_processor(),
        tokenizer=sd15.tokenizer(),
        text_encoder=lambda ids: SimpleNamespace(last_hidden_state=made["text"][: len(ids)]),
        vae=SimpleNamespace(encode=vae),
        resolution=sd15.RESOLUTION,
    )


@dataclass(frozen=True)
class Bench:
    """What the stages of one kind of input share."""

    settings: CurationSettings
    pocket: Encoders  # whose embeddings decide which pairs are made
    silent: Encoders
    staging: Path
    dataset: Path
    tally: Tally

    def stage(self, unit: Unit) -> StagedUnit:
        """One clip, through the four steps of the pass over clips."""
        tally, settings = self.tally, self.settings
        with tally.timed("read"):
            judged, frames = stages.read_frames(unit.sources, settings.frames, read_video)
        rows, crops = list[SubjectRow](), list[Crop]()
        with tally.timed("search"):
            for cluster, clip in by_cluster(judged):
                found = stages.search_clip(cluster, clip, frames, settings)
                rows += found[0]
                crops += found[1]
        with tally.timed("embed"):
            images, masks = [decode_image(c.image) for c in crops], [decode_mask(c.mask) for c in crops]
            if crops:  # of none it asks the networks for their shapes
                features.embed_crops(self.silent, images, masks, settings.shards.batch_size)
        vectors = features.embed_crops(self.pocket, images, masks, settings.shards.batch_size)
        with tally.timed("pairs"):
            rows, pairs, ended = stages.pair_unit(rows, crops, vectors, settings, sd15.RESOLUTION)
            looks.stage_looks(self.staging, unit.key, rows, crops, vectors)
            staging.stage_unit(self.staging, unit.key, rows, pairs, ended, {})
        self._count(judged, rows, crops)
        return StagedUnit.from_record(ledger.finished(self.staging, unit.key) or {})

    def _count(self, judged: Sequence[Source], rows: Sequence[SubjectRow], crops: Sequence[Crop]) -> None:
        good = [source for source in judged if source.status == "accepted"]
        counts = self.tally.counts
        counts["sources"] += len(good)
        counts["clips"] += bool(good)
        counts["crops"] += len(crops)
        counts["frames"] += sum(row.unit == "frame" for row in rows)
        for source in good:
            number, pixels = size_of(source)
            counts["raw bytes"] += source.bytes
            counts["raw pixels"] += number * pixels
            counts["decoded"] += number
            counts["pixels"] += number * pixels

    def write(self, staged: Sequence[StagedUnit]) -> None:
        """Plans the shards, and writes the dataset."""
        settings, tally = self.settings, self.tally
        with tally.timed("plan"):
            duplicates = looks.near_duplicates(self.staging, [unit.unit for unit in staged], settings.duplicates)
            kept = staging.without_duplicates(self.staging, staged, duplicates)
            plan, _ = staging.plan_shards(self.staging, kept, settings, {})
            parts = staging.plan_subjects(kept, settings.shards.rows_per_file, duplicates, [])
        files = []
        for shard in plan:
            with tally.timed("features"):
                files += staging.write_shard(shard, self.staging, self.dataset, self.silent, settings)
            tally.counts[shard.dataset] += len(shard.splits)
        for part in parts:
            with tally.timed("rows"):
                files.append(staging.write_subjects(part, self.staging, self.dataset))
        for entry in files:
            folder = entry.path.split("/")[-2]
            kind = folder if folder in ("pairs", "subjects") else "features"
            tally.counts[f"{kind} bytes"] += entry.bytes


def read_rows(folder: Path) -> dict[str, tuple[float, str]]:
    """Reading a row of a training out of full files, none of it being in memory, as of a far larger dataset."""
    chance, cache, seconds, read = np.random.default_rng(0), GroupCache(1), 0.0, 0.0
    rows = ShardSettings().rows_per_file
    for family in families("dino"):
        values = chance.standard_normal((rows, *sd15.SHAPES[family]), np.float32).astype(np.float16)
        write_table(folder, family, feature_table([str(row) for row in range(rows)], family, values))
        began = time.process_time()
        for row in chance.integers(rows, size=READS):
            cache.row(folder / family, int(row), family)
            cache.row(folder / family, int(row), "pair_id")  # another group, so that none is kept
        seconds += time.process_time() - began
        with pq.ParquetFile(folder / family) as file:
            group = file.metadata.row_group(0)
            read += sum(group.column(i).total_compressed_size for i in range(group.num_columns))
    return {"train.read": (seconds / READS, f"{CORE}/row"), "train.bytes": (read, "byte read/row")}


def size_of(source: Source) -> tuple[int, int]:
    """Frames and pixels of each; of a still one."""
    if source.kind != "video":
        height, width = decode_image(Path(source.path).read_bytes()).shape[:2]
        return 1, height * width
    with av.open(source.path) as file:
        stream = file.streams.video[0]
        return sum(1 for _ in file.decode(stream)), stream.width * stream.height


def enlarged(source: str, config: CurationConfig, target: Path) -> None:
    """The film's middle in H.264 at the height that is asked for; nothing when it cannot be decoded so far."""
    try:
        with av.open(source) as film, av.open(str(target), "w") as file:
            first = film.streams.video[0]
            width = round(first.width * config.height / first.height / 2) * 2
            stream: Any = file.add_stream("libx264", rate=first.average_rate, options={"preset": "veryfast"})
            stream.width, stream.height, stream.pix_fmt = width, config.height, "yuv420p"
            rate, length = float(first.average_rate or 25), (film.duration or 0) / av.time_base
            start = int(rate * max(0.0, length - config.seconds) / 2)
            for frame in itertools.islice(film.decode(first), start, start + round(rate * config.seconds)):
                file.mux(stream.encode(frame.reformat(width, config.height, "yuv420p")))
            file.mux(stream.encode())
    except (av.FFmpegError, IndexError, TypeError):
        target.unlink(missing_ok=True)


def films_of(config: CurationConfig) -> list[Source]:
    """The largest: short ones are tests of decoders rather than films."""
    listed = list_sources(InputSettings(path=config.videos))
    listed = [dataclasses.replace(source, bytes=os.path.getsize(source.path)) for source in listed]
    return sorted(listed, key=lambda source: source.bytes, reverse=True)[: config.films]


def taken(config: CurationConfig, folder: Path) -> dict[str, InputSettings]:
    """The films and photographs that are measured, below `folder`, as each kind of input."""
    films, photographs = folder / "films", folder / "photographs"
    films.mkdir()
    for source in films_of(config):
        enlarged(source.path, config, films / f"{Path(source.path).stem}.mp4")
    subjects = {Path(source.path).parent for source in list_sources(InputSettings(path=config.images))}
    for subject in sorted(subjects)[: config.subjects]:
        shutil.copytree(subject, photographs / subject.name)
    return {
        "image": InputSettings(path=str(photographs)),
        "set": InputSettings(path=str(photographs), group_by_folder=True),
        "clip": InputSettings(path=str(films)),
    }


def tally_of(name: str, given: InputSettings, settings: CurationSettings, pocket: Encoders, folder: Path) -> Tally:
    """One kind of input, through all of curation, into a dataset of its own below `folder`."""
    settings = settings.model_copy(update={"input": given})
    silent = without_networks(pocket)
    bench = Bench(settings, pocket, silent, folder / name / "staging", folder / name / "dataset", Tally())
    listed = list_sources(given)
    with bench.tally.timed("hash"):
        hashed = [sources.read_hash(source) for source in listed]
    bench.tally.counts["hashed"] = sum(source.bytes for source in hashed)
    units = plan_units(sources.group_clips(sources.reject_duplicates(hashed)))
    bench.write([bench.stage(unit) for unit in units])
    say("measured", f"{name}: {bench.tally.counts['clips']} clips, {sum(bench.tally.seconds.values()):.1f} s")
    return bench.tally


def measured(config: CurationConfig, folder: Path) -> dict[str, Tally]:
    """Of every kind of input."""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    plain = load(CurateConfig, ["--config", str(config.curation)]).settings()
    settings = plain.model_copy(update={"captions": plain.captions.model_copy(update={"model": ""})})
    pocket = load_encoders()
    kinds = taken(config, folder)
    tallies = {name: tally_of(name, given, settings, pocket, folder) for name, given in kinds.items()}
    films = [(source.bytes, *size_of(source)) for source in films_of(config)]  # as they were before they were enlarged
    tallies["clip"].counts["raw bytes"] = sum(size for size, _, _ in films)
    tallies["clip"].counts["raw pixels"] = sum(number * pixels for _, number, pixels in films)
    return tallies


def costs_of(name: str, tally: Tally) -> dict[str, tuple[float, str]]:
    """Value and unit of each cost that is told for one kind of input."""
    seconds, counts = tally.seconds, tally.counts
    clips, each = counts["clips"], {"image": "image", "clip": "clip", "set": "set"}[name]
    return {
        f"read.{name}": (seconds["read"] / counts["pixels"] * 1e6, f"{CORE}/Mpx decoded"),
        f"search.{name}": (seconds["search"] / counts["frames"], f"{CORE}/frame kept"),
        f"pairs.{name}": (seconds["pairs"] / clips, f"{CORE}/{each}"),
        f"frames.{name}": (counts["frames"] / counts["sources"], "frames kept/source"),
        f"crops.{name}": (counts["crops"] / counts["frames"], "crops/frame kept"),
        f"invariant.{name}": (counts["invariant"] / clips, f"pairs/{each}"),
        f"variant.{name}": (counts["variant"] / clips, f"pairs/{each}"),
        f"raw.{name}": (counts["raw bytes"] / counts["raw pixels"], "byte/px decoded"),
        f"subjects.{name}": (counts["subjects bytes"] / counts["frames"], "byte/frame kept"),
    }


def costs_of_all(tallies: Sequence[Tally]) -> dict[str, tuple[float, str]]:
    """What does not depend on the kind of input."""
    seconds, counts = Counter[str](), Counter[str]()
    for tally in tallies:
        seconds.update(tally.seconds)
        counts.update(tally.counts)
    pairs = counts["invariant"] + counts["variant"]
    return {
        "hash": (seconds["hash"] / counts["hashed"] * 1e9, f"{CORE}/GB"),
        "embed": (seconds["embed"] / counts["crops"], f"{CORE}/crop"),
        "plan": (seconds["plan"] / counts["clips"], f"{CORE}/clip"),
        "features": (seconds["features"] / pairs, f"{CORE}/pair"),
        "rows": (seconds["rows"] / counts["frames"], f"{CORE}/frame kept"),
        "pair.bytes": (counts["pairs bytes"] / pairs, "byte/pair"),
        "features.bytes": (counts["features bytes"] / pairs, "byte/pair"),
    }


def machine() -> str:
    """The processor, as Linux calls it."""
    info = Path("/proc/cpuinfo")
    found = re.search(r"^model name\s*:\s*(.+)$", info.read_text(), re.M) if info.exists() else None
    return f"one core of {found[1] if found else platform.processor() or platform.machine()}"


def described(tallies: dict[str, Tally], config: CurationConfig) -> str:
    """What was measured, in words."""
    counts = {name: tally.counts for name, tally in tallies.items()}
    return (
        f"{counts['clip']['clips']} films of {counts['clip']['decoded']} frames, enlarged to {config.height} px, "
        f"{counts['image']['clips']} photographs, {counts['set']['clips']} sets"
    )


def table(config: CurationConfig, command: str) -> dict[str, Cost]:
    """The costs of the parts that are asked for."""
    where, costs = machine(), dict[str, Cost]()
    with tempfile.TemporaryDirectory() as folder:
        if "inputs" in config.parts:
            tallies = measured(config, Path(folder))
            values = costs_of_all(list(tallies.values()))
            for name, tally in tallies.items():
                values |= costs_of(name, tally)
            costs |= _told(values, where, command, described(tallies, config))
        if "rows" in config.parts:
            costs |= _told(read_rows(Path(folder)), where, command, "noise of the features' shapes")
    if "counts" in config.parts:
        costs |= _told(counted(), "counted, on no machine", command, f"the paper's models, {versions()}")
    return costs


def _told(values: Mapping[str, tuple[float, str]], where: str, command: str, note: str) -> dict[str, Cost]:
    """Entries of the table; a kind that gives no pairs of one sort has no such cost."""
    return {
        name: Cost(value=float(f"{value:.4g}"), unit=unit, machine=where, command=command, note=note)
        for name, (value, unit) in values.items()
        if value
    }


@command_line
def main(argv: list[str] | None = None) -> None:
    """Command line entry; see the top of the file."""
    words = sys.argv[1:] if argv is None else argv
    config = load(CurationConfig, words, "python -m benchmarks.curation")
    costs = table(config, "python -m benchmarks.curation --videos ... --images ...")
    whole = set(config.parts) == {"inputs", "rows", "counts"}
    kept = {} if whole else read_table(config.output)
    content = {name: cost.model_dump(exclude_none=True) for name, cost in sorted((kept | costs).items())}
    config.output.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    say("curation", f"{len(costs)} costs in {config.output}")


if __name__ == "__main__":
    main()
