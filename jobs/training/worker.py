"""What each training process does: its share of every global batch, one step after the other.

Batches are read straight from the shards and not through Ray Data's iterator: which rows form global batch n, and every
random number in it, are functions of (seed, n) alone. A streaming iterator deals rows by whichever block is ready
first, splits them by the number of workers, and after a crash could only be brought to row n by reading all before it.
"""

import itertools
import json
import math
import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import ray.train
import ray.train.torch
import torch
from diffusers.optimization import get_scheduler
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from evaluation.baselines import ADAPTERS
from flexip.checkpoint import load_adapters, load_training_state, save_checkpoint
from flexip.encoders import Detail, EncoderNames, load_unet
from flexip.model import FlexIP, adapter_config
from flexip.rows import DATASETS, DatasetName
from flexip.training import (
    Batch,
    BatchRow,
    Drops,
    Noising,
    TrainState,
    batch_rows,
    build_batch,
    draw_gamma,
    new_state,
    train_step,
)
from jobs.console import UserError
from jobs.tracking import history, log_steps, open_client
from jobs.training.config import TrainConfig
from pipelines.shards import PairDataset, open_dataset


@dataclass(frozen=True)
class Assignment:
    """All that a worker is told by the driver, which has checked it."""

    config: TrainConfig
    names: EncoderNames
    sizes: dict[str, int]  # training rows of each dataset
    shapes: dict[str, tuple[int, ...]]  # of one row of each feature family
    fingerprints: dict[str, str]
    noising: Noising
    tracking_uri: str
    run_id: str
    progress_file: Path


def train_worker(settings: dict[str, Assignment]) -> None:
    """The loop of one rank. Starts from the newest checkpoint that Ray Train knows, else from the seed."""
    job = settings["assignment"]
    config, context = job.config, ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    device = str(ray.train.torch.get_device())
    state, wrapped = _prepare(job, device)
    schedule = learning_rate_schedule(config, state)
    dataset = open_dataset(config.dataset)
    log = _Log(job, rank, world, state.step)
    while state.step < config.steps:
        began = time.perf_counter()
        batch = _batch(job, dataset, state.step, rank, world, device)
        log.waited += time.perf_counter() - began
        log.losses.append(train_step(state, batch, config.optimizer.grad_clip, wrapped, config.precision))
        schedule.step()
        save = state.step % config.checkpoint_every == 0 or state.step == config.steps
        if save or state.step % config.log_every == 0:
            log.flush(state.step)
        if save:
            _report(job, state, rank)


def _prepare(job: Assignment, device: str) -> tuple[TrainState, Any]:
    """The state to train, and the model wrapped for all ranks."""
    config = job.config
    unet = load_unet(job.names.base)
    with torch.random.fork_rng(devices=[]):  # the layers draw their first weights from the global generator
        torch.manual_seed(config.seed)
        sizes = config.adapter.model_dump()
        architecture = adapter_config(unet, job.shapes, config.adapter.detail, **sizes)
        model = FlexIP(unet, architecture, ADAPTERS[config.adapter.method])
    if config.compiled:
        unet.compile(dynamic=False)
    wrapped = ray.train.torch.prepare_model(model, parallel_strategy_kwargs={"broadcast_buffers": False})
    settings = config.optimizer
    state = new_state(model, settings.learning_rate, settings.weight_decay, settings.ema)
    newest = ray.train.get_checkpoint()
    if newest is None and config.start:
        begin_with(state, config.start)
    if newest is not None:
        with newest.as_directory() as folder:
            load_training_state(state, folder)
    return state, wrapped


def begin_with(state: TrainState, start: str) -> None:
    """Adapters of another run; the step, the optimiser and the average are new."""
    load_adapters(state.model, start)
    for name, parameter in state.model.trainable().items():
        if state.average:
            state.average[name].copy_(parameter.detach())


def learning_rate_schedule(config: TrainConfig, state: TrainState) -> LambdaLR:
    """The learning rate as a function of the step alone, taken up at the state's step."""
    settings = config.optimizer
    for group in state.optimizer.param_groups:
        group["initial_lr"] = settings.learning_rate
    name = "cosine" if settings.schedule == "cosine" else "constant_with_warmup"
    return get_scheduler(
        name,
        state.optimizer,
        num_warmup_steps=settings.warmup,
        num_training_steps=config.steps,
        last_epoch=state.step - 1,
    )


