"""Ending a training early in good order: a signal to the driver becomes a file, which workers see at their next log."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # Ctrl-C, preemption and `ray job stop`, a closed terminal


def stop_file(folder: Path) -> Path:
    """Where it stands in a run's folder; anyone who writes it ends the training with a checkpoint."""
    return folder / "stop"


@dataclass
class StopRequest:
    number: int = 0  # of the first signal; 0: none came

    @property
    def name(self) -> str:
        return signal.Signals(self.number).name

    @property
    def exit_code(self) -> int:
        """As a shell reports a process that a signal ended."""
        return 128 + (self.number or signal.SIGINT)


@contextmanager
def stopped_by_signals(folder: Path) -> Iterator[StopRequest]:
    """Inside, the first signal asks the workers to save and end; a second one interrupts at once.

    Outside the main thread, where Python allows no handlers, signals are left as they are.
    """
    request = StopRequest()
    stop_file(folder).unlink(missing_ok=True)
    if threading.current_thread() is not threading.main_thread():
        yield request
        return

    def handle(number: int, _frame: FrameType | None) -> None:
        if request.number:
            raise KeyboardInterrupt
        request.number = number
        folder.mkdir(parents=True, exist_ok=True)
        stop_file(folder).touch()

    heard = [number for number in SIGNALS if signal.getsignal(number) != signal.SIG_IGN]  # nohup ignores SIGHUP
    before = {number: signal.signal(number, handle) for number in heard}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        stop_file(folder).unlink(missing_ok=True)
