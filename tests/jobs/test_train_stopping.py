"""Signals to the driver become a request that the workers can see."""

import os
import signal
import threading
from pathlib import Path

import pytest

from jobs.console import Interrupted, command_line
from jobs.training.stopping import stop_file, stopped_by_signals


def stopped_twice(folder: Path, number: int) -> None:
    with stopped_by_signals(folder) as request:
        assert not stop_file(folder).exists()
        os.kill(os.getpid(), number)
        assert stop_file(folder).exists()
        assert (request.number, request.exit_code) == (number, 128 + number)
        os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_first_signal_asks_and_the_second_interrupts(tmp_path, number):
    before = signal.signal(number, signal.default_int_handler)  # under nohup a closed terminal would be ignored
    try:
        with pytest.raises(KeyboardInterrupt):
            stopped_twice(tmp_path / "run", number)
        assert signal.getsignal(number) == signal.default_int_handler
    finally:
        signal.signal(number, before)
    assert not stop_file(tmp_path / "run").exists()


def test_what_an_earlier_driver_left_stops_nobody(tmp_path):
    stop_file(tmp_path).touch()
    with stopped_by_signals(tmp_path) as request:
        assert not stop_file(tmp_path).exists()
        assert request.number == 0


def test_a_signal_that_is_ignored_stays_so(tmp_path):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stopped_by_signals(tmp_path) as request:
            os.kill(os.getpid(), signal.SIGHUP)
            assert request.number == 0
    finally:
        signal.signal(signal.SIGHUP, before)


def test_other_threads_leave_signals_as_they_are(tmp_path):
    before, seen = signal.getsignal(signal.SIGTERM), []

    def work() -> None:
        with stopped_by_signals(tmp_path):
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]


def test_an_orderly_end_is_one_line_and_the_signals_exit_code(capsys):
    @command_line
    def main(argv=None):
        raise Interrupted("stopped at step 3 of 9; go on like this", 143)

    with pytest.raises(SystemExit) as ended:
        main([])
    assert ended.value.code == 143
    assert capsys.readouterr().err == "stopped at step 3 of 9; go on like this\n"
