"""DynamicID's results in their smallest form: every stage real, stopped on the way, and nothing done twice."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from flexip.images import decode_image

ROOT = Path(__file__).parents[2]


def reproduce(output: Path, *words: str) -> str:
    """Everything it printed."""
    folder = Path(tempfile.mkdtemp(prefix="people-", dir="/tmp"))  # short: Ray puts sockets below it
    command = [sys.executable, "-m", "jobs.reproduce_people", "--preset", "smoke", "--output", str(output), *words]
    done = subprocess.run(
        command, env=os.environ | {"RAY_TMPDIR": str(folder)}, cwd=ROOT, text=True, timeout=2800, check=False,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-4000:]
    folder.rmdir()  # fails unless its Ray has taken everything with it
    return done.stdout


def test_a_page_comes_from_nothing_in_two_starts(tmp_path):
    first = reproduce(tmp_path, "--minutes", "0.01")
    assert "minutes are over; next would be" in first
    assert not (tmp_path / "dynamicid.md").exists()
    reproduce(tmp_path)
    page = (tmp_path / "dynamicid.md").read_text()
    assert "no results" in page  # so small a preset says so
    for title in ("DynamicID", "without SAA: plain concatenation", "without IMR", "guessing", "the truth rendered"):
        assert page.count(f"| {title} |") >= 2
    for name in ("people-1.png", "people-2.png", "grid.png", "activations.png"):
        assert f"(dynamicid/{name})" in page
        assert decode_image((tmp_path / "dynamicid" / name).read_bytes()).size
    again = reproduce(tmp_path)
    assert "train " not in again
    assert (tmp_path / "dynamicid.md").read_text() == page
