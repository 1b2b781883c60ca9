"""What a training says of itself every `log_every` steps; between two logs nothing waits for the device."""

import json
import math
import os
import resource
import time
from dataclasses import dataclass, field

import torch
from torch import Tensor

from flexip.cost import peak_of
from flexip.reduction import average_over_ranks
from jobs.console import UserError
from jobs.tracking import history, log_steps, open_client
from jobs.training.assignment import Assignment, Place
from jobs.training.stopping import stop_file


@dataclass(frozen=True)
class Asked:
    """What all ranks have agreed on at a log."""

    to_stop: bool = False  # save and end: somebody has written the run's stop file
    to_save: bool = False  # save and go on: the cluster is about to take a machine away


@dataclass
class StepLog:
    """Losses stay on the device, one a step, until a flush brings them to the host all at once."""

    job: Assignment
    place: Place
    step: int  # of the last flush
    waited: float = 0.0  # [s] for data since then
    stalled: float = 0.0  # [s] for checkpoints since then
    losses: list[Tensor] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._began = time.perf_counter()
        given = self.job.config.peak_tflops
        self._peak = given * 1e12 if given else peak_of(self.place.device)
        self._client = open_client(self.job.tracking_uri) if self.place.rank == 0 else None
        # A resumed run repeats the steps after its checkpoint and finds the same values: those are logged already.
        logged = history(self._client, self.job.run_id, "loss") if self._client else []
        self._logged = logged[-1][0] if logged else 0

    def flush(self, step: int) -> Asked:
        """Log every step since the last flush. Raises UserError when training has diverged, on every rank alike."""
        values, asked = self._agreed()
        bad = next((pair for pair in values if not math.isfinite(pair[1])), None)
        if bad:
            rate = self.job.config.optimizer.learning_rate
            raise UserError(f"loss is {bad[1]} at step {bad[0]}: lower optimizer.learning_rate = {rate:g}")
        if self._client:
            seconds = time.perf_counter() - self._began
            self._record(step, values, self._rates(step, seconds))
        self.step, self.losses, self._began = step, [], time.perf_counter()
        self.waited = self.stalled = 0.0
        return asked

    def _rates(self, step: int, seconds: float) -> dict[str, float]:
        """Speeds and shares of the stretch since the last flush; memory and waits are those of rank 0."""
        speed = (step - self.step) * self.job.config.batch_size / seconds
        flops = speed * self.job.flops / self.place.world
        return {
            "samples_per_second": speed,
            "data_wait_share": self.waited / seconds,
            "checkpoint_stall_share": self.stalled / seconds,
            "memory_gib": peak_memory(self.place.device) / 2**30,
            **({"tflops_per_worker": flops / 1e12} if flops else {}),
            **({"mfu": flops / self._peak} if flops and self._peak else {}),
        }

    def _agreed(self) -> tuple[list[tuple[int, float]], Asked]:
        """(step, mean loss) of every step since the last flush, and the requests: one exchange, one wait."""
        stop = self.place.rank == 0 and stop_file(self.job.folder).exists()
        losses = torch.stack(self.losses)
        flags = torch.tensor([stop, self.place.preempted()], dtype=losses.dtype, device=losses.device)
        shared = torch.cat([losses, flags])
        average_over_ranks([shared], ordered=True)
        *means, stopping, preempted = shared.tolist()
        return list(enumerate(means, start=self.step + 1)), Asked(stopping > 0, preempted > 0)

    def _record(self, step: int, losses: list[tuple[int, float]], rates: dict[str, float]) -> None:
        assert self._client is not None
        metrics = {"loss": losses} | {key: [(step, value)] for key, value in rates.items()}
        fresh = {key: [pair for pair in pairs if pair[0] > self._logged] for key, pairs in metrics.items()}
        log_steps(self._client, self.job.run_id, fresh)
        seen = {"step": step, "loss": losses[-1][1], "samples_per_second": rates["samples_per_second"]}
        file = self.job.folder / "progress.json"
        draft = file.with_suffix(".new")
        draft.write_text(json.dumps(seen))
        os.replace(draft, file)


def peak_memory(device: str) -> int:
    """Most bytes that this process has held: on its GPU, or in main memory where it has none."""
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts in KiB
