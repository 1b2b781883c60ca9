"""A pass goes on where processes hang: it is started again with what is left, and says so when that does not help."""

import os
import signal
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import pytest

from pipelines import ledger, passes
from pipelines.passes import Step, run_pass
from pipelines.shards import DatasetError

ROWS = {name: {"name": name} for name in ("swift", "steady", "lame")}


class Counted:
    """A progress bar that counts."""

    def __init__(self) -> None:
        self.n = 0

    def update(self, n: int) -> None:
        self.n += n


def no_bar(total, description, unit):
    return nullcontext(Counted())


@pytest.fixture(scope="module")
def ray_of_two(tmp_path_factory):
    """A Ray whose workers have started and imported already: that does not count as a hang."""
    from jobs.cluster import ray_session
    from jobs.config import RayConfig

    folder = tmp_path_factory.mktemp("warm")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.path.dirname(__file__))  # workers unpickle what is defined here
        with ray_session(RayConfig(num_cpus=2, object_store_mb=100)):
            run_pass(ROWS, [Step(partial(work, folder=folder))], folder, "clips", no_bar)
            yield


def work(row, folder: Path) -> dict:
    """Finishes its unit; the lame one is stopped by the kernel while it is told to, so that no thread of it runs."""
    if row["name"] == "lame" and (folder / "stop").exists():
        (folder / f"stopped-{os.getpid()}").touch()
        os.kill(os.getpid(), signal.SIGSTOP)
    ledger.finish(folder, row["name"], {})
    return {"name": row["name"]}


def test_a_pass_in_which_nothing_moves_is_started_again_and_ends_by_naming_what_is_left(
    ray_of_two, tmp_path, monkeypatch, caplog
):
    monkeypatch.setattr(passes, "STARTS", 2)
    (tmp_path / "stop").touch()
    steps = [Step(partial(work, folder=tmp_path))]
    with pytest.raises(DatasetError, match=r"clips: nothing moved for 15 s; 1 left: lame; that was start 2"):
        run_pass(ROWS, steps, tmp_path, "clips", no_bar, quiet_s=15.0)
    assert "start 1 of 2" in caplog.text
    assert [name for name in ROWS if ledger.finished(tmp_path, name) is None] == ["lame"]
    for mark in tmp_path.glob("stopped-*"):
        os.kill(int(mark.name.rpartition("-")[2]), signal.SIGKILL)  # a stopped worker keeps its place in Ray

    (tmp_path / "stop").unlink()
    bar = Counted()
    run_pass(ROWS, steps, tmp_path, "clips", lambda total, description, unit: nullcontext(bar))
    assert ledger.finished(tmp_path, "lame") is not None
    assert bar.n == len(ROWS)
