"""The Ray that a job runs on: the cluster it is told to join, or a quiet private one on this machine."""

import logging
import os
import secrets
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import ray
import ray.exceptions

from jobs.config import RayConfig
from jobs.console import UserError, user_mistake

# Read by Ray at its start or at the import of ray.data: its own bars and notices, which the job's lines replace.
QUIET = {
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_TQDM": "0",
    "RAY_SCHEDULER_EVENTS": "0",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # Ray Data starts every actor in a way that Ray's core then warns about, at level error.
    "RAY_BACKEND_LOG_LEVEL": "fatal",
}
LOUD_LOGGERS = ("ray", "ray.data", "ray.train", "ray.serve")


@contextmanager
def ray_session(config: RayConfig) -> Iterator[None]:
    """Ray is up inside the block. What was started or joined here is left at its end; an outer session is kept.

    Joins `config.address`, else $RAY_ADDRESS (as set by `ray job submit`), else starts a private Ray without
    dashboard on random ports. Raises UserError when the address cannot be joined.
    """
    if ray.is_initialized():
        yield
        return
    _be_quiet()
    address = config.address or os.environ.get("RAY_ADDRESS")
    session = _joined(address) if address else _private(config)
    with session:
        _be_quiet()
        yield


def gpu_wanted(config: RayConfig) -> bool:
    """Whether work goes to GPUs: the setting, else whether the running cluster has one. Needs a session."""
    available = ray.cluster_resources().get("GPU", 0) >= 1
    if config.use_gpu and not available:
        raise UserError("ray.use_gpu = True: this Ray cluster has no GPU; leave it out or set it to false")
    return available if config.use_gpu is None else config.use_gpu


def _be_quiet() -> None:
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    for name in LOUD_LOGGERS:
        logging.getLogger(name).setLevel(logging.ERROR)
    if "ray.data" in sys.modules:  # imported before the variables above were set
        context = sys.modules["ray.data"].DataContext.get_current()
        context.enable_progress_bars = False
        context.print_on_execution_start = False


@contextmanager
def _quiet_start() -> Iterator[None]:
    """Holds back what Ray's C++ core writes to stderr while it starts; shows it when the start fails."""
    sys.stderr.flush()
    terminal = os.dup(2)
    with tempfile.TemporaryFile() as said:
        os.dup2(said.fileno(), 2)
        try:
            yield
        except BaseException:
            said.seek(0)
            os.write(terminal, said.read())
            raise
        finally:
            os.dup2(terminal, 2)
            os.close(terminal)


@contextmanager
def _joined(address: str) -> Iterator[None]:
    try:
        _probe(address)
        with _quiet_start():
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, ValueError, RuntimeError, ray.exceptions.AuthenticationError) as error:
        reason = " ".join(str(error).split())[:200]
        mode = os.environ.get("RAY_AUTH_MODE", "unset")
        raise UserError(
            f"ray.address = {address}: cannot join this Ray cluster ({reason}); start it with `ray start --head`, "
            f"or give every process the same RAY_AUTH_MODE (here: {mode})"
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


def _probe(address: str) -> None:
    """Raises OSError when nobody listens at host:port: Ray itself would try for more than three minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()


@contextmanager
def _private(config: RayConfig) -> Iterator[None]:
    # Ray guards a new cluster with a token. Left to itself it writes the token into the home directory, and from then
    # on every `ray start --head` of this user asks for it while `ray job submit` does not send it. A token that
    # lives in this process and its children alone guards as well and leaves no trace.
    if not {"RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & os.environ.keys():
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    # A short path: Ray puts sockets below it, whose full names may have 107 bytes.
    folder = Path(tempfile.mkdtemp(prefix="flexip-ray-", dir=os.environ.get("RAY_TMPDIR", "/tmp")))
    try:
        with _quiet_start():
            ray.init(
                address="local",
                num_cpus=config.num_cpus,
                object_store_memory=config.object_store_mb * 2**20,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
                _temp_dir=str(folder),
            )
        yield
    except BaseException as error:
        if user_mistake(error) is None and not isinstance(error, KeyboardInterrupt):
            print(f"the logs of the Ray processes are kept in {folder}", file=sys.stderr)
            folder = None
        raise
    finally:
        ray.shutdown()
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
