"""Requests share UNet calls from the step on at which they arrive: a bounded queue in front of one drawing thread.

Rows of a batch may differ in everything (gate, guidance, steps, seed), so there is one queue and no compatibility key.
"""

import asyncio
import itertools
import logging
import time
from collections import deque
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

LOGGER = logging.getLogger("ray.serve")
FIRST_GUESS = 1.0  # [s] assumed for an image before one was measured

Row = TypeVar("Row")
Picture = TypeVar("Picture")
RowIn = TypeVar("RowIn", contravariant=True)
PictureOut = TypeVar("PictureOut", covariant=True)
Ticket = tuple[Row, "asyncio.Future[Picture]"]


class Drawing(Protocol[RowIn, PictureOut]):
    """Pictures on their way. All methods block and are called from one thread."""

    def add(self, rows: Mapping[Any, RowIn], /) -> None:
        """Begins these; raises when one of them cannot be begun, and then begins none."""
        ...

    def remove(self, keys: Collection[Hashable], /) -> None:
        """Gives these up."""
        ...

    def step(self) -> Mapping[Any, PictureOut]:
        """One UNet call for all; the pictures that it finished."""
        ...


class Overloaded(Exception):
    """The queue has no room for the request. `retry_after` [s] is when it probably will."""

    def __init__(self, waiting: int, retry_after: float):
        super().__init__(f"{waiting} rows are waiting")
        self.waiting, self.retry_after = waiting, retry_after


@dataclass
class Counters:
    """What a batcher has done since it started; drawn / calls is the mean number of images in a UNet call."""

    calls: int = 0
    drawn: int = 0  # images in all calls together
    images: int = 0
    failed: int = 0
    refused: int = 0
    abandoned: int = 0  # given up in the middle, because nobody waited any more
    seconds_per_image: float = field(default=FIRST_GUESS)  # from its first call to its last, moving average


class Batcher(Generic[Row, Picture]):
    """Draws at most `max_rows` images together, in a thread of its own; they come and go between UNet calls.

    All methods belong to one event loop, which stays free while the thread draws.
    """

    def __init__(
        self,
        new_drawing: Callable[[], Drawing[Row, Picture]],
        *,
        max_rows: int,
        max_waiting: int,
        clock: Callable[[], float] = time.monotonic,
    ):
        """`new_drawing` gives an empty one: at the start, and after a UNet call that failed."""
        self._new_drawing, self._max_rows, self._max_waiting, self._clock = new_drawing, max_rows, max_waiting, clock
        self._drawing = new_drawing()
        self._waiting: deque[Ticket[Row, Picture]] = deque()
        self._running: dict[Hashable, Ticket[Row, Picture]] = {}
        self._begun: dict[Hashable, float] = {}
        self._numbers = itertools.count()
        self._arrived = asyncio.Event()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="draw")
        self._worker: asyncio.Task[None] | None = None
        self.counters = Counters()

    @property
    def waiting(self) -> int:
        """Rows that were not begun yet and whose client is still there."""
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
            rounds = 1 + waiting / self._max_rows
            raise Overloaded(waiting, rounds * self.counters.seconds_per_image)
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
        """Stops after the UNet call that is being made."""
        if self._worker is not None:
            self._worker.cancel()
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            if not self._running:
                await self._arrived.wait()
            gone = [key for key, (_, future) in self._running.items() if future.done()]
            coming = self._take(self._max_rows - len(self._running) + len(gone))
            outcomes = await loop.run_in_executor(self._thread, self._advance, coming, gone)
            for key in gone:
                self._end(key)
                self.counters.abandoned += 1
            for key, outcome in outcomes.items():
                self._tell(key, outcome)

    def _take(self, room: int) -> dict[Hashable, Row]:
        """Rows that now begin; those whose client has gone never do."""
        coming: dict[Hashable, Row] = {}
        while self._waiting and len(coming) < room:
            row, future = self._waiting.popleft()
            if not future.done():
                key = next(self._numbers)
                coming[key], self._running[key], self._begun[key] = row, (row, future), self._clock()
        if not self._waiting:
            self._arrived.clear()
        return coming

    def _advance(
        self, coming: Mapping[Hashable, Row], gone: Collection[Hashable]
    ) -> dict[Hashable, Picture | Exception]:
        """In the thread: some leave, some join, one UNet call. What failed is among the outcomes."""
        self._drawing.remove(gone)
        outcomes = self._begin(coming)
        running = {key: row for key, (row, _) in self._running.items() if key not in gone and key not in outcomes}
        if not running:
            return outcomes
        self.counters.calls += 1
        self.counters.drawn += len(running)
        try:
            return {**outcomes, **self._drawing.step()}
        except Exception:  # of whatever kind: it is logged, and below every row gets its own picture or its own error
            LOGGER.exception("a UNet call of %d images failed; each is drawn alone", len(running))
        self._drawing = self._new_drawing()
        return outcomes | {key: self._alone(key, row) for key, row in running.items()}

    def _begin(self, coming: Mapping[Hashable, Row]) -> dict[Hashable, Picture | Exception]:
        """The errors of those that cannot be begun."""
        try:
            if coming:
                self._drawing.add(coming)
        except Exception as error:
            if len(coming) == 1:
                LOGGER.exception("a request could not be begun")
                return dict.fromkeys(coming, error)
            return {k: error for key, row in coming.items() for k, error in self._begin({key: row}).items()}
        return {}

    def _alone(self, key: Hashable, row: Row) -> Picture | Exception:
        """Drawn from its first step to its last in no company, so that only the culprit pays."""
        try:
            drawing = self._new_drawing()
            drawing.add({key: row})
            while not (finished := drawing.step()):
                pass
            return finished[key]
        except Exception as error:
            return error

    def _tell(self, key: Hashable, outcome: Picture | Exception) -> None:
        counters, (_, future), seconds = self.counters, self._running[key], self._end(key)
        if isinstance(outcome, Exception):
            counters.failed += 1
        else:
            measured = seconds if counters.images == 0 else 0.8 * counters.seconds_per_image + 0.2 * seconds
            counters.seconds_per_image = measured
            counters.images += 1
        if future.done():
            return
        if isinstance(outcome, Exception):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)

    def _end(self, key: Hashable) -> float:
        """Forgets it; how long it took [s]."""
        del self._running[key]
        return self._clock() - self._begun.pop(key)
