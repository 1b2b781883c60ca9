"""What a job says to the person at the terminal: a line per stage, a bar per long step, one line per mistake."""

import functools
import os
import sys
from collections.abc import Callable
from typing import TextIO

from tqdm import tqdm

OWN_PACKAGES = {"flexip", "pipelines", "evaluation", "jobs"}
SECONDS_BETWEEN_LINES = 20.0  # of a progress bar whose output goes to a file


class UserError(ValueError):
    """Something the user can put right. The message names the field or file, the value, and what would be right."""


class Interrupted(KeyboardInterrupt):
    """Ended early and in good order, because a signal asked for it. The message says how to go on."""

    def __init__(self, message: str, exit_code: int):
        super().__init__(message)
        self.exit_code = exit_code


def say(stage: str, text: str) -> None:
    """Prints one line: the stage's name in a column of its own, then the text. Does not tear a progress bar."""
    tqdm.write(f"{stage:<9} {text}", file=sys.stdout)
    sys.stdout.flush()


def progress(total: int | None, description: str, unit: str = "it") -> tqdm:
    """A progress bar on stderr, as a context manager with `.update(n)` and `.set_postfix(...)`.

    Without a terminal (a log file, a cluster job) it becomes a line every 20 s instead of thousands.
    """
    bar = functools.partial(tqdm, total=total, desc=f"{description:<9}", unit=unit, dynamic_ncols=True, leave=False)
    if sys.stderr.isatty():
        return bar()
    pace = dict.fromkeys(("mininterval", "maxinterval", "delay"), SECONDS_BETWEEN_LINES)
    return bar(file=_Lines(sys.stderr), ncols=100, dynamic_ncols=False, ascii=True, **pace)


class _Lines:
    """A text stream in which every redraw of a bar is a line of its own."""

    def __init__(self, stream: TextIO):
        self._stream = stream
        self._last = ""

    def write(self, text: str) -> None:
        line = text.strip()
        if line and line != self._last:
            self._stream.write(line + "\n")
            self._last = line

    def flush(self) -> None:
        self._stream.flush()


def quiet_libraries() -> None:
    """Silences the model libraries' own bars and notices, which would bury a job's lines."""
    for name in ("transformers", "diffusers"):
        os.environ.setdefault(f"{name.upper()}_VERBOSITY", "error")  # read when it is imported, here or in a Ray worker
        if name in sys.modules:
            logging = sys.modules[name].utils.logging
            logging.set_verbosity_error()
            logging.disable_progress_bar()


def command_line(main: Callable[[list[str] | None], None]) -> Callable[..., None]:
    """Decorates a job's main(argv): a user's mistake becomes `error: ...` on stderr and exit code 2.

    A user's mistake is a ValueError whose class is defined by this project (UserError, ImageError, CheckpointError,
    DatasetError...), raised here or in a Ray task. Anything else is a fault of the program and keeps its traceback.
    """

    @functools.wraps(main)
    def wrapped(argv: list[str] | None = None) -> None:
        quiet_libraries()
        try:
            main(argv)
        except Interrupted as stopped:
            print(stopped, file=sys.stderr)
            raise SystemExit(stopped.exit_code) from None
        except KeyboardInterrupt:
            print("error: interrupted", file=sys.stderr)
            raise SystemExit(130) from None
        except Exception as error:
            mistake = user_mistake(error)
            if mistake is None:
                raise
            for line in str(mistake).splitlines():
                print(f"error: {line}", file=sys.stderr)
            raise SystemExit(2) from None

    return wrapped


def user_mistake(error: BaseException | None) -> ValueError | None:
    """The user's mistake at the bottom of an error, or None. Looks through Ray's wrappers and chained causes."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        inner = getattr(error, "cause", None)  # ray.exceptions.RayTaskError is of the cause's class and carries it
        if isinstance(inner, BaseException):
            error = inner
        elif isinstance(error, ValueError) and type(error).__module__.split(".")[0] in OWN_PACKAGES:
            return error
        else:
            error = error.__cause__
    return None
