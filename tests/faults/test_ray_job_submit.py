"""`ray job submit --working-dir` against a head node of its own: the same words as on a cluster, over HTTP."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from flexip.pocket.video import make_world
from pipelines.shards import open_dataset, verify

ROOT = Path(__file__).parents[2]
RAY = Path(sys.executable).with_name("ray")


def free_ports(count: int) -> list[int]:
    """Different ones: all are held until the last is found."""
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [probe.getsockname()[1] for probe in probes]


@pytest.fixture
def head() -> Iterator[tuple[str, dict[str, str]]]:
    """Address of the dashboard of a head node, and the environment that every process of this cluster shares.

    The node's processes are one group, which ends by its own id: `ray stop` would end every Ray of the user.
    """
    folder = Path(tempfile.mkdtemp(prefix="head-", dir="/tmp"))  # short: Ray puts sockets below it
    dashboard, port, client = free_ports(3)
    removed = ("RAY_ADDRESS", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
    environment = {name: value for name, value in os.environ.items() if name not in removed}
    # By itself the head asks for a token as soon as one lies in the home directory, and the client sends none.
    environment |= {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0", "RAY_TMPDIR": str(folder)}
    environment["PATH"] = f"{RAY.parent}{os.pathsep}{environment['PATH']}"  # as in an activated environment
    command = [str(RAY), "start", "--head", "--block", f"--port={port}", f"--temp-dir={folder}", "--num-cpus=4"]
    command += ["--include-dashboard=true", f"--dashboard-port={dashboard}", f"--ray-client-server-port={client}"]
    command += ["--dashboard-agent-listen-port=0", "--object-store-memory=300000000", "--disable-usage-stats"]
    log = (folder / "head.log").open("wb")
    process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        wait_for(dashboard, process, folder / "head.log")
        yield f"http://127.0.0.1:{dashboard}", environment
    finally:
        stop(process, folder)
        log.close()
        shutil.rmtree(folder, ignore_errors=True)


def wait_for(port: int, process: subprocess.Popen, log: Path, seconds: float = 2800) -> None:
    limit = time.monotonic() + seconds
    while time.monotonic() < limit:
        assert process.poll() is None, f"the head node ended: {log.read_text()[-2000:]}"
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.5)
    pytest.fail(f"no dashboard after {seconds:g} s: {log.read_text()[-2000:]}")


def stop(process: subprocess.Popen, folder: Path) -> None:
    """End the head node and what it started: processes whose command line names its temporary folder."""
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(timeout=60)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                if str(folder).encode() in (entry / "cmdline").read_bytes():
                    os.kill(int(entry.name), signal.SIGKILL)
            except (OSError, ProcessLookupError):
                continue  # it ended by itself


def test_curation_submitted_over_http_makes_a_sound_dataset(head, tmp_path):
    address, environment = head
    world = make_world(tmp_path / "world", videos=2, stills=4, seed=3)
    output = tmp_path / "dataset"
    entry = ["python", "-m", "jobs.curate", "--input.path", str(world), "--input.group_by_folder", "true"]
    entry += ["--output", str(output), "--frames.per_video", "6", "--pairs.identity_min", "0"]
    command = [str(RAY), "job", "submit", "--address", address, "--working-dir", ".", "--", *entry]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=2800, cwd=ROOT, check=False)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said[-4000:]
    assert "succeeded" in said
    assert "Traceback" not in said
    manifest = verify(output)
    assert manifest.counts["source"]["accepted"] == 6
    assert open_dataset(output).size("variant", "train") > 0


def test_a_submitted_job_with_a_wrong_key_fails_with_one_clear_line(head):
    address, environment = head
    entry = ["python", "-m", "jobs.curate", "--input.path", "/x", "--output", "/y", "--frames.per_vido", "3"]
    command = [str(RAY), "job", "submit", "--address", address, "--working-dir", ".", "--", *entry]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=2800, cwd=ROOT, check=False)
    assert done.returncode != 0
    assert "did you mean --frames.per_video?" in done.stdout + done.stderr
