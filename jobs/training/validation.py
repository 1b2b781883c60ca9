"""Validation beside the training: a Ray task reads each due checkpoint, while the workers go on."""

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import ray
import ray.exceptions
import torch

from flexip.rows import DATASETS, DatasetName
from flexip.training import Batch, Drops, build_batch, draw_gamma
from jobs.console import say
from jobs.training import store
from jobs.training.assignment import Assignment
from jobs.training.config import TrainConfig
from jobs.training.features import FeatureSource, feature_source
from pipelines.shards import open_dataset

ROWS_AT_ONCE = 16
DRAWS = 1  # apart from the training's own seeds, which are drawn from (seed, slot)


@dataclass(frozen=True)
class Findings:
    """What validation found of one checkpoint."""

    metrics: dict[str, float]
    sheet: np.ndarray | None  # (H, W, 3) uint8; None without a sweep


def validation_due(config: TrainConfig, step: int) -> bool:
    """Whether the checkpoint of this step is validated."""
    return bool(config.validate_every) and (step % config.validate_every == 0 or step == config.steps)


def validate(job: Assignment, checkpoint: Path) -> Findings:
    """Load a checkpoint of any method, as inference would; measure its loss on held-out rows and draw a small sweep."""
    from evaluation.baselines import load_baseline
    from evaluation.validation import held_out_loss

    settings, dataset = job.config.validation, open_dataset(job.config.dataset)
    device = (
        "cuda" if settings.gpus and torch.cuda.is_available() else "cpu"
    )  # without a share, GPUs are the training's
    engine = load_baseline(checkpoint, device)
    present: list[DatasetName] = [name for name in DATASETS if dataset.size(name, "val")]
    source = feature_source(job.config, dataset, job.names, device)
    sizes = {name: min(dataset.size(name, "val"), settings.rows) for name in present}
    losses = {name: held_out_loss(engine.model, held_out(job, source, name, sizes[name], device)) for name in present}
    metrics = {f"val_loss_{name}": loss for name, loss in losses.items()}
    metrics["val_loss"] = float(np.mean(list(losses.values())))
    if not settings.subjects:
        return Findings(metrics, None)
    return _with_sweep(job, engine, metrics)


def _with_sweep(job: Assignment, engine: Any, metrics: dict[str, float]) -> Findings:
    from evaluation.sweep import SweepPlan
    from evaluation.validation import sweep_findings
    from jobs.evaluation.questions import subjects_of

    settings = job.config.validation
    plan = SweepPlan(
        subjects_of(job.config.dataset, "val", settings.subjects),
        settings.prompts,
        settings.gammas,
        steps=settings.steps,
        guidance_scale=settings.guidance_scale,
    )
    found = sweep_findings(engine, plan)
    drawn = {"val_identity": found.identity, "val_text": found.text, "val_hypervolume": found.area}
    return Findings(metrics | drawn, found.sheet)


def held_out(job: Assignment, source: FeatureSource, name: DatasetName, count: int, device: str) -> Iterator[Batch]:
    """The first held-out rows of a dataset, each with a gate, a timestep and noise that never change."""
    config = job.config
    for start in range(0, count, ROWS_AT_ONCE):
        rows = list(range(start, min(start + ROWS_AT_ONCE, count)))
        seeds = np.array([_row_seed(config.seed, name, row) for row in rows])
        gamma = torch.tensor([draw_gamma(config.gate.bounds(name), int(seed)) for seed in seeds])
        columns = source(name, "val", rows)
        yield build_batch(columns, gamma, Drops(0, 0, 0), job.noising, seeds, device, detail=config.adapter.detail)


def _row_seed(seed: int, name: DatasetName, row: int) -> int:
    drawn = np.random.SeedSequence([seed, DRAWS, DATASETS.index(name), row]).generate_state(1, np.uint64)
    return int(drawn[0] >> 1)


class Validator:
    """Validates due checkpoints in their order, one at a time; the training never waits for it."""

    def __init__(self, job: Assignment, on_findings: Callable[[Path, Findings], object]):
        """`on_findings` is called in the thread that looks, once a checkpoint."""
        self._job, self._on_findings = job, on_findings
        self._running: tuple[Path, Any] | None = None
        self._failed: set[Path] = set()

    def waiting(self) -> list[Path]:
        """Checkpoints that are still to be validated, the running one too, oldest first; they must not be deleted."""
        due = [path for path in store.stored(self._job.folder) if validation_due(self._job.config, store.step_of(path))]
        return [path for path in reversed(due) if path not in self._failed and not store.scores(path)]

    def look(self) -> None:
        """Take up what has ended, and start the next."""
        if self._running:
            path, task = self._running
            ready, _ = ray.wait([task], timeout=0)
            if not ready:
                return
            self._running = None
            self._collect(path, task)
        if waiting := self.waiting():
            config = self._job.config
            remote = ray.remote(num_cpus=1, num_gpus=config.validation.gpus, max_retries=2)(validate)
            self._running = waiting[0], remote.remote(self._job, waiting[0])

    def finish(self) -> None:
        """Wait until nothing is left to validate."""
        self.look()
        if self._running:
            say("train", f"waiting for the validation of {len(self.waiting())} checkpoints")
        while self._running:
            ray.wait([self._running[1]])
            self.look()

    def _collect(self, path: Path, task: Any) -> None:
        """A validation that fails costs its own numbers, and a line; not the training."""
        try:
            findings: Any = ray.get(task)
        except ray.exceptions.RayError as error:
            reason = str(error).strip().splitlines()[-1]
            say("train", f"validation of {path.name} failed, it has no scores: {reason}")
            self._failed.add(path)
            return
        store.store_scores(path, findings.metrics)
        self._on_findings(path, findings)


def kept(config: TrainConfig, folder: Path) -> Collection[Path]:
    """The best checkpoint so far, by the configured score; empty before any has one."""
    found = store.best(folder, *score_of(config))
    return [found] if found else []


def score_of(config: TrainConfig) -> tuple[str, bool]:
    """What the best checkpoint is the best by, and whether more is better."""
    swept = config.validation.subjects > 0 and config.validation.best == "hypervolume"
    return ("val_hypervolume", True) if swept else ("val_loss", False)
