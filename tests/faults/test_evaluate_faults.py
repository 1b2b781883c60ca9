"""A benchmark killed in the middle of drawing ends in the table of one that was not."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import yaml
from marks import MARK, kill_marked, new_mark

ROOT = Path(__file__).parents[2]


def command(folder: Path, checkpoint: Path, output: str) -> list[str]:
    settings = {
        "output": str(folder / output),
        "checkpoint": str(checkpoint),
        "benchmark": {"layout": ["pocket"], "subjects": 4, "prompts_each": 2},
        "gammas": [0, 0.5, 1],
        "steps": 4,
        "batch_rows": 2,
        "workers": 1,
        "track": False,
        "ray": {"num_cpus": 1, "object_store_mb": 100},
    }
    file = folder / f"{output}.yaml"
    file.write_text(yaml.safe_dump(settings))
    return [sys.executable, "-m", "jobs.evaluate", "--config", str(file)]


def test_a_killed_benchmark_goes_on_and_ends_in_the_same_table(untrained_checkpoint, tmp_path):
    pictures = tmp_path / "killed" / "pictures"
    mark = new_mark()
    job = subprocess.Popen(command(tmp_path, untrained_checkpoint, "killed"), cwd=ROOT, env=os.environ | {MARK: mark})
    try:
        deadline = time.monotonic() + 2800
        while len(list(pictures.rglob("*.png"))) < 4:
            assert job.poll() is None, "the benchmark ended before it could be killed"
            assert time.monotonic() < deadline, "no picture was drawn"
            time.sleep(0.05)
    finally:
        kill_marked(mark)
        job.wait()
    before = {path: path.stat().st_mtime_ns for path in pictures.rglob("*.png")}
    assert 4 <= len(before) < 24
    for output in ("killed", "whole"):
        subprocess.run(command(tmp_path, untrained_checkpoint, output), cwd=ROOT, check=True)
    assert all(path.stat().st_mtime_ns == when for path, when in before.items())
    assert len(list(pictures.rglob("*.png"))) == 24
    killed, whole = (json.loads((tmp_path / o / "scores.json").read_text()) for o in ("killed", "whole"))
    assert killed["leaderboard"] == whole["leaderboard"]
    assert killed["sweeps"] == whole["sweeps"]
