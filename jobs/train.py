"""Train the adapters, or a stage of DynamicID, on a curated dataset with Ray Train; MLflow keeps the record.

    python -m jobs.train --config configs/pocket/train.yaml --steps 200
    python -m jobs.train --config configs/pocket/people.yaml                      anchoring; then the second stage:
    python -m jobs.train --config configs/pocket/people.yaml --stage reconfiguration --start A/checkpoint --output B

<output>/checkpoint      the final checkpoint, ready for jobs.generate, jobs.evaluate and jobs.serve
<output>/runs/<name>     checkpoints for resume and the state of the run; a second start under one name continues it
<output>/mlflow.db       the MLflow store, unless mlflow.tracking_uri names another
"""

import shutil
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.cluster import ray_session
from jobs.config import load
from jobs.console import Interrupted, command_line, progress, say
from jobs.tracking import history, open_client, running, tracking_uri
from jobs.training import store
from jobs.training.assignment import Assignment
from jobs.training.config import TrainConfig
from jobs.training.estimate import describe
from jobs.training.features import open_data
from jobs.training.launch import ProgressFile, launch
from jobs.training.models import log_findings
from jobs.training.record import open_record
from jobs.training.setup import assignment, check_start, feature_shapes, load_matching_encoders, with_mlflow_run
from jobs.training.stopping import stopped_by_signals
from jobs.training.validation import Validator, kept
from pipelines.shards import open_dataset

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient


@dataclass(frozen=True)
class TrainResult:
    checkpoint: Path
    run_id: str  # of MLflow
    tracking_uri: str
    losses: list[float]  # of the global batch, one a step
    samples_per_second: float  # median over the logged stretches


def run(config: TrainConfig) -> TrainResult:
    """Train to `config.steps`, continuing what stands under the same name in the same output.

    Raises:
        UserError, DatasetError: the dataset, the models, the cluster or an earlier run do not fit the configuration.
        RuntimeError: training failed more than `max_failures` times.
        Interrupted: a signal ended it early, with a checkpoint.
    """
    config = config.model_copy(update={"dataset": config.dataset.resolve(), "output": config.output.resolve()})
    dataset = open_data(config)
    record = open_record(config)
    uri = tracking_uri(config.mlflow, config.output)
    client = open_client(uri)
    if record.checkpoint:
        say("train", f"run {config.name} is complete already; give another --name to train anew")
    else:
        encoders = load_matching_encoders(config, dataset)
        check_start(config, encoders)
        record = with_mlflow_run(record, config, client)
        with running(client, record.run_id):
            newest = _train(assignment(config, dataset, encoders, record, uri), client)
        record = record.save(checkpoint=newest.name)
    checkpoint = _publish(record.folder / record.checkpoint, config.output / "checkpoint")
    losses = [value for _, value in history(client, record.run_id, "loss")]
    speeds = [value for _, value in history(client, record.run_id, "samples_per_second")]
    result = TrainResult(checkpoint, record.run_id, uri, losses, statistics.median(speeds))
    say("train", _summary(result))
    return result


def _train(job: Assignment, client: "MlflowClient") -> Path:
    """Run the workers to the last step; returns its checkpoint in the run's folder."""
    config = job.config
    _say_where(job)
    # Logical CPUs of a private Ray only count tasks, so the workers and a validation always find a place.
    cluster = config.ray.model_copy(update={"num_cpus": max(config.ray.num_cpus, config.worker_counts[-1] + 2)})
    validator = Validator(job, lambda path, findings: log_findings(client, job, path, findings))
    with ray_session(cluster), stopped_by_signals(job.folder) as request:
        with progress(config.steps, "train", "step") as bar:
            file = ProgressFile(job.folder, bar)

            def look() -> None:
                file.look()
                validator.look()
                _prune(job, validator)

            launch(job, look, request)
        newest = store.newest(job.folder).path
        step = store.step_of(newest) if newest else 0
        if step < config.steps:
            raise Interrupted(
                f"stopped at step {step} of {config.steps}; the same command continues run {config.name} from there",
                request.exit_code,
            )
        validator.finish()
        _prune(job, validator)
    assert newest is not None
    return newest


def _prune(job: Assignment, validator: Validator) -> None:
    """Keep the newest, the best, and what is still to be validated."""
    store.prune(job.folder, job.config.checkpoints_kept, [*kept(job.config, job.folder), *validator.waiting()])


def _say_where(job: Assignment) -> None:
    """A line on what the run goes on from, and one for every checkpoint that cannot be used."""
    newest = store.newest(job.folder)
    for line in newest.passed_over:
        say("train", f"checkpoint {line}; passed over")
    if newest.path:
        say("train", f"run {job.config.name} goes on from step {store.step_of(newest.path)}")
    elif job.config.start == "pocket":
        say("train", "begins with the pocket adapters, trained before: flexip/pocket/MODEL_CARD.md says how")


def _publish(source: Path, target: Path) -> Path:
    """Copy a checkpoint to where the other jobs look for it; a reader finds the old one or the new one."""
    draft = target.with_name(target.name + ".new")
    shutil.rmtree(draft, ignore_errors=True)
    shutil.copytree(source, draft, ignore=shutil.ignore_patterns(store.MARK, store.SCORES))
    shutil.rmtree(target, ignore_errors=True)
    return draft.rename(target)


def _summary(result: TrainResult) -> str:
    stretch = max(1, len(result.losses) // 10)  # single steps are noisy: their timesteps differ
    first, last = statistics.fmean(result.losses[:stretch]), statistics.fmean(result.losses[-stretch:])
    return (
        f"loss {first:.4f} -> {last:.4f} (first and last {stretch} steps), "
        f"{result.samples_per_second:.1f} samples/s, checkpoint {result.checkpoint}"
    )


@command_line
def main(argv: list[str] | None = None) -> None:
    """The command line; see `--help`."""
    config = load(TrainConfig, argv, "python -m jobs.train")
    if config.dry_run:
        dataset = open_dataset(config.dataset)
        for line in describe(config, dataset, feature_shapes(config, dataset)):
            say("train", line)
    else:
        run(config)


if __name__ == "__main__":
    main()
