"""An MLflow server with its PostgreSQL, on loopback, for as long as it is needed."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from ports import free_ports

PATIENCE = 2800  # [s] on a machine that is busy or was stopped for a while


def missing() -> str:
    """What keeps the server from being started here; empty for nothing."""
    if not _programs():
        return "PostgreSQL is not installed (apt-get install postgresql)"
    if os.geteuid() == 0 and subprocess.run(["id", "postgres"], capture_output=True, check=False).returncode:
        return "PostgreSQL refuses to run as root, and there is no user postgres"
    return ""


@contextmanager
def mlflow_server() -> Iterator[str]:
    """The URL of a server with an empty store."""
    folder = Path(tempfile.mkdtemp(prefix="mlflow-", dir="/tmp"))
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        database = stack.enter_context(_postgresql(folder))
        yield stack.enter_context(_server(folder, database))


@contextmanager
def _postgresql(folder: Path) -> Iterator[str]:
    [port] = free_ports(1)
    programs, user = _programs(), "postgres" if os.geteuid() == 0 else None
    assert programs is not None
    if user:
        shutil.chown(folder, user)
    data = ["-D", str(folder / "data")]
    words = ["--username=flexip", "--auth=trust", "--encoding=UTF8", "--no-locale", "--no-sync"]
    subprocess.run([str(programs / "initdb"), *data, *words], user=user, check=True, capture_output=True)
    log = (folder / "postgresql.log").open("wb")
    options = ["-p", str(port), "-k", str(folder), "-c", "listen_addresses=127.0.0.1"]
    process = subprocess.Popen([str(programs / "postgres"), *data, *options], user=user, stdout=log, stderr=log)
    with log, _ended_by(process, signal.SIGINT):  # which closes connections instead of waiting for them
        ready = [str(programs / "pg_isready"), "-h", "127.0.0.1", "-p", str(port)]
        _wait_until(lambda: subprocess.run(ready, capture_output=True, check=False).returncode == 0, process, log.name)
        yield f"postgresql+psycopg2://flexip@127.0.0.1:{port}/postgres"


@contextmanager
def _server(folder: Path, database: str) -> Iterator[str]:
    [port] = free_ports(1)
    url = f"http://127.0.0.1:{port}"
    words = ["--host=127.0.0.1", f"--port={port}", "--workers=1", f"--backend-store-uri={database}"]
    log = (folder / "server.log").open("wb")
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "mlflow",
            "server",
            *words,
            f"--artifacts-destination={(folder / 'artifacts').as_uri()}",
        ],
        env=os.environ | {"MLFLOW_DISABLE_TELEMETRY": "true"},
        cwd=folder,
        stdout=log,
        stderr=log,
    )
    with log, _ended_by(process, signal.SIGTERM):
        _wait_until(lambda: _answers(url), process, log.name)
        yield url


@contextmanager
def _ended_by(process: subprocess.Popen[bytes], number: int) -> Iterator[None]:
    try:
        yield
    finally:
        process.send_signal(number)
        try:
            process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _programs() -> Path | None:
    """The folder of PostgreSQL's programs, which Debian keeps out of the PATH; the newest version."""
    found = shutil.which("initdb")
    if found:
        return Path(found).resolve().parent
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda folder: int(folder.parent.name))
    return versions[-1] if versions else None


def _answers(url: str) -> bool:
    try:
        urllib.request.urlopen(f"{url}/health", timeout=5).close()
    except OSError:
        return False
    return True


def _wait_until(ready: Callable[[], bool], process: subprocess.Popen[bytes], log: str) -> None:
    limit = time.monotonic() + PATIENCE
    while not ready():
        assert process.poll() is None, Path(log).read_text(errors="replace")[-2000:]
        assert time.monotonic() < limit, (
            f"not ready after {PATIENCE} s: {Path(log).read_text(errors='replace')[-2000:]}"
        )
        time.sleep(0.2)
