"""Which units of work are finished, so that a run may be killed at any moment and started again.

A unit is finished when its record is there: a small JSON file, written last and by rename, in a folder that belongs to
one run. What decides a run's bytes is its identity; a folder of another identity is refused, never mixed.
"""

import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipelines.shards import DatasetError

IDENTITY, LOCK, RECORDS = "run.json", "lock", "records"


@contextmanager
def open_run(folder: Path, identity: Mapping[str, Any]) -> Iterator[Path]:
    """The folder of a run, new or as an earlier start left it, locked against a second start while it is open.

    Raises:
        DatasetError: another process is at work there, or an earlier start had another identity (names what differs).
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # ends with the process, however that ends
        except BlockingIOError:
            raise DatasetError(f"output = {folder.parent}: another curation is writing there; wait for it") from None
        _check_identity(folder, identity)
        yield folder


def finish(folder: Path, unit: str, record: Mapping[str, Any]) -> None:
    """Marks a unit as finished, with what is to be known of it later."""
    target = record_path(folder, unit)
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.with_name(f"{target.name}.{os.getpid()}")
    draft.write_text(json.dumps(record, sort_keys=True))
    os.replace(draft, target)


def finished(folder: Path, unit: str) -> dict[str, Any] | None:
    """The record of a unit; None while it is not finished."""
    try:
        return json.loads(record_path(folder, unit).read_text())
    except FileNotFoundError:
        return None


def record_path(folder: Path, unit: str) -> Path:
    """Where a unit's record lies: 256 folders, since a run may have a million units."""
    return folder / RECORDS / unit[:2] / f"{unit}.json"


def discard(folder: Path) -> None:
    """Removes the folder of a run; a reader or an orphan of a killed run may still be in it."""
    shutil.rmtree(folder, ignore_errors=True)


def _check_identity(folder: Path, identity: Mapping[str, Any]) -> None:
    file, mine = folder / IDENTITY, json.loads(json.dumps(identity))
    if file.is_file():
        theirs = json.loads(file.read_text())
        keys = sorted(key for key in mine.keys() | theirs.keys() if mine.get(key) != theirs.get(key))
        if keys:
            changes = ", ".join(f"{key} was {theirs.get(key)!r}, now {mine.get(key)!r}" for key in keys)
            raise DatasetError(
                f"output = {folder.parent}: holds an unfinished curation with other settings ({changes}); "
                "start it again with those, or give another output"
            )
        return
    draft = file.with_suffix(".new")
    draft.write_text(json.dumps(mine, indent=1, sort_keys=True))
    os.replace(draft, file)
