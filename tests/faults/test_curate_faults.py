"""Curation that is killed again and again ends with the bytes of one that was left alone."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flexip.pocket.video import make_world
from pipelines.shards import read_manifest, verify

KILLS = 20
SETTINGS = [
    *("--frames.per_video", "4", "--shards.rows_per_file", "8", "--shards.hidden", "true"),
    *("--pairs.identity_min", "0", "--ray.num_cpus", "4", "--ray.object_store_mb", "128"),
]


def start(world: Path, output: Path, log: Path) -> subprocess.Popen:
    command = [sys.executable, "-m", "jobs.curate", "--input.path", str(world), "--output", str(output), *SETTINGS]
    with log.open("a") as out:
        return subprocess.Popen(command, stdout=out, stderr=out, start_new_session=True)


def family(process: subprocess.Popen) -> list[tuple[int, str]]:
    """(pid, command line) of all processes of its session: the driver, Ray's own, workers and their children."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                session = os.getsid(int(entry.name))
                words = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except (OSError, ProcessLookupError):
                continue
            if session == process.pid:
                found.append((int(entry.name), words))
    return found


def is_worker(words: str) -> bool:
    return words.startswith("ray::") or "pipelines.sandbox" in words


def end(process: subprocess.Popen) -> None:
    for pid, _ in family(process):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    process.wait()


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    return make_world(tmp_path_factory.mktemp("world"), videos=10, stills=12, seed=5)


@pytest.fixture(scope="module")
def undisturbed(world, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    process = start(world, folder / "dataset", folder / "log")
    assert process.wait(timeout=2800) == 0, (folder / "log").read_text()
    return folder / "dataset"


def finished_units(output: Path) -> dict[str, int]:
    records = output / ".staging" / "records"
    return {path.name: path.stat().st_mtime_ns for path in records.rglob("*.json")} if records.is_dir() else {}


def test_twenty_kills_later_the_bytes_are_those_of_an_undisturbed_run(world, undisturbed, tmp_path) -> None:
    output, log, rng, killed = tmp_path / "dataset", tmp_path / "log", random.Random(1), {"driver": 0, "worker": 0}
    done: dict[str, int] = {}
    while sum(killed.values()) < KILLS and not (output / "manifest.json").exists():
        process = start(world, output, log)
        try:
            for _ in range(3):  # a worker now and then, and at last the driver
                time.sleep(rng.uniform(2.0, 9.0))
                workers = [pid for pid, words in family(process) if is_worker(words)]
                if process.poll() is None and workers and rng.random() < 0.7:
                    os.kill(rng.choice(workers), signal.SIGKILL)
                    killed["worker"] += 1
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
                killed["driver"] += 1
        finally:
            end(process)
        now = finished_units(output)
        again = [name for name, when in done.items() if name in now and now[name] != when]
        assert not again, "a finished unit was done twice"
        done = now
    assert start(world, output, log).wait(timeout=2800) == 0, log.read_text()[-3000:]
    assert min(killed.values()) > 0, killed
    assert verify(output).files == read_manifest(undisturbed).files
    assert not (output / ".staging").exists()


def test_a_changed_source_is_done_again_and_other_settings_are_refused(world, undisturbed, tmp_path) -> None:
    copy, output, log = tmp_path / "world", tmp_path / "dataset", tmp_path / "log"
    subprocess.run(["cp", "-a", str(world), str(copy)], check=True)
    process = start(copy, output, log)
    try:
        while len(list((output / ".staging").glob("units/*/*.pairs.parquet"))) < 3:
            assert process.poll() is None, log.read_text()
            time.sleep(0.1)
    finally:
        end(process)
    refused = subprocess.run(
        [sys.executable, "-m", "jobs.curate", "--input.path", str(copy), "--output", str(output), "--seed", "7"],
        capture_output=True,
        text=True,
        timeout=2800,
        check=False,
    )
    assert refused.returncode == 2
    assert "holds an unfinished curation with other settings" in refused.stderr
    assert "seed was 0, now 7" in refused.stderr

    victim = sorted((copy / "videos").glob("*.mp4"))[0]
    victim.write_bytes(sorted((world / "videos").glob("*.mp4"))[1].read_bytes())  # now a duplicate of another
    assert start(copy, output, log).wait(timeout=2800) == 0, log.read_text()[-3000:]
    counts = read_manifest(output).counts["source"]
    assert counts["rejected"] == {"duplicate": 1}
    fresh = tmp_path / "fresh"
    assert start(copy, fresh, log).wait(timeout=2800) == 0, log.read_text()[-3000:]
    assert read_manifest(fresh).files == verify(output).files, "nothing of the old source is left"
    assert json.loads((fresh / "manifest.json").read_text()) == json.loads((output / "manifest.json").read_text())
