"""Requests share UNet calls from the step on at which they arrive: a bounded queue in front of one drawing thread.

Rows of a batch may differ in everything (gate, guidance, steps, seed), so there is one queue and no compatibility key;
pictures of several sizes are drawn together too, in one call for each size.
"""

import asyncio
import itertools
import time
from collections import deque
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, Protocol, TypeVar

from jobs.serving.logs import log_error

FIRST_GUESS = 1.0  # [s] assumed for an image before one was measured

Row = TypeVar("Row")
Picture = TypeVar("Picture")
RowIn = TypeVar("RowIn", contravariant=True)
PictureOut = TypeVar("PictureOut", covariant=True)
Stage = Literal["wait", "draw"]


class Drawing(Protocol[RowIn, PictureOut]):
    """Pictures on their way. All methods block and are called from one thread."""

    @property
    def unet_calls(self) -> int:
        """UNet calls of the next step."""
        ...

    def add(self, rows: Mapping[Any, RowIn], /) -> None:
        """Begins these; raises when one of them cannot be begun, and then begins none."""
        ...

    def remove(self, keys: Collection[Hashable], /) -> None:
        """Gives these up."""
        ...

    def step(self) -> Mapping[Any, PictureOut]:
        """One step of all; the pictures that it finished."""
        ...

    def preview(self, keys: Collection[Hashable], /) -> Mapping[Any, PictureOut]:
        """What unfinished pictures look like so far."""
        ...


class Overloaded(Exception):
    """The queue has no room for the request, or it is too long for it. `retry_after` [s]: when it probably has room."""

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


@dataclass
class Ticket(Generic[Row, Picture]):
    """One row's way through the queue and the calls."""

    row: Row
    future: "asyncio.Future[Picture]"
    since: float  # it waits, then it is being drawn [s]
    watch: "Watch[Picture] | None" = None
    calls: int = 0