def _batch(job: Assignment, dataset: PairDataset, step: int, rank: int, world: int, device: str) -> Batch:
    """This rank's slice of the global batch of one step."""
    config = job.config
    rows = batch_rows(config.seed, step, config.batch_size, job.sizes, config.mixture.model_dump())
    share = config.batch_size // world
    rows = rows[rank * share : (rank + 1) * share]
    gamma = torch.tensor([draw_gamma(config.gate.bounds(row.dataset), row.seed) for row in rows])
    seeds = np.array([row.seed for row in rows])
    drops = Drops(**config.drops.model_dump())
    detail, min_snr = config.adapter.detail, config.optimizer.min_snr
    columns = read_features(dataset, rows, families(detail))
    return build_batch(columns, gamma, drops, job.noising, seeds, device, min_snr=min_snr, detail=detail)


def families(detail: Detail) -> tuple[str, ...]:
    """The feature families that training reads."""
    return ("clip", detail, "text", "vae")


def read_features(dataset: PairDataset, rows: Sequence[BatchRow], families: Sequence[str]) -> dict[str, np.ndarray]:
    """Feature columns of the given training rows, in their order."""
    positions = {name: [i for i, row in enumerate(rows) if row.dataset == name] for name in DATASETS}
    present: list[DatasetName] = [name for name in DATASETS if positions[name]]
    parts = [dataset.read(name, "train", [rows[i].row for i in positions[name]], families) for name in present]
    back = np.argsort(list(itertools.chain.from_iterable(positions.values())))
    return {family: np.concatenate([part[family] for part in parts])[back] for family in families}


def _report(job: Assignment, state: TrainState, rank: int) -> None:
    """Hand a checkpoint to Ray Train; every rank has to come here, rank 0 writes."""
    name, metrics = f"step-{state.step:08d}", {"step": state.step}
    if rank:
        ray.train.report(metrics, checkpoint_dir_name=name)
        return
    with tempfile.TemporaryDirectory() as folder:
        training = job.config.model_dump(mode="json")
        save_checkpoint(
            folder, state.model, names=job.names, fingerprints=job.fingerprints, training=training, state=state
        )
        ray.train.report(metrics, checkpoint=ray.train.Checkpoint.from_directory(folder), checkpoint_dir_name=name)


@dataclass
class _Log:
    """Losses stay on the device, one a step, until a flush brings them to the host all at once."""

    job: Assignment
    rank: int
    world: int
    step: int  # of the last flush
    waited: float = 0.0  # [s] for data since then
    losses: list[Tensor] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._began = time.perf_counter()
        self._client = open_client(self.job.tracking_uri) if self.rank == 0 else None
        # A resumed run repeats the steps after its checkpoint and finds the same values: those are logged already.
        logged = history(self._client, self.job.run_id, "loss") if self._client else []
        self._logged = logged[-1][0] if logged else 0

    def flush(self, step: int) -> None:
        """Log every step since the last flush. Raises UserError when training has diverged, on every rank alike."""
        losses = torch.stack(self.losses)
        if self.world > 1:
            torch.distributed.all_reduce(losses)
            losses /= self.world
        values = list(enumerate(losses.tolist(), start=self.step + 1))
        bad = next((pair for pair in values if not math.isfinite(pair[1])), None)
        if bad:
            rate = self.job.config.optimizer.learning_rate
            raise UserError(f"loss is {bad[1]} at step {bad[0]}: lower optimizer.learning_rate = {rate:g}")
        if self._client:
            seconds = time.perf_counter() - self._began
            speed = (step - self.step) * self.job.config.batch_size / seconds
            self._record(step, values, {"samples_per_second": speed, "data_wait_share": self.waited / seconds})
        self.step, self.waited, self.losses, self._began = step, 0.0, [], time.perf_counter()

    def _record(self, step: int, losses: list[tuple[int, float]], rates: dict[str, float]) -> None:
        assert self._client is not None
        metrics = {"loss": losses} | {key: [(step, value)] for key, value in rates.items()}
        fresh = {key: [pair for pair in pairs if pair[0] > self._logged] for key, pairs in metrics.items()}
        log_steps(self._client, self.job.run_id, fresh)
        seen = {"step": step, "loss": losses[-1][1], "samples_per_second": rates["samples_per_second"]}
        draft = self.job.progress_file.with_suffix(".new")
        draft.write_text(json.dumps(seen))
        os.replace(draft, self.job.progress_file)
