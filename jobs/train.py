"""Train the adapters on a curated dataset with Ray Train; MLflow keeps the record.

    python -m jobs.train --config configs/pocket/train.yaml --steps 200

<output>/checkpoint      the final checkpoint, ready for jobs.generate, jobs.evaluate and jobs.serve
<output>/runs/<name>     checkpoints for resume and the state of the run; a second start under one name continues it
<output>/mlflow.db       the MLflow store, unless mlflow.tracking_uri names another
"""

import json
import shutil
import signal
import statistics
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray.train
from ray.train.torch import TorchTrainer

from flexip.checkpoint import read_config
from flexip.encoders import EncoderNames, Encoders, load_encoders, load_scheduler_config
from flexip.rows import DATASETS
from flexip.training import batch_rows, load_noising
from jobs.cluster import gpu_wanted, ray_session
from jobs.config import load
from jobs.console import UserError, command_line, progress, say, user_mistake
from jobs.tracking import create_run, history, open_client, run_exists, running, tracking_uri
from jobs.training.assignment import Assignment
from jobs.training.config import TrainConfig
from jobs.training.feeding import families
from jobs.training.record import RunRecord, open_record
from jobs.training.worker import train_worker
from pipelines.shards import PairDataset, open_dataset

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
    """
    config = config.model_copy(update={"dataset": config.dataset.resolve(), "output": config.output.resolve()})
    dataset = open_dataset(config.dataset)
    record = open_record(config)
    uri = tracking_uri(config.mlflow, config.output)
    client = open_client(uri)
    if record.checkpoint:
        say("train", f"run {config.name} is complete already; give another --name to train anew")
    else:
        encoders = _load_encoders(config, dataset)
        _check_start(config, encoders)
        record = _with_mlflow_run(record, config, client)
        with running(client, record.run_id):
            newest = _fit(config, _assignment(config, dataset, encoders, record, uri))
        record = record.save(checkpoint=newest.name)
    checkpoint = _publish(record.folder / record.checkpoint, config.output / "checkpoint")
    losses = [value for _, value in history(client, record.run_id, "loss")]
    speeds = [value for _, value in history(client, record.run_id, "samples_per_second")]
    result = TrainResult(checkpoint, record.run_id, uri, losses, statistics.median(speeds))
    say("train", _summary(result))
    return result


def _load_encoders(config: TrainConfig, dataset: PairDataset) -> Encoders:
    """The frozen encoders, refused unless the dataset's features come from them."""
    names = config.models.model_dump()
    try:
        encoders = load_encoders(EncoderNames(**names))
    except OSError as error:
        raise UserError(f"models: {names}: cannot be loaded ({str(error).splitlines()[0]})") from error
    theirs = dataset.manifest.fingerprints
    option = {"clip": "clip", "dino": "dino", "hidden": "clip", "text": "base", "vae": "base"}
    needed = families(config.adapter.detail)
    if missing := [family for family in needed if family not in theirs]:
        raise UserError(
            f"dataset {dataset.root}: has no {missing[0]} features, which adapter.method = {config.adapter.method} "
            f"needs; curate with --shards.{missing[0]} true"
        )
    problems = [
        f"dataset {dataset.root}: its {family} features come from encoder {theirs.get(family)}, "
        f"models.{option[family]} = {names[option[family]]} is {encoders.fingerprints[family]}; "
        "curate again, or name the model it was curated with"
        for family in needed
        if theirs.get(family) != encoders.fingerprints[family]
    ]
    if problems:
        raise UserError("\n".join(problems))
    return encoders


def _check_start(config: TrainConfig, encoders: Encoders) -> None:
    """Refuses to begin with adapters of another shape, or of other encoders, before any worker starts."""
    if config.start is None:
        return
    stored = read_config(config.start)
    wanted = config.adapter.model_dump()
    odd = {key: value for key, value in wanted.items() if stored["architecture"].get(key) != value}
    if odd:
        theirs = ", ".join(f"adapter.{key} = {stored['architecture'].get(key)}" for key in odd)
        raise UserError(f"start = {config.start}: has {theirs}; this run has {', '.join(map(str, odd.values()))}")
    for family in families(config.adapter.detail):
        if stored["fingerprints"].get(family) != encoders.fingerprints[family]:
            raise UserError(
                f"start = {config.start}: trained on another {family} encoder than the one of models, "
                f"{encoders.fingerprints[family]}"
            )