@dataclass(frozen=True)
class Watch(Generic[Picture]):
    """Who wants to see a picture while it is being drawn."""

    calls: Collection[int]  # after how many of its calls
    show: Callable[[Picture], object]


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
        observe: Callable[[Stage, float], object] = lambda stage, seconds: None,
    ):
        """`new_drawing` gives an empty one: at the start, and after a UNet call that failed.

        `observe` is told how long each row waited and was drawn [s].
        """
        self._new_drawing, self._max_waiting, self._clock, self._observe = new_drawing, max_waiting, clock, observe
        self.max_rows = max_rows
        self._drawing = new_drawing()
        self._waiting: deque[Ticket[Row, Picture]] = deque()
        self._running: dict[Hashable, Ticket[Row, Picture]] = {}
        self._numbers = itertools.count()
        self._arrived = asyncio.Event()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="draw")
        self._worker: asyncio.Task[None] | None = None
        self.counters = Counters()

    @property
    def waiting(self) -> int:
        """Rows that were not begun yet and whose client is still there."""
        return sum(not ticket.future.done() for ticket in self._waiting)

    @property
    def running(self) -> int:
        """Rows that are being drawn."""
        return len(self._running)

    async def submit(self, rows: Sequence[Row], seconds: float | None = None) -> list[Picture]:
        """The pictures of these rows, all or none, within `seconds`.

        Raises:
            Overloaded: before anything is drawn, when the queue has no room for every row, or not in time.
            TimeoutError: the pictures were not ready in time.
            Exception: whatever drawing one of these rows raised; rows of other callers are not touched by it.
        """
        futures = self.enter(rows, seconds)
        try:
            return list(await asyncio.gather(*futures))
        finally:
            for future in futures:  # the caller is gone or one row failed: the others need not be drawn
                future.cancel()

    def enter(
        self, rows: Sequence[Row], seconds: float | None = None, watch: Watch[Picture] | None = None
    ) -> list["asyncio.Future[Picture]"]:
        """The pictures of these rows to come, each of which may be cancelled. Raises as `submit`."""
        self._admit(len(rows), seconds)
        loop = asyncio.get_running_loop()
        futures = [loop.create_future() for _ in rows]
        for future in futures:
            if seconds is not None:
                expiry = loop.call_later(seconds, _expire, future)
                future.add_done_callback(lambda _, expiry=expiry: expiry.cancel())
        now = self._clock()
        self._waiting.extend(Ticket(row, future, now, watch) for row, future in zip(rows, futures, strict=True))
        self._arrived.set()
        if self._worker is None:
            self._worker = loop.create_task(self._run())
        return futures

    def check(self) -> None:
        """Raises RuntimeError when the batcher has stopped working."""
        if self._worker is not None and self._worker.done():
            raise RuntimeError("the drawing loop has ended; this replica must be replaced")

    async def close(self) -> None:
        """Stops after the UNet call that is being made."""
        if self._worker is not None:
            self._worker.cancel()
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _admit(self, rows: int, seconds: float | None) -> None:
        waiting = self.waiting
        rounds = waiting / self.max_rows
        late = seconds is not None and rounds * self.counters.seconds_per_image > seconds
        if waiting + rows > self._max_waiting or late:
            self.counters.refused += 1
            raise Overloaded(waiting, (1 + rounds) * self.counters.seconds_per_image)

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            if not self._running:
                await self._arrived.wait()
            gone = [key for key, ticket in self._running.items() if ticket.future.done()]
            coming = self._take(self.max_rows - len(self._running) + len(gone))
            outcomes, previews = await loop.run_in_executor(self._thread, self._advance, coming, gone)
            for key in gone:
                del self._running[key]
                self.counters.abandoned += 1
            for key, picture in previews.items():
                self._show(key, picture)
            for key, outcome in outcomes.items():
                self._tell(key, outcome)

    def _take(self, room: int) -> dict[Hashable, Row]:
        """Rows that now begin; those whose client has gone never do."""
        coming: dict[Hashable, Row] = {}
        while self._waiting and len(coming) < room:
            ticket = self._waiting.popleft()
            if not ticket.future.done():
                key, now = next(self._numbers), self._clock()
                self._observe("wait", now - ticket.since)
                ticket.since = now
                coming[key], self._running[key] = ticket.row, ticket
        if not self._waiting:
            self._arrived.clear()
        return coming

    def _advance(
        self, coming: Mapping[Hashable, Row], gone: Collection[Hashable]
    ) -> tuple[Mapping[Hashable, Picture | Exception], Mapping[Hashable, Picture]]:
        """In the thread: some leave, some join, all do one step. What came to its end, failures too, and previews."""
        self._drawing.remove(gone)
        outcomes = self._begin(coming)
        running = {key: ticket for key, ticket in self._running.items() if key not in gone and key not in outcomes}
        if not running:
            return outcomes, {}
        self.counters.calls += self._drawing.unet_calls
        self.counters.drawn += len(running)
        try:
            finished = self._drawing.step()
            return {**outcomes, **finished}, self._previews(running, finished)
        except Exception as error:  # of whatever kind: below every row gets its own picture or its own error
            log_error(f"a UNet call of {len(running)} images failed; each is drawn alone", error)
        self._drawing = self._new_drawing()
        return outcomes | {key: self._alone(key, ticket.row) for key, ticket in running.items()}, {}

    def _previews(
        self, running: Mapping[Hashable, Ticket[Row, Picture]], finished: Collection[Hashable]
    ) -> Mapping[Hashable, Picture]:
        for ticket in running.values():
            ticket.calls += 1
        wanted = [key for key, t in running.items() if key not in finished and t.watch and t.calls in t.watch.calls]
        return self._drawing.preview(wanted) if wanted else {}

    def _begin(self, coming: Mapping[Hashable, Row]) -> dict[Hashable, Picture | Exception]:
        """The errors of those that cannot be begun."""
        try:
            if coming:
                self._drawing.add(coming)
        except Exception as error:
            if len(coming) == 1:
                log_error("a request could not be begun", error)
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

    def _show(self, key: Hashable, picture: Picture) -> None:
        ticket = self._running.get(key)
        if ticket and ticket.watch and not ticket.future.done():
            ticket.watch.show(picture)

    def _tell(self, key: Hashable, outcome: Picture | Exception) -> None:
        counters, ticket = self.counters, self._running.pop(key)
        seconds = self._clock() - ticket.since
        if isinstance(outcome, Exception):
            counters.failed += 1
        else:
            measured = seconds if counters.images == 0 else 0.8 * counters.seconds_per_image + 0.2 * seconds
            counters.seconds_per_image = measured
            counters.images += 1
            self._observe("draw", seconds)
        if ticket.future.done():
            return
        if isinstance(outcome, Exception):
            ticket.future.set_exception(outcome)
        else:
            ticket.future.set_result(outcome)


def _expire(future: "asyncio.Future[Any]") -> None:
    if not future.done():
        future.set_exception(TimeoutError("not ready in time"))
