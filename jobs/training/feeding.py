"""A worker's share of every global batch, read straight from the shards while the step before is computed.

Not through Ray Data's iterator: which rows form global batch n, and every random number in it, are functions of
(seed, n) alone. A streaming iterator deals rows by whichever block is ready first, splits them by the number of
workers, and after a crash could only be brought to row n by reading all before it.
"""

import itertools
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
import torch

from flexip.rows import DATASETS, DatasetName
from flexip.training import Batch, BatchRow, Drops, batch_rows, build_batch, draw_gamma
from jobs.training.assignment import Assignment, Place
from jobs.training.config import TrainConfig
from jobs.training.features import FeatureSource

Parts = TypeVar("Parts")


def feed(parts: Callable[[int], Parts], steps: range) -> Generator[Parts]:
    """This rank's parts of the global batch of each step.

    A thread reads one step ahead. Closing the iterator ends it.
    """
    with ThreadPoolExecutor(1, "feed") as thread:
        ahead = [thread.submit(parts, step) for step in steps[:1]]
        for step in steps:
            ready = ahead.pop().result()
            if step + 1 in steps:
                ahead.append(thread.submit(parts, step + 1))
            yield ready


def step_parts(job: Assignment, place: Place, source: FeatureSource, step: int) -> list[Batch]:
    """This rank's slice of one global batch, in `accumulate` parts."""
    config = job.config
    rows = batch_rows(config.seed, step, config.batch_size, job.sizes, config.mixture.model_dump())
    return [_part(job, place, source, rows[part]) for part in slices(config, place)]


def slices(config: TrainConfig, place: Place) -> list[slice]:
    """Which rows of a global batch are in each of this rank's parts."""
    share = config.batch_size // place.world
    size = share // config.accumulate
    return [slice(start, start + size) for start in range(place.rank * share, (place.rank + 1) * share, size)]


def _part(job: Assignment, place: Place, source: FeatureSource, rows: Sequence[BatchRow]) -> Batch:
    config = job.config
    gamma = torch.tensor([draw_gamma(config.gate.bounds(row.dataset), row.seed) for row in rows])
    seeds = np.array([row.seed for row in rows])
    drops = Drops(**config.drops.model_dump())
    detail, min_snr = config.adapter.detail, config.optimizer.min_snr
    columns = features_of(source, rows)
    return build_batch(columns, gamma, drops, job.noising, seeds, place.device, min_snr=min_snr, detail=detail)


def features_of(source: FeatureSource, rows: Sequence[BatchRow]) -> dict[str, np.ndarray]:
    """Feature columns of the given training rows, in their order."""
    positions = {name: [i for i, row in enumerate(rows) if row.dataset == name] for name in DATASETS}
    present: list[DatasetName] = [name for name in DATASETS if positions[name]]
    parts = [source(name, "train", [rows[i].row for i in positions[name]]) for name in present]
    back = np.argsort(list(itertools.chain.from_iterable(positions.values())))
    return {family: np.concatenate([part[family] for part in parts])[back] for family in parts[0]}
