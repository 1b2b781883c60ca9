"""What a training spends its time on, and what features computed beforehand save: ratios, measured in one run.

    python -m benchmarks.train --config configs/pocket/train.yaml --dataset dataset/

Takes every setting of `jobs.train`. The loops that are compared train the same adapters on the same batches:

    cached      `jobs.train`: features are read while the step before is computed
    online      the same with `--features online`: the encoders run while the step before is computed
    in line     the encoders run in the step: decode, encode, train, one after the other
    IP-Adapter  the shape of its official training script: in line, a Python loop over the samples that drops their
                images, single precision, and a loss that is fetched in every step
"""

import dataclasses
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing
from pydantic import Field

from benchmarks.flops import encoder_flops, flops_of, step_flops
from benchmarks.timing import interleaved, ratio
from flexip.encoders import Encoders
from flexip.training import Batch, TrainState, accumulate_gradients, train_step
from jobs.config import load
from jobs.tracking import open_client, tracking_uri
from jobs.training.assignment import Assignment, Place
from jobs.training.config import TrainConfig
from jobs.training.features import FeatureSource, feature_source
from jobs.training.feeding import feed, step_parts
from jobs.training.record import open_record
from jobs.training.setup import assignment, load_matching_encoders, with_mlflow_run
from jobs.training.store import CheckpointWriter
from jobs.training.worker import gradient_reduction, prepare, save
from pipelines.shards import open_dataset


class BenchmarkConfig(TrainConfig):
    """Measure what a training spends its time on."""

    output: Path = Field(default=Path("."), description="ignored: what is written is deleted at the end")
    workers: int = Field(default=2, ge=1, description="training processes whose speed is compared with that of one")
    rounds: int = Field(default=9, ge=1, description="times that every case is measured, in turn with the others")
    stretch: int = Field(default=4, ge=1, description="steps in one measurement")
    device: str = Field(default="cpu", description="of the measurements with one worker: cpu, or cuda")


@dataclass
class Bench:
    """A training that can be moved on in several ways."""

    config: BenchmarkConfig
    job: Assignment
    place: Place
    state: TrainState
    sources: dict[str, FeatureSource]  # by `features`

    def overlapped(self, features: str) -> None:
        """A stretch as `jobs.train` does it, from the first batch to the last step: nothing is prepared outside."""
        last = self.state.step + self.config.stretch
        job = dataclasses.replace(self.job, config=self.config.model_copy(update={"steps": last}))
        make = partial(step_parts, job, self.place, self.sources[features])
        for parts in feed(make, range(self.state.step, job.config.steps)):
            train_step(self.state, parts, self.config.optimizer.grad_clip, precision=self.config.precision)

    def in_line(self) -> None:
        for _ in range(self.config.stretch):
            parts = step_parts(self.job, self.place, self.sources["online"], self.state.step)
            train_step(self.state, parts, self.config.optimizer.grad_clip, precision=self.config.precision)

    def as_ip_adapter(self) -> None:
        for _ in range(self.config.stretch):
            parts = step_parts(self.job, self.place, self.sources["online"], self.state.step)
            parts = [dropped_one_by_one(part) for part in parts]
            train_step(self.state, parts, self.config.optimizer.grad_clip).item()

    def compute(self, parts: Sequence[Batch]) -> None:
        """Forward and backward alone, of a batch that is there already."""
        for _ in range(self.config.stretch):
            accumulate_gradients(self.state, parts, self.config.precision)


def dropped_one_by_one(batch: Batch) -> Batch:
    """The [CLS] of the batch put together from a list, sample by sample, with zeros where the image is dropped."""
    rows = []
    for cls, keep in zip(batch.cls, batch.keep.tolist(), strict=True):
        rows.append(cls if keep else torch.zeros_like(cls))
    return dataclasses.replace(batch, cls=torch.stack(rows))


def build(config: BenchmarkConfig, encoders: Encoders, output: Path) -> Bench:
    """A run of its own below `output`."""
    config = config.model_copy(update={"output": output, "dataset": config.dataset.resolve(), "workers": 1})
    dataset, uri = open_dataset(config.dataset), tracking_uri(config.mlflow, output)
    record = with_mlflow_run(open_record(config), config, open_client(uri))
    job, place = assignment(config, dataset, encoders, record, uri), Place(0, 1, config.device)
    sources = {
        features: feature_source(config.model_copy(update={"features": features}), dataset, job.names, config.device)
        for features in ("cached", "online")
    }
    return Bench(config, job, place, prepare(job, place), sources)


