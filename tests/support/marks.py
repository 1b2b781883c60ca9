"""Processes known by a mark in their environment, which all that they start inherits."""

import contextlib
import os
import signal
import uuid
from pathlib import Path

MARK = "FLEXIP_TEST_MARK"


def new_mark() -> str:
    return uuid.uuid4().hex


def marked(mark: str) -> list[int]:
    """Living processes that inherited the mark."""
    wanted = f"{MARK}={mark}".encode()
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if wanted in (folder / "environ").read_bytes().split(b"\0"):
                found.append(int(folder.name))
        except OSError:  # it has ended meanwhile, or is not ours
            continue
    return found


def kill_marked(mark: str) -> None:
    """SIGKILL for all of them at once, as when a machine loses its power."""
    for pid in marked(mark):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def command(pid: int) -> str:
    """The command line of a process; Ray writes there what a worker is busy with. Empty once it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
    except OSError:
        return ""
