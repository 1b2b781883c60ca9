"""The service under load and under violence: bursts, a killed replica, signals. Real processes only."""

import base64
import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest

from flexip.images import decode_image
from jobs.config import RayConfig
from jobs.serve import ServeConfig, serving
from jobs.serving.requests import LimitsConfig

ROUTE = "/v1/images/generations"
REPOSITORY = Path(__file__).parents[2]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


@pytest.fixture(scope="module")
def url(untrained_checkpoint) -> Iterator[str]:
    config = ServeConfig(
        checkpoint=untrained_checkpoint,
        port=free_port(),
        batch_rows=2,
        queue_rows=6,
        limits=LimitsConfig(images=2, steps=200),
        ray=RayConfig(num_cpus=2),
    )
    with serving(config) as url:
        yield url


def ask(url: str, steps: int, seed: int = 1, timeout: float = 600) -> httpx.Response:
    body = {"prompt": "a creature on a beach", "num_inference_steps": steps, "seed": seed}
    return httpx.post(url + ROUTE, json=body, timeout=timeout)


def picture(answer: httpx.Response) -> np.ndarray:
    assert answer.status_code == 200, answer.text
    return decode_image(base64.b64decode(answer.json()["data"][0]["b64_json"])).astype(int)


def wait_for(condition, seconds: float, what: str):
    """The first true value of condition(); fails after `seconds`."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with contextlib.suppress(httpx.HTTPError):
            if found := condition():
                return found
        time.sleep(0.2)
    pytest.fail(f"{what}: not within {seconds:g} s")


def healthy(url: str) -> dict:
    """What the replica tells of itself; raises httpx.HTTPError when none answers."""
    return httpx.get(url + "/healthz", timeout=20).raise_for_status().json()


def test_a_burst_is_answered_or_refused_with_429_and_nothing_is_lost(url):
    expected = picture(ask(url, steps=30, seed=0))
    with ThreadPoolExecutor(30) as pool:
        answers = list(pool.map(lambda i: ask(url, steps=30, seed=i), range(30)))
    statuses = [answer.status_code for answer in answers]
    assert set(statuses) == {200, 429}
    assert statuses.count(200) >= 6  # what fits into the queue is served
    for answer in answers:
        if answer.status_code == 429:
            error = answer.json()["error"]
            assert (error["code"], error["type"]) == ("rate_limit_exceeded", "rate_limit_error")
            assert int(answer.headers["retry-after"]) >= 1
        else:
            assert picture(answer).shape == (64, 64, 3)
    counters = httpx.get(url + "/healthz").json()
    assert counters["images"] == 1 + statuses.count(200)
    assert counters["refused"] == statuses.count(429)
    assert counters["waiting"] == 0
    np.testing.assert_allclose(picture(ask(url, steps=30, seed=0)), expected, atol=1)


def test_health_is_answered_at_once_while_pictures_are_drawn(url):
    with ThreadPoolExecutor(4) as pool:
        drawing = [pool.submit(ask, url, 60, seed) for seed in range(4)]
        times = []
        while not all(job.done() for job in drawing):
            started = time.monotonic()
            assert healthy(url)
            times.append(time.monotonic() - started)
            time.sleep(0.05)
        assert all(job.result().status_code == 200 for job in drawing)
    assert len(times) >= 5
    assert np.median(times) < 1


def test_a_client_that_leaves_frees_its_place(url):
    before = wait_for(lambda: healthy(url), 60, "health")
    with ThreadPoolExecutor(2) as pool:
        running = [pool.submit(ask, url, 100, seed) for seed in range(2)]
        wait_for(lambda: healthy(url), 60, "health")
        for seed in range(2):
            with contextlib.suppress(httpx.TimeoutException):
                ask(url, steps=200, seed=seed, timeout=0.3)
        wait_for(lambda: healthy(url)["waiting"] == 0, 120, "the places of clients that left")
        assert all(job.result().status_code == 200 for job in running)
    wait_for(lambda: healthy(url)["waiting"] == 0, 120, "an empty queue")
    drawn = healthy(url)["images"] - before["images"]
    assert 2 <= drawn <= 4  # nobody's pictures may have been begun already, never more


def test_a_killed_replica_is_replaced_and_draws_the_same_picture(url):
    expected = picture(ask(url, steps=5))
    first = wait_for(lambda: healthy(url), 60, "health")["process"]
    with ThreadPoolExecutor(1) as pool:
        interrupted = pool.submit(ask, url, 200)
        time.sleep(0.5)
        os.kill(first, signal.SIGKILL)
        answer = interrupted.result()  # comes back, with an error or drawn by the new replica: it does not hang
    assert answer.status_code in (200, 500, 503)
    again = wait_for(lambda: (found := healthy(url)) and found["process"] != first and found, 400, "a new replica")
    assert not psutil.pid_exists(first) or psutil.Process(first).status() == psutil.STATUS_ZOMBIE
    assert again["process"] != first
    np.testing.assert_allclose(picture(ask(url, steps=5)), expected, atol=1)


@pytest.fixture
def command(untrained_checkpoint) -> Iterator[tuple[subprocess.Popen, str]]:
    port = free_port()
    words = [sys.executable, "-m", "jobs.serve", "--checkpoint", str(untrained_checkpoint), "--port", str(port)]
    process = subprocess.Popen(words, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    yield process, f"http://127.0.0.1:{port}"
    if process.poll() is None:
        process.kill()
    process.wait()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_command_serves_until_a_signal_and_leaves_nothing_behind(command, number):
    process, url = command
    lines = []
    assert process.stdout is not None
    for line in process.stdout:
        lines.append(line)
        if "curl" in line:
            break
    assert re.search(rf"{re.escape(url)} is ready", "".join(lines)), "".join(lines)
    assert picture(ask(url, steps=2)).shape == (64, 64, 3)
    children = psutil.Process(process.pid).children(recursive=True)
    assert children
    process.send_signal(number)
    rest, _ = process.communicate(timeout=240)
    assert process.returncode == 0, rest
    assert [line.split(maxsplit=1) for line in rest.splitlines()] == [["serve", "stopping"], ["serve", "stopped"]]
    _, alive = psutil.wait_procs(children, timeout=60)
    assert not alive
    with pytest.raises(httpx.ConnectError):
        httpx.get(url + "/healthz")


def test_a_checkpoint_that_does_not_fit_is_one_line(untrained_checkpoint, tmp_path):
    from safetensors.torch import load_file, save_file

    for name in ("config.json", "adapters.safetensors"):
        (tmp_path / name).write_bytes((untrained_checkpoint / name).read_bytes())
    tensors = load_file(tmp_path / "adapters.safetensors")
    tensors["of_another_model"] = tensors.pop(sorted(tensors)[0])
    save_file(tensors, tmp_path / "adapters.safetensors")
    words = [sys.executable, "-m", "jobs.serve", "--checkpoint", str(tmp_path), "--port", str(free_port())]
    found = subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True, timeout=2800)
    assert found.returncode == 2
    (line,) = (line for line in found.stderr.splitlines() if line.startswith("error:"))
    assert "of_another_model" in line
    assert "Traceback" not in found.stderr
