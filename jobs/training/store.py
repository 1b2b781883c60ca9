"""Checkpoints of one run on disk: written apart and moved into place, checked before use, kept by rule.

Not through `ray.train.report`: its asynchronous upload loses the newest reports when a worker dies, and its rule keeps
either the newest or the best. Here the folder itself is the truth, for any launcher.

step-00000200/complete.json   the last file written: size and SHA-256 of all others
step-00000200/scores.json     what validation found, once it has
"""

import hashlib
import json
import os
import shutil
import time
from collections.abc import Collection
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from flexip.checkpoint import Snapshot, write_snapshot

MARK, SCORES = "complete.json", "scores.json"


@dataclass(frozen=True)
class Newest:
    """The checkpoint to go on from, and the newer ones that cannot be used."""

    path: Path | None
    passed_over: list[str]  # one line each: which, and what is wrong with it


def name_of(step: int) -> str:
    return f"step-{step:08d}"


def step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix("step-"))


def stored(folder: Path) -> list[Path]:
    """Directories of finished checkpoints, newest first; not checked."""
    found = [path for path in folder.glob("step-*") if path.name.removeprefix("step-").isdigit() and path.is_dir()]
    return sorted(found, key=step_of, reverse=True)


def newest(folder: Path) -> Newest:
    """The newest whole checkpoint of a run's folder."""
    passed_over = []
    for path in stored(folder):
        wrong = damage(path)
        if not wrong:
            return Newest(path, passed_over)
        passed_over.append(f"{path.name}: {wrong}")
    return Newest(None, passed_over)


def damage(checkpoint: Path) -> str:
    """What keeps a checkpoint from being used, empty for nothing: every file is read and compared with the mark."""
    try:
        listed = json.loads((checkpoint / MARK).read_text())["files"]
        for name, (size, digest) in listed.items():
            file = checkpoint / name
            found = file.stat().st_size
            if found != size:
                return f"{name} has {found} of {size} bytes"
            if _digest(file) != digest:
                return f"{name} is not what was written"
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"{MARK} cannot be read ({error})"
    return ""


def write_step(folder: Path, snapshot: Snapshot) -> Path:
    """Write a snapshot as the checkpoint of its step: readers see all of it or nothing."""
    target = folder / name_of(snapshot.step)
    draft = folder / f".{target.name}.new"
    shutil.rmtree(draft, ignore_errors=True)
    write_snapshot(draft, snapshot)
    files = {file.name: (file.stat().st_size, _digest(file)) for file in sorted(draft.iterdir())}
    (draft / MARK).write_text(json.dumps({"step": snapshot.step, "files": files}, indent=2) + "\n")
    for path in (*draft.iterdir(), draft):
        _to_disk(path)
    remove(target)  # only a damaged one can stand there
    os.replace(draft, target)
    _to_disk(folder)
    return target


def remove(checkpoint: Path) -> None:
    """Delete a checkpoint; from the first moment on it is none."""
    if checkpoint.is_dir():
        gone = checkpoint.with_name(f".{checkpoint.name}.old")
        shutil.rmtree(gone, ignore_errors=True)
        os.replace(checkpoint, gone)
        shutil.rmtree(gone)


def tidy(folder: Path) -> None:
    """Delete what interrupted writing or deleting left behind."""
    for leftover in (*folder.glob(".step-*.new"), *folder.glob(".step-*.old")):
        shutil.rmtree(leftover, ignore_errors=True)


def scores(checkpoint: Path) -> dict[str, float]:
    """What validation found; empty without."""
    file = checkpoint / SCORES
    return json.loads(file.read_text()) if file.is_file() else {}


def store_scores(checkpoint: Path, found: dict[str, float]) -> None:
    draft = checkpoint / f"{SCORES}.new"
    draft.write_text(json.dumps(found, indent=2) + "\n")
    os.replace(draft, checkpoint / SCORES)


def best(folder: Path, metric: str, largest: bool) -> Path | None:
    """The checkpoint with the best score, the newer of two equal ones; None where none has any."""
    sign = 1 if largest else -1
    rated = [(sign * found[metric], step_of(p), p) for p in stored(folder) if metric in (found := scores(p))]
    return max(rated)[2] if rated else None


def prune(folder: Path, last: int, keep: Collection[Path] = ()) -> list[Path]:
    """Delete all but the `last` newest checkpoints and those of `keep`; returns what was deleted."""
    surplus = [path for path in stored(folder)[last:] if path not in keep]
    for path in surplus:
        remove(path)
    return surplus


class CheckpointWriter:
    """Writes snapshots behind the training's back, one at a time: a second waits until the first is on disk."""

    def __init__(self, folder: Path):
        folder.mkdir(parents=True, exist_ok=True)
        tidy(folder)
        self._folder = folder
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._writing: Future[Path] | None = None
        self.stalled = 0.0  # [s] that `save` and `finish` have made their caller wait

    def save(self, snapshot: Snapshot) -> None:
        """Begin to write. Raises what went wrong with the snapshot before."""
        self.finish()
        self._writing = self._thread.submit(write_step, self._folder, snapshot)

    def finish(self) -> None:
        """Wait until everything is on disk; raises what went wrong."""
        began = time.perf_counter()
        if self._writing:
            self._writing.result()
        self._writing = None
        self.stalled += time.perf_counter() - began


def _digest(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _to_disk(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