def measure(bench: Bench, encoders: Encoders) -> list[str]:
    """Lines of the report for one worker."""
    parts = step_parts(bench.job, bench.place, bench.sources["cached"], 0)
    cases: dict[str, Callable[[], object]] = {
        "cached": lambda: bench.overlapped("cached"),
        "online": lambda: bench.overlapped("online"),
        "in line": bench.in_line,
        "IP-Adapter": bench.as_ip_adapter,
        "compute": lambda: bench.compute(parts),
    }
    times = interleaved(cases, bench.config.rounds)
    step = statistics.median(times["cached"]) / bench.config.stretch
    rest = 1 - statistics.median(times["compute"]) / statistics.median(times["cached"])
    extra = sum(flops_of(encoders).values())
    bound = 1 + extra / bench.job.flops
    reached = statistics.median(times["in line"]) / statistics.median(times["cached"])
    return [
        f"step: {1000 * step:.1f} ms, {bench.config.batch_size / step:.1f} samples/s; "
        f"{100 * rest:.1f}% of it neither forward nor backward",
        f"FLOPs of a row: {bench.job.flops / 1e9:.2f} G to train it, {extra / 1e9:.2f} G to encode it",
        f"cached against encoders in the step: {ratio(times['in line'], times['cached'])}; bound by FLOPs {bound:.2f}, "
        f"reached {100 * reached / bound:.0f}%",
        f"cached against online: {ratio(times['online'], times['cached'])}",
        f"cached against IP-Adapter's loop: {ratio(times['IP-Adapter'], times['cached'])}",
        f"  of it encoders: {ratio(times['online'], times['cached'])}, nothing at the same time: "
        f"{ratio(times['in line'], times['online'])}, single precision, a loop over samples and a fetched loss: "
        f"{ratio(times['IP-Adapter'], times['in line'])}",
        *checkpoint_lines(bench, step),
    ]


def checkpoint_lines(bench: Bench, step: float) -> list[str]:
    """How long the training stands still for a checkpoint, while the one before has long been written."""
    writer, stalls = CheckpointWriter(bench.job.folder), []
    for _ in range(bench.config.rounds):
        bench.overlapped("cached")
        stalls.append(save(bench.job, bench.state, writer, wait=False))
        writer.finish()
    stall, every = statistics.median(stalls), bench.config.checkpoint_every
    return [
        f"checkpoint: stalls the training {1000 * stall:.1f} ms, {100 * stall / (every * step):.2f}% of the time with "
        f"one every {every} steps"
    ]


def full_size_lines() -> list[str]:
    """What holds at full size, by FLOPs."""
    lines = []
    for side in (512, 256):
        step, extra = step_flops(side), sum(encoder_flops(side).values())
        lines.append(
            f"full size, {side} px: {step / 1e9:.1f} GFLOP to train a row, {extra / 1e9:.1f} to encode it; cached "
            f"against encoders in the step at most {1 + extra / step:.2f}"
        )
    return lines


def scaling(config: BenchmarkConfig, encoders: Encoders, output: Path) -> list[str]:
    """Samples/s of all workers against one, each with its share of `batch_size`: in turn, in the same processes."""
    world, gpus = config.workers, config.device.startswith("cuda")
    if world == 1 or (gpus and torch.cuda.device_count() < world):
        return [f"scaling: not measured, {'one worker' if world == 1 else f'fewer than {world} GPUs'}"]
    job = build(config, encoders, output).job
    answers = torch.multiprocessing.get_context("spawn").SimpleQueue()
    torch.multiprocessing.spawn(_one_of_all, (world, config, job, str(output / "rendezvous"), answers), nprocs=world)
    alone, together = answers.get()
    gain = world * statistics.median(alone) / statistics.median(together)
    return [
        f"1 -> {world} workers, {config.batch_size // world} rows each: {gain:.2f} times the samples/s, "
        f"the step of all against that of one {ratio(together, alone)}"
    ]


def _one_of_all(rank: int, world: int, config: BenchmarkConfig, job: Assignment, rendezvous: str, answers: Any) -> None:
    """Rank 0 trains alone while the others wait, then all train together; and so on."""
    gpu = config.device.startswith("cuda")
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "nccl" if gpu else "gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=world
    )
    place = Place(rank, world, f"cuda:{rank}" if gpu else "cpu")
    state, reduce = prepare(job, place), gradient_reduction(job.config, place)
    source = feature_source(job.config, open_dataset(job.config.dataset), job.names, place.device)
    parts = step_parts(job, place, source, 0)

    def steps(everybody: bool) -> None:
        if everybody or rank == 0:
            for _ in range(config.stretch):
                train_step(state, parts, reduce=reduce if everybody else None, precision=config.precision)
        torch.distributed.barrier()

    times = interleaved({"alone": lambda: steps(False), "together": lambda: steps(True)}, config.rounds)
    if rank == 0:
        answers.put((times["alone"], times["together"]))
    torch.distributed.destroy_process_group()


def run(config: BenchmarkConfig) -> list[str]:
    """All lines of the report."""
    encoders = load_matching_encoders(config, open_dataset(config.dataset))
    with tempfile.TemporaryDirectory() as folder:
        lines = measure(build(config, encoders, Path(folder) / "one"), encoders)
        lines += scaling(config, encoders, Path(folder) / "all")
    return [*lines, *full_size_lines()]


def main(argv: list[str] | None = None) -> None:
    began = time.perf_counter()
    config = load(BenchmarkConfig, argv, "python -m benchmarks.train")
    where = torch.cuda.get_device_name() if config.device.startswith("cuda") else f"{torch.get_num_threads()} threads"
    print(f"{where}, {config.batch_size} rows a step, medians of {config.rounds} rounds of {config.stretch} steps")
    for line in run(config):
        print(line)
    print(f"measured in {time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
