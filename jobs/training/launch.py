"""The workers from start to end, under Ray Train, with a driver that stays awake beside them."""

import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray.train
from ray.train.torch import TorchTrainer

from jobs.cluster import gpu_wanted
from jobs.console import say, user_mistake
from jobs.training.assignment import Assignment
from jobs.training.config import TrainConfig
from jobs.training.stopping import StopRequest
from jobs.training.worker import train_worker

SECONDS_BETWEEN_LOOKS = 0.5
SECONDS_TO_START = 120  # for a worker to import what it needs: Ray's own limit, 60, is too short for a busy machine


def launch(job: Assignment, look: Callable[[], None], request: StopRequest) -> None:
    """Run the workers to the last step or to a requested stop; `look` is called now and then meanwhile, and once after.

    Ray Train runs in a thread of its own: in the main thread it would put its own Ctrl-C handler in place, which throws
    the steps since the last checkpoint away.

    Raises:
        UserError: a worker found a mistake of the user's. RuntimeError: more failures than `max_failures`.
    """
    outcome: list[Exception] = []
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", str(SECONDS_TO_START))

    def fit() -> None:
        try:
            _trainer(job).fit()
        except Exception as error:
            outcome.append(error)

    thread = threading.Thread(target=fit, name="ray-train", daemon=True)  # a second Ctrl-C must not wait for it
    thread.start()
    announced = False
    while thread.is_alive():
        thread.join(SECONDS_BETWEEN_LOOKS)
        look()
        if request.number and not announced:
            say("train", f"{request.name}: ending with a checkpoint at the next log; once more ends at once")
            announced = True
    look()
    if outcome:
        raise _explained(outcome[0], job.config) from outcome[0]


def _trainer(job: Assignment) -> TorchTrainer:
    config = job.config
    elastic = (config.workers, config.max_workers) if config.max_workers else config.workers
    return TorchTrainer(
        train_worker,
        train_loop_config={"assignment": job},
        scaling_config=ray.train.ScalingConfig(num_workers=elastic, use_gpu=gpu_wanted(config.ray)),
        run_config=ray.train.RunConfig(
            name=config.name,
            storage_path=str(job.folder.parent),
            failure_config=ray.train.FailureConfig(max_failures=config.max_failures),
            logging_config=ray.train.LoggingConfig(log_level="ERROR"),
        ),
    )


def _explained(error: Exception, config: TrainConfig) -> Exception:
    """What went wrong in a worker, in one line; the user's own mistake where it was one."""
    failures: dict[int, Exception] = getattr(error, "worker_failures", {})
    for failure in failures.values():
        mistake = user_mistake(failure)
        if mistake is not None:
            return mistake
    causes = [f"rank {rank}: {_last_line(failure)}" for rank, failure in failures.items()] or [_last_line(error)]
    return RuntimeError(f"training failed after {config.max_failures} resumptions; " + "; ".join(causes))


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


class ProgressFile:
    """Moves a bar by the file that rank 0 writes: workers on other machines have no terminal."""

    def __init__(self, folder: Path, bar: Any):
        self._file, self._bar = folder / "progress.json", bar
        self._file.unlink(missing_ok=True)

    def look(self) -> None:
        if self._file.is_file():
            seen = json.loads(self._file.read_text())
            rates = f"loss {seen['loss']:.4f}, {seen['samples_per_second']:.1f} samples/s"
            self._bar.set_postfix_str(rates, refresh=False)
            self._bar.update(seen["step"] - self._bar.n)
