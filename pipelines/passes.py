"""How a pass runs on Ray Data: its steps, the workers they get, and what is left to do. The only file that knows Ray.

A row of a pass is one unit of it, by name; it carries paths and encoded bytes, never raw frames. The last step puts the
unit into the ledger, so that the same pass goes on after any kind of end, and nothing that is written depends on the
order in which Ray runs things.
"""

import dataclasses
import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

import ray
from ray.data import ActorPoolStrategy, DataContext, Dataset
from ray.data.exceptions import ExecutionTimeoutError

from pipelines import ledger
from pipelines.shards import DatasetError, FileEntry
from pipelines.workers import Row

BLOCKS = 10_000  # at most so many blocks in a pass
CPUS = 0.5  # of each task and each actor, so that both find their place
QUIET_S = 3600.0  # for which nothing of a pass may move, where nothing better is known [s]
STARTS = 3  # of a pass in which nothing moves any more

_log = logging.getLogger(__name__)


class Say(Protocol):
    """Prints one line about a stage."""

    def __call__(self, stage: str, text: str) -> None: ...


class Progress(Protocol):
    """Opens a progress bar: a context manager whose value has `update(n)`."""

    def __call__(self, total: int | None, description: str, unit: str) -> AbstractContextManager[Any]: ...


@dataclass(frozen=True)
class Step:
    """What becomes of each row of a pass, and by whom."""

    work: Callable[..., Any]  # row -> row; for actors a class of such
    arguments: tuple[Any, ...] = ()  # of the class
    actors: int = 0  # at most so many; 0: tasks, which keep no state
    gpus: float = 0.0  # of each actor


@dataclass(frozen=True)
class Pools:
    """Actors of the steps that keep state."""

    readers: int
    searchers: int
    encoders: int
    encoder_gpus: float
    searcher_gpus: float

    @classmethod
    def of_cluster(cls, use_gpu: bool, search_on_gpu: bool = False) -> "Pools":
        """A reader for every four logical CPUs, a searcher for every two, an encoder for every GPU (or one without).

        Searchers whose models run on a GPU are two for each, and take half of it together.
        """
        have = ray.cluster_resources()
        if have.get("CPU", 0) < 2:
            raise DatasetError(f"ray.num_cpus = {have.get('CPU', 0):g}: curation needs 2 logical CPUs at least")
        return cls.of(int(have["CPU"]), int(have.get("GPU", 0)) if use_gpu else 0, search_on_gpu)

    @classmethod
    def of(cls, cpus: int, gpus: int, search_on_gpu: bool = False) -> "Pools":
        """The same of a cluster of that size."""
        shared = bool(gpus) and search_on_gpu
        searchers = min(cpus // 2, 2 * gpus) if shared else cpus // 2
        encoder_gpus = 0.5 if shared else 1.0 if gpus else 0.0
        return cls(max(1, cpus // 4), max(1, searchers), max(1, gpus), encoder_gpus, 0.25 if shared else 0.0)

    def encoding(self, work: type, *arguments: Any) -> Step:
        """A step whose actors hold the encoders: one for each GPU, or one on the CPU."""
        return Step(work, arguments, self.encoders, self.encoder_gpus)


def run_pass(
    rows: Mapping[str, Row],
    steps: Sequence[Step],
    folder: Path,
    what: str,
    progress: Progress,
    quiet_s: float = QUIET_S,
) -> float:
    """Runs the units that are not in the ledger of `folder` yet. Seconds it took, 0 when some were finished before.

    Processes hang, and so do the schedulers that start them and the machines below: rarely, but ten million clips are
    many. A pass in which no unit moves for `quiet_s`, the longest that an honest one may take [s], is started again
    with what is left.

    Raises:
        DatasetError: nothing moved in any of STARTS starts; names what is left.
    """
    began, left = time.perf_counter(), _missing(rows, folder)
    whole = len(left) == len(rows)
    with progress(len(rows), what, what.rstrip("s")) as bar:
        bar.update(len(rows) - len(left))
        for start in range(1, STARTS + 1):
            if not left or _ran_through(_dataset(list(left.values()), steps, quiet_s), bar):
                return time.perf_counter() - began if whole else 0.0
            left = _missing(rows, folder)
            stuck = f"{what}: nothing moved for {quiet_s:g} s; {len(left)} left: {', '.join(list(left)[:3])}"
            _log.warning("%s; start %d of %d", stuck, start, STARTS)
    raise DatasetError(f"{stuck}; that was start {STARTS}: see what the workers of this Ray do")


def _missing(rows: Mapping[str, Row], folder: Path) -> dict[str, Row]:
    return {name: row for name, row in rows.items() if ledger.finished(folder, name) is None}


def _ran_through(dataset: Dataset, bar: Any) -> bool:
    """Whether the pass came to its end; False when nothing moved any more."""
    try:
        for _ in dataset.iter_rows():
            bar.update(1)
    except ExecutionTimeoutError:
        return False
    return True


def _dataset(rows: list[Row], steps: Sequence[Step], quiet_s: float) -> Dataset:
    """A block per row, so that a slow one holds up nobody."""
    dataset = ray.data.from_items(rows, override_num_blocks=min(len(rows), BLOCKS))
    dataset.context.execution_no_progress_timeout_s = quiet_s
    for step in steps:
        if not step.actors:
            dataset = dataset.map(step.work, num_cpus=CPUS)
            continue
        dataset = dataset.map(
            cast(Any, step.work),
            fn_constructor_args=step.arguments,
            compute=ActorPoolStrategy(size=min(step.actors, len(rows))),
            num_cpus=CPUS,
            num_gpus=step.gpus,
        )
    return dataset


def part_rows(plan: Mapping[str, Any], column: str = "part") -> dict[str, Row]:
    """Rows of a pass over planned parts, dataclasses of plain values, in the order of the plan."""
    return {name: {"name": name, column: json.dumps(dataclasses.asdict(part))} for name, part in plan.items()}


def record_of(folder: Path, name: str) -> dict[str, Any]:
    """What the ledger holds of a unit that a pass before has finished."""
    record = ledger.finished(folder, name)
    assert record is not None, name
    return record


def files_of(records: Sequence[Mapping[str, Any]]) -> list[FileEntry]:
    """The files that these units have written."""
    return [FileEntry(**entry) for record in records for entry in record["files"]]


def ask_worker(question: Callable[..., Any], *arguments: Any, on_gpu: bool = False, **named: Any) -> Any:
    """What a function finds out where the work will be done, a machine with a GPU or any."""
    task: Any = ray.remote(num_cpus=1, num_gpus=1 if on_gpu else 0)(cast(Any, question))
    return ray.get(task.remote(*arguments, **named))


def quieten() -> None:
    """Ray Data's own bars and notices would bury the lines of this program."""
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
