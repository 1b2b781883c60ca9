"""Training with real faults: processes are killed with SIGKILL, and the result has to be that of a quiet run."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from marks import MARK, command, marked
from mlflow.entities import Run
from mlflow.tracking import MlflowClient
from safetensors.torch import load_file
from training_data import write_dataset

STEPS = 40
PATIENCE = 2800  # [s] for one training, on a machine that is busy or was stopped for a while


@dataclass
class Training:
    """One `python -m jobs.train` in a process of its own, whose Ray workers carry the same mark."""

    output: Path
    mark: str
    process: subprocess.Popen[str]
    ray_folder: Path

    @property
    def run_folder(self) -> Path:
        return self.output / "runs" / "flexip"

    def wait_for_step(self, step: int) -> None:
        deadline = time.monotonic() + PATIENCE
        while not (self.step() >= step or self.process.poll() is not None):
            assert time.monotonic() < deadline, f"step {step} was not reached in {PATIENCE} s"
            time.sleep(0.02)
        assert self.process.poll() is None, self.process.communicate()[1]

    def step(self) -> int:
        file = self.run_folder / "progress.json"
        return json.loads(file.read_text())["step"] if file.is_file() else 0

    def workers(self) -> list[int]:
        """Process ids of the training workers, busy in Ray's process titles."""
        return [pid for pid in marked(self.mark) if "RayTrainWorker" in command(pid)]

    def finish(self) -> tuple[int, str]:
        _, errors = self.process.communicate(timeout=PATIENCE)
        return self.process.returncode, errors


@pytest.fixture(scope="module")
def dataset(pocket_encoders, tmp_path_factory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("dataset"), pocket_encoders)


@pytest.fixture
def launch(dataset) -> Iterator:
    started: list[Training] = []

    def start(output: Path, *options: str) -> Training:
        ray_folder = Path(tempfile.mkdtemp(prefix="fx-", dir="/tmp"))
        mark = uuid.uuid4().hex
        environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
        environment |= {MARK: mark, "RAY_TMPDIR": str(ray_folder), "OMP_NUM_THREADS": "1"}
        sizes = ["queries=2", "cls_tokens=2", "depth=1", "heads=2", "dim_head=16"]
        arguments = [f"--dataset={dataset}", f"--output={output}", *(f"--adapter.{size}" for size in sizes)]
        arguments += [f"--steps={STEPS}", "--batch_size=4", "--log_every=1", "--checkpoint_every=10"]
        arguments += [
            "--optimizer.learning_rate=1e-3",
            "--optimizer.schedule=cosine",
            "--optimizer.warmup=3",
            "--ray.object_store_mb=128",
            *options,
        ]
        process = subprocess.Popen(
            [sys.executable, "-m", "jobs.train", *arguments],
            env=environment,
            cwd=Path(__file__).parents[2],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(Training(output, mark, process, ray_folder))
        return started[-1]

    yield start
    for training in started:
        for pid in {*marked(training.mark)}:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        training.process.wait()
        shutil.rmtree(training.ray_folder, ignore_errors=True)


@pytest.fixture(scope="module")
def quiet_output(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("quiet")


@pytest.fixture
def quiet(launch, quiet_output) -> Path:
    """Output of the undisturbed training, made once."""
    if not (quiet_output / "checkpoint").is_dir():
        code, errors = launch(quiet_output).finish()
        assert code == 0, errors
    return quiet_output


def assert_same_result(output: Path, quiet: Path) -> None:
    """Bit for bit the same weights and optimizer, and one finished MLflow run with each step once."""
    for name in ("adapters.safetensors", "training_state.safetensors"):
        ours, theirs = load_file(output / "checkpoint" / name), load_file(quiet / "checkpoint" / name)
        assert ours.keys() == theirs.keys()
        assert [key for key in ours if not torch.equal(ours[key], theirs[key])] == []
    ours, theirs = losses(output), losses(quiet)
    assert [step for step, _ in ours] == list(range(1, STEPS + 1))
    assert ours == theirs


def losses(output: Path) -> list[tuple[int, float]]:
    client, run = the_run(output)
    assert run.info.status == "FINISHED"
    return [(metric.step, metric.value) for metric in client.get_metric_history(run.info.run_id, "loss")]


def the_run(output: Path) -> tuple[MlflowClient, Run]:
    """The only run of the store, whatever its status."""
    client = MlflowClient(f"sqlite:///{output / 'mlflow.db'}")
    [run] = client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])
    return client, run


def test_a_killed_worker_costs_nothing_but_time(launch, quiet, tmp_path):
    training = launch(tmp_path)
    training.wait_for_step(13)
    workers = training.workers()
    assert len(workers) == 2
    os.kill(workers[-1], signal.SIGKILL)
    code, errors = training.finish()
    assert code == 0, errors
    assert not set(workers) & set(marked(training.mark))
    assert_same_result(tmp_path, quiet)


def test_a_killed_driver_is_continued_by_the_same_command(launch, quiet, tmp_path):
    training = launch(tmp_path)
    training.wait_for_step(13)
    training.process.kill()
    for pid in marked(training.mark):
        os.kill(pid, signal.SIGKILL)
    training.process.wait()
    assert not (tmp_path / "checkpoint").exists()
    code, errors = launch(tmp_path).finish()
    assert code == 0, errors
    assert_same_result(tmp_path, quiet)


def test_too_many_failures_end_in_one_line_and_a_failed_run(launch, tmp_path):
    training = launch(tmp_path, "--max_failures=0")
    training.wait_for_step(3)
    os.kill(training.workers()[0], signal.SIGKILL)
    code, errors = training.finish()
    assert code == 1
    assert "training failed after 0 resumptions; rank " in errors.strip().splitlines()[-1]
    assert the_run(tmp_path)[1].info.status == "FAILED"
    assert not (tmp_path / "checkpoint").exists()


def test_divergence_ends_in_one_line_and_a_failed_run(launch, tmp_path):
    training = launch(tmp_path, "--optimizer.learning_rate=1e30", "--max_failures=0")
    code, errors = training.finish()
    assert code == 2
    last = errors.strip().splitlines()[-1]
    assert last.startswith("error: loss is ")
    assert "lower optimizer.learning_rate = 1e+30" in last
    assert "Traceback" not in errors
    assert the_run(tmp_path)[1].info.status == "FAILED"
