"""All missing rows of a grid, drawn by actors on Ray. A row is a file; what is there is not drawn again."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.util.actor_pool import ActorPool

from evaluation.answers import Cell, grid, is_drawn, write_answer
from evaluation.benchmarks import Benchmark
from jobs.evaluation.config import MethodConfig
from jobs.evaluation.methods import Ask, Steps, dial_of, load_painter, maker_of

CHUNKS_EACH = 4  # of an actor at least, so that the last one does not keep the others waiting


@dataclass(frozen=True)
class Row:
    """A cell and all that is needed to draw it."""

    cell: Cell
    ask: Ask
    maker: str


def rows_of(
    method: MethodConfig, benchmark: Benchmark, seeds: Sequence[int], gammas: Sequence[float], steps: Steps
) -> list[Row]:
    """The whole grid of a method, which draws one subject.

    Raises:
        ValueError: a benchmark whose cases show several; UserError: weights that are not there.
    """
    maker, rows = maker_of(method, steps), []
    for cell, prompt in grid(method.name, benchmark, seeds, dial_of(method, gammas)):
        names = cell.unit.split("+")
        reference = benchmark.subject(names[0]).reference
        if len(names) > 1:
            raise ValueError(
                f"{method.name}: draws one subject, and {benchmark.name} has cases of several ({cell.unit}); score "
                "pictures of those with a manifest"
            )
        rows.append(Row(cell, Ask(prompt, reference, cell.seed, cell.gamma), f"{maker}-{reference.digest[:16]}"))
    return rows


def missing_rows(root: Path, rows: Sequence[Row]) -> list[Row]:
    """Those that are not there, or were drawn by something else."""
    return [row for row in rows if not is_drawn(root, row.cell, row.ask.prompt, row.maker)]


def draw_rows(
    root: Path,
    method: MethodConfig,
    rows: Sequence[Row],
    steps: Steps,
    workers: int,
    gpu: bool,
    on_rows: Callable[[int], object],
) -> list[str]:
    """Draws these rows; a line for each that could not be: it costs itself. A worker that dies is started anew."""
    failed, count = list[str](), max(1, min(workers, len(rows)))
    size = max(1, min(steps.batch, -(-len(rows) // (CHUNKS_EACH * count))))
    chunks = [rows[start : start + size] for start in range(0, len(rows), size)]
    options: Any = {"max_restarts": 3, "max_task_retries": 3, "num_cpus": 1, "num_gpus": 1 if gpu else 0}
    actors: list[Any] = [_Worker.options(**options).remote(str(root), method, steps, gpu) for _ in range(count)]
    for lost in ActorPool(actors).map_unordered(lambda actor, chunk: actor.draw.remote(chunk), chunks):
        failed += lost
        on_rows(size)
    for actor in actors:
        ray.kill(actor)
    return failed


@ray.remote
class _Worker:
    def __init__(self, root: str, method: MethodConfig, steps: Steps, gpu: bool):
        import torch

        from jobs.console import quiet_libraries

        quiet_libraries()
        if not gpu:
            torch.set_num_threads(1)
        self._root = Path(root)
        self._paint = load_painter(method, steps, "cuda" if gpu else "cpu")

    def draw(self, rows: Sequence[Row]) -> list[str]:
        """Draws a chunk and writes each row; returns a line for every row that failed."""
        left = missing_rows(self._root, rows)
        try:
            self._write(left)
            return []
        except Exception:  # one of them: each for itself, to lose that one alone
            return [line for row in left for line in self._alone(row)]

    def _alone(self, row: Row) -> list[str]:
        try:
            self._write([row])
            return []
        except Exception as error:
            return [
                f"{row.cell.file(Path())}: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
            ]

    def _write(self, rows: Sequence[Row]) -> None:
        if not rows:
            return
        for row, image in zip(rows, self._paint([row.ask for row in rows]), strict=True):
            write_answer(self._root, row.cell, image, row.ask.prompt, row.maker)