def _with_mlflow_run(record: RunRecord, config: TrainConfig, client: "MlflowClient") -> RunRecord:
    """The record with the MLflow run of an earlier start, or a new one where there is none (any more)."""
    if record.run_id and run_exists(client, record.run_id):
        return record
    tags = {"dataset.path": str(config.dataset), "dataset.manifest_sha256": record.identity["dataset manifest"]}
    params = config.model_dump(mode="json")
    return record.save(run_id=create_run(client, config.mlflow, config.output, config.name, params, tags))


def _assignment(
    config: TrainConfig, dataset: PairDataset, encoders: Encoders, record: RunRecord, uri: str
) -> Assignment:
    sizes = {name: dataset.size(name, "train") for name in DATASETS}
    try:
        batch_rows(config.seed, 0, 1, sizes, config.mixture.model_dump())
    except ValueError as error:
        raise UserError(f"dataset {config.dataset}: {error}; curate more, or change the mixture") from error
    pairs = ", ".join(f"{size} {name}" for name, size in sizes.items())
    say("train", f"{config.steps} steps of {config.batch_size} rows, {config.workers} workers, pairs: {pairs}")
    return Assignment(
        config=config,
        names=encoders.names,
        sizes=sizes,
        shapes=encoders.shapes,
        fingerprints=encoders.fingerprints,
        noising=load_noising(encoders, load_scheduler_config(encoders.names.base)),
        tracking_uri=uri,
        run_id=record.run_id,
        folder=record.folder,
    )


def _fit(config: TrainConfig, job: Assignment) -> Path:
    """Run the workers to the end; returns the newest checkpoint's directory in the run's folder."""
    # Logical CPUs of a private Ray only count tasks, so the workers asked for always find a place.
    cluster = config.ray.model_copy(update={"num_cpus": max(config.ray.num_cpus, config.workers + 1)})
    with ray_session(cluster), _progress_bar(job.folder / "progress.json", config.steps), _sigint_kept():
        trainer = TorchTrainer(
            train_worker,
            train_loop_config={"assignment": job},
            scaling_config=ray.train.ScalingConfig(num_workers=config.workers, use_gpu=gpu_wanted(config.ray)),
            run_config=ray.train.RunConfig(
                name=config.name,
                storage_path=str(config.output / "runs"),
                failure_config=ray.train.FailureConfig(max_failures=config.max_failures),
                checkpoint_config=ray.train.CheckpointConfig(num_to_keep=config.checkpoints_kept),
                logging_config=ray.train.LoggingConfig(log_level="ERROR"),
            ),
        )
        try:
            result = trainer.fit()
        except ray.train.TrainingFailedError as error:
            raise _explained(error, config) from error
    assert result.checkpoint is not None  # the last step is always reported with one
    return Path(result.checkpoint.path)


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


def _publish(source: Path, target: Path) -> Path:
    """Copy a checkpoint to where the other jobs look for it; a reader finds the old one or the new one."""
    draft = target.with_name(target.name + ".new")
    shutil.rmtree(draft, ignore_errors=True)
    shutil.copytree(source, draft)
    shutil.rmtree(target, ignore_errors=True)
    return draft.rename(target)


@contextmanager
def _progress_bar(file: Path, total: int) -> Iterator[None]:
    """A bar fed from the file that rank 0 writes: workers on other machines have no terminal."""
    file.unlink(missing_ok=True)
    done = threading.Event()
    with progress(total, "train", "step") as bar:
        watcher = threading.Thread(target=_watch, args=(file, bar, done), daemon=True)
        watcher.start()
        try:
            yield
        finally:
            done.set()
            watcher.join()


def _watch(file: Path, bar: Any, done: threading.Event) -> None:
    finished = False
    while not finished:
        finished = done.wait(0.5)  # and look once more after the end
        if file.is_file():
            seen = json.loads(file.read_text())
            bar.set_postfix_str(f"loss {seen['loss']:.4f}, {seen['samples_per_second']:.1f} samples/s", refresh=False)
            bar.update(seen["step"] - bar.n)


@contextmanager
def _sigint_kept() -> Iterator[None]:
    """Ray Train puts its own Ctrl-C handler in place and leaves it there after the training; put ours back."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    ours = signal.getsignal(signal.SIGINT)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, ours)


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
    run(load(TrainConfig, argv, "python -m jobs.train"))


if __name__ == "__main__":
    main()
