"""One MLflow run for one training: the driver opens and ends it, rank 0 logs into it by its id.

Explicit client calls only. MLflow's fluent API keeps an active run per process, and with Ray's retries every new worker
would open a run of its own that nobody ends.
"""

import logging
import os
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from jobs.config import MLflowConfig
from jobs.console import UserError

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

LARGEST_BATCH = 1000  # metrics in one request, a limit of MLflow's API
LONGEST_PARAM = 500  # characters of a parameter's value


def tracking_uri(config: MLflowConfig, output: Path) -> str:
    """The store's address; by default a SQLite file, absolute because workers run in other directories."""
    return config.tracking_uri or f"sqlite:///{output.resolve() / 'mlflow.db'}"


def open_client(uri: str) -> "MlflowClient":
    """A quiet client of the store, which is created when it is a SQLite file.

    Raises:
        UserError: the address is none that MLflow can open.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # read when mlflow is imported, hence the late imports
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # the job speaks in lines of its own
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)
    if uri.startswith("sqlite:///"):
        Path(uri.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
    try:
        _answering(uri)
        return MlflowClient(tracking_uri=uri)
    except (MlflowException, OSError) as error:
        reason = str(error).split(". ")[0]
        raise UserError(f"mlflow.tracking_uri = {uri}: {reason}; give sqlite:////path/mlflow.db or a URL") from error


def _answering(uri: str) -> None:
    """Raises OSError when no server answers at an http address: MLflow itself would try for minutes."""
    if uri.startswith(("http://", "https://")):
        try:
            urllib.request.urlopen(uri.rstrip("/") + "/health", timeout=10).close()
        except urllib.error.HTTPError:
            return  # it answers, if only to ask who we are; MLflow's client knows how to tell


def create_run(
    client: "MlflowClient",
    config: MLflowConfig,
    output: Path,
    name: str,
    params: Mapping[str, Any],
    tags: dict[str, str],
) -> str:
    """A new RUNNING run with the configuration as parameters and as `config.yaml`; returns its id."""
    from mlflow.entities import Param

    experiment = client.get_experiment_by_name(config.experiment)
    if experiment is not None:
        experiment_id = experiment.experiment_id
    else:  # with a database alone, artifacts would land below whatever directory the job was started in
        artifacts = None if config.tracking_uri else (output.resolve() / "mlflow-artifacts").as_uri()
        experiment_id = client.create_experiment(config.experiment, artifact_location=artifacts)
    run_id = client.create_run(experiment_id, run_name=name, tags={**tags, **_git_commit()}).info.run_id
    client.log_batch(run_id, params=[Param(key, str(value)[:LONGEST_PARAM]) for key, value in flatten(params).items()])
    client.log_text(run_id, yaml.safe_dump(dict(params), sort_keys=False), "config.yaml")
    return run_id


def run_exists(client: "MlflowClient", run_id: str) -> bool:
    """Whether the store still has this run, not deleted."""
    from mlflow.exceptions import MlflowException

    try:
        return client.get_run(run_id).info.lifecycle_stage == "active"
    except MlflowException:
        return False


@contextmanager
def running(client: "MlflowClient", run_id: str) -> Iterator[None]:
    """The run counts as RUNNING inside, also when a former attempt had ended it, and has a truthful end after."""
    client.update_run(run_id, status="RUNNING")
    try:
        yield
    except BaseException as error:
        client.set_terminated(run_id, "FAILED" if isinstance(error, Exception) else "KILLED")
        raise
    client.set_terminated(run_id, "FINISHED")


def log_steps(client: "MlflowClient", run_id: str, metrics: Mapping[str, Sequence[tuple[int, float]]]) -> None:
    """Log (step, value) pairs of several metrics in few requests."""
    from mlflow.entities import Metric

    now = int(time.time() * 1000)
    rows = [Metric(key, value, now, step) for key, pairs in metrics.items() for step, value in pairs]
    for start in range(0, len(rows), LARGEST_BATCH):
        client.log_batch(run_id, metrics=rows[start : start + LARGEST_BATCH])


def history(client: "MlflowClient", run_id: str, key: str) -> list[tuple[int, float]]:
    """(step, value) of one metric in the order of steps."""
    return sorted((metric.step, metric.value) for metric in client.get_metric_history(run_id, key))


@contextmanager
def system_metrics(uri: str, run_id: str, every: float, machine: str) -> Iterator[None]:
    """Logs how busy this machine is while the block runs, as `system/<machine>/...`; GPUs need nvidia-ml-py.

    Args:
        every: time between two looks [s]; 0 logs nothing.
    """
    if not every:
        yield
        return
    open_client(uri)  # which keeps MLflow quiet
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

    interval: Any = every  # fractions are fine, though MLflow declares whole seconds
    monitor = SystemMetricsMonitor(run_id, interval, resume_logging=True, node_id=machine, tracking_uri=uri)
    monitor.start()
    try:
        yield
    finally:
        monitor.finish()


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings with dotted keys, as on the command line."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value}
    return flat


def _git_commit() -> dict[str, str]:
    """MLflow's own tag for the commit; nothing where the code is not a git checkout or git is not there."""
    try:
        asked = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return {}
    return {"mlflow.source.git.commit": asked.stdout.strip()} if asked.returncode == 0 else {}
