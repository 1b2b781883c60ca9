"""Calls a function in a child process that may hang, die or eat memory: it is killed, the caller gets an error.

Decoders of foreign bytes abort, loop and leak; none of that may take an actor with it. The child stays alive between
calls (importing a decoder costs more than decoding a short clip) and is renewed after some, against leaks.

The parent watches the child's resident memory. RLIMIT_AS would count what libraries map and never touch: after its
imports a decoder's child maps seven times what it holds.
"""

import importlib
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any

import psutil

WATCH_S = 0.05  # between two looks at the child's memory [s]; in it a process touches a few 100 MB at most
STALL_S = 5.0  # a longer time between two such looks is not the child's [s]
START_S = 300.0  # for a child to start and import, on a machine that is busy [s]


class SandboxError(ValueError):
    """The child was killed or died. `reason` is `timeout`, `memory` or `died`."""

    def __init__(self, reason: str, message: str):
        super().__init__(message)
        self.reason = reason


class Sandbox:
    """`Sandbox("package.module:function", timeout_s)(*args)` is that function's result, or its exception.

    Arguments, result and exception cross a pipe pickled. Raises SandboxError at the limits of wall-clock time and
    resident memory (of the child and its own children), or when the child dies.
    """

    def __init__(self, target: str, timeout_s: float, calls_per_child: int = 100, memory_mb: int | None = None):
        self.target = target
        self.timeout_s = timeout_s
        self.memory_mb = memory_mb
        self.calls_per_child = calls_per_child
        self._child: subprocess.Popen[bytes] | None = None
        self._pipe: Connection | None = None
        self._calls = 0

    def __call__(self, *args: Any) -> Any:
        fresh = self._child is None or self._calls >= self.calls_per_child
        if fresh:
            self._start()
        assert self._child is not None
        assert self._pipe is not None
        self._calls += 1
        try:
            if fresh:
                self._wait(self._pipe, self._child.pid, START_S)
                self._pipe.recv()  # it has imported what it needs: that does not count as the call's time
            self._pipe.send(args)
            self._wait(self._pipe, self._child.pid, self.timeout_s)
            failed, result = self._pipe.recv()
        except SandboxError:
            self.close()
            raise
        except (EOFError, OSError) as error:
            code = self.close()
            raise SandboxError("died", f"{self.target}: its process ended with code {code}") from error
        if failed:
            raise result
        return result

    def _wait(self, pipe: Connection, pid: int, limit_s: float) -> None:
        """Returns when there is an answer, or none will come any more. Raises SandboxError at a limit.

        Time counts while both processes run: a machine that is stopped for an hour and goes on has made no clip slow.
        """
        waited, last = 0.0, time.monotonic()
        while not pipe.poll(max(0.0, min(WATCH_S, limit_s - waited))):
            now = time.monotonic()
            waited, last = waited + min(now - last, STALL_S), now
            if waited >= limit_s:
                raise SandboxError("timeout", f"{self.target}: not done after {limit_s:g} s, killed")
            if self.memory_mb is not None and (held := resident_mb(pid)) > self.memory_mb:
                limit = f"{held:.0f} MB of resident memory, limit {self.memory_mb} MB"
                raise SandboxError("memory", f"{self.target}: {limit}, killed")

    def close(self) -> int | None:
        """Ends the child; its exit code, negative for a signal, None when there was no child."""
        if self._child is None or self._pipe is None:
            return None
        self._pipe.close()
        with suppress(subprocess.TimeoutExpired):
            self._child.wait(timeout=0.2)  # a child that died by itself has a code worth telling
        if self._child.poll() is None:
            self._child.kill()
        code = self._child.wait()
        self._child = self._pipe = None
        return code

    def _start(self) -> None:
        self.close()
        self._pipe, theirs = Pipe()
        # The child finds the modules where this process does; Ray workers have a search path of their own making.
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "pipelines.sandbox", self.target, str(theirs.fileno())]
        quiet = subprocess.DEVNULL
        self._child = subprocess.Popen(
            command, pass_fds=[theirs.fileno()], env=environment, stdin=quiet, stdout=quiet, stderr=quiet
        )
        theirs.close()
        self._calls = 0

    def __del__(self) -> None:
        with suppress(Exception):  # at interpreter exit anything may be gone already; the child then sees a closed pipe
            self.close()


def resident_mb(pid: int) -> float:
    """Resident memory of a process and its children [MB]; 0 when it has ended."""
    try:
        process = psutil.Process(pid)
        return sum(p.memory_info().rss for p in (process, *process.children(recursive=True))) / 2**20
    except psutil.Error:
        return 0.0


def _serve(function: Callable[..., Any], pipe: Connection) -> None:
    """Say that it is ready, then answer calls until the other end is closed."""
    pipe.send(None)
    while True:
        try:
            args = pipe.recv()
        except EOFError:
            return
        try:
            answer = (False, function(*args))
        except Exception as error:  # whatever the function raises is the caller's to handle
            answer = (True, error)
        try:
            pipe.send(answer)
        except Exception as error:  # it does not pickle; nothing of it went through the pipe
            pipe.send((True, TypeError(f"{type(answer[1]).__name__} cannot leave the sandbox: {error}")))


if __name__ == "__main__":
    module, _, name = sys.argv[1].partition(":")
    _serve(getattr(importlib.import_module(module), name), Connection(int(sys.argv[2])))
