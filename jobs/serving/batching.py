"""Requests that arrive together are drawn together: a bounded queue in front of one drawing thread.

Rows of a batch may differ in everything (gate, guidance, steps, seed), so there is one queue and no compatibility key.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Generic, TypeVar

LOGGER = logging.getLogger("ray.serve")
FIRST_GUESS = 1.0  # [s] assumed for a batch before one was measured

Row = TypeVar("Row")
Picture = TypeVar("Picture")
Draw = Callable[[list[Row]], Sequence[Picture]]  # blocking; one picture per row, in order


class Overloaded(Exception):
    """The queue has no room for the request. `retry_after` [s] is when it probably will."""

    def __init__(self, waiting: int, retry_after: float):
        super().__init__(f"{waiting} rows are waiting")
        self.waiting, self.retry_after = waiting, retry_after


@dataclass
class Counters:
    """What a batcher has done since it started; images / batches is the mean batch fill."""

    batches: int = 0
    images: int = 0
    failed: int = 0
    refused: int = 0
    seconds_per_batch: float = field(default=FIRST_GUESS)  # moving average


class Batcher(Generic[Row, Picture]):
    """Collects rows and draws them in batches of at most `max_rows`, one batch at a time, in a thread of its own.

    All methods belong to one event loop, which stays free while a batch is drawn.
    """

    def __init__(self, draw: Draw[Row, Picture], *, max_rows: int, max_waiting: int, wait: float = 0.01):
        """`wait` [s]: how long a batch that could start stays open for rows that arrive at the same moment."""
        self._draw, self._max_rows, self._max_waiting, self._wait = draw, max_rows, max_waiting, wait
        self._waiting: deque[tuple[Row, asyncio.Future[Picture]]] = deque()
        self._arrived = asyncio.Event()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="draw")
        self._worker: asyncio.Task[None] | None = None
        self.counters = Counters()

    @property
    def waiting(self) -> int:
        """Rows that are not drawn yet and whose client is still there."""
        return sum(not future.done() for _, future in self._waiting)

    async def submit(self, rows: Sequence[Row]) -> list[Picture]:
        """The pictures of these rows, all or none.

        Raises:
            Overloaded: before anything is drawn, when the queue has no room for every row.
            Exception: whatever drawing one of these rows raised; rows of other callers are not touched by it.
        """
        waiting = self.waiting
        if waiting + len(rows) > self._max_waiting:
            self.counters.refused += 1
            batches = -(-waiting // self._max_rows) + 1
            raise Overloaded(waiting, batches * self.counters.seconds_per_batch)
        loop = asyncio.get_running_loop()
        futures = [loop.create_future() for _ in rows]
        self._waiting.extend(zip(rows, futures, strict=True))
        self._arrived.set()
        if self._worker is None:
            self._worker = loop.create_task(self._run())
        try:
            return list(await asyncio.gather(*futures))
        finally:
            for future in futures:  # the caller is gone or one row failed: the others need not be drawn
                future.cancel()

    def check(self) -> None:
        """Raises RuntimeError when the batcher has stopped working."""
        if self._worker is not None and self._worker.done():
            raise RuntimeError("the drawing loop has ended; this replica must be replaced")

    async def close(self) -> None:
        """Stops after the batch that is being drawn."""
        if self._worker is not None:
            self._worker.cancel()
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._arrived.wait()
            await asyncio.sleep(self._wait)
            batch = self._take()
            if not batch:
                continue
            started = time.monotonic()
            outcomes = await loop.run_in_executor(self._thread, self._draw_all, [row for row, _ in batch])
            self._count(outcomes, time.monotonic() - started)
            for (_, future), outcome in zip(batch, outcomes, strict=True):
                if future.done():
                    continue
                if isinstance(outcome, Exception):
                    future.set_exception(outcome)
                else:
                    future.set_result(outcome)

    def _take(self) -> list[tuple[Row, asyncio.Future[Picture]]]:
        batch = []
        while self._waiting and len(batch) < self._max_rows:
            row, future = self._waiting.popleft()
            if not future.done():  # done: its client has gone
                batch.append((row, future))
        if not self._waiting:
            self._arrived.clear()
        return batch

    def _draw_all(self, rows: list[Row]) -> list[Picture | Exception]:
        """One outcome per row. When a batch fails every row is tried alone, so that only the culprit pays."""
        try:
            return list(self._draw(rows))
        except Exception as error:
            LOGGER.exception("a batch of %d rows failed", len(rows))
            if len(rows) == 1:
                return [error]
        return [outcome for row in rows for outcome in self._draw_all([row])]

    def _count(self, outcomes: list[Picture | Exception], seconds: float) -> None:
        counters, failed = self.counters, sum(isinstance(outcome, Exception) for outcome in outcomes)
        measured = seconds if counters.batches == 0 else 0.8 * counters.seconds_per_batch + 0.2 * seconds
        counters.batches += 1
        counters.images += len(outcomes) - failed
        counters.failed += failed
        counters.seconds_per_batch = measured
