"""The comparison in its smallest form: every stage real, killed on the way, and nothing done twice."""

import os
import subprocess
import sys
import time
from pathlib import Path

from marks import MARK, kill_marked, new_mark

from flexip.images import decode_image

ROOT = Path(__file__).parents[2]
LINES = ("FlexIP", "(b) IP-Adapter-Plus", "(d) (c), scale by dataset", "guessing", "the perfect answer, rendered")


def command(output: Path) -> list[str]:
    return [sys.executable, "-m", "jobs.reproduce", "--preset", "smoke", "--output", str(output)]


def test_a_killed_comparison_goes_on_from_the_trials_that_are_finished(tmp_path):
    archive, mark = tmp_path / "results", new_mark()
    job = subprocess.Popen(command(tmp_path), cwd=ROOT, env=os.environ | {MARK: mark})
    try:
        deadline = time.monotonic() + 900
        while len(list(archive.glob("*-test-*.npz"))) < 2:  # FlexIP's, and that of the base model
            assert job.poll() is None, "the comparison ended before it could be killed"
            assert time.monotonic() < deadline, "no trial was finished"
            time.sleep(0.1)
    finally:
        kill_marked(mark)
        job.wait()
    assert not (tmp_path / "results.md").exists()
    before = {
        path: path.stat().st_mtime_ns for path in [*archive.glob("*.npz"), *tmp_path.glob("dataset/**/*.parquet")]
    }
    subprocess.run(command(tmp_path), cwd=ROOT, check=True)
    assert all(path.stat().st_mtime_ns == when for path, when in before.items())
    page = (tmp_path / "results.md").read_text()
    assert all(f"| {title} |" in page for title in LINES)
    assert decode_image((archive / "strips.png").read_bytes()).size
    again = subprocess.run(command(tmp_path), cwd=ROOT, check=True, capture_output=True, text=True)
    assert "train " not in again.stdout
    assert (tmp_path / "results.md").read_text() == page
