"""The queue in front of the drawing thread, with pictures of known length and failures, and a clock of its own."""

import asyncio
import threading
import time
from collections.abc import Callable, Collection, Hashable, Mapping
from dataclasses import dataclass, field

import pytest

from jobs.serving.batching import Batcher, Overloaded, Watch


@dataclass
class Studio:
    """Draws whole numbers, each in `steps(row)` calls; keeps who shared which call, waits while it is closed."""

    steps: Callable[[int], int] = lambda row: 1
    size: Callable[[int], int] = lambda row: 0  # those of one size share a call
    fails: Callable[[Collection[int]], bool] = lambda rows: False  # a call for these rows
    refuses: Collection[int] = ()  # rows that cannot be begun
    blind: bool = False  # has no previews
    calls: list[list[int]] = field(default_factory=list)
    given_up: list[int] = field(default_factory=list)
    now: float = 0.0
    open: threading.Event = field(default_factory=threading.Event)
    entered: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.open.set()

    def batcher(self, max_rows: int = 4, max_waiting: int = 8) -> Batcher[int, str]:
        return Batcher(lambda: Drawing(self), max_rows=max_rows, max_waiting=max_waiting, clock=lambda: self.now)


@dataclass
class Drawing:
    studio: Studio
    rows: dict[Hashable, int] = field(default_factory=dict)
    done: dict[Hashable, int] = field(default_factory=dict)

    @property
    def unet_calls(self) -> int:
        return len({self.studio.size(row) for row in self.rows.values()})

    def add(self, rows: Mapping[Hashable, int]) -> None:
        if set(rows.values()) & set(self.studio.refuses):
            raise ValueError("refused")
        self.rows |= rows

    def remove(self, keys: Collection[Hashable]) -> None:
        self.studio.given_up += [self.rows.pop(key) for key in keys]

    def preview(self, keys: Collection[Hashable]) -> dict[Hashable, str]:
        if self.studio.blind:
            raise ValueError("no preview")
        return {key: f"{self.rows[key]} after {self.done[key]}" for key in keys}

    def step(self) -> dict[Hashable, str]:
        studio, together = self.studio, sorted(self.rows.values())
        studio.calls.append(together)
        studio.now += 1.0
        studio.entered.set()
        assert studio.open.wait(10)
        if studio.fails(together):
            raise ZeroDivisionError("a call failed")
        for key in self.rows:
            self.done[key] = self.done.get(key, 0) + 1
        finished = [key for key, row in self.rows.items() if self.done[key] == studio.steps(row)]
        return {key: f"picture {self.rows.pop(key)}" for key in finished}


def test_rows_that_arrive_together_share_their_calls_and_come_back_in_order():
    studio = Studio(steps=lambda row: row)

    async def scenario():
        queue = studio.batcher()
        return await asyncio.gather(queue.submit([3, 1]), queue.submit([2]))

    assert asyncio.run(scenario()) == [["picture 3", "picture 1"], ["picture 2"]]
    assert studio.calls == [[1, 2, 3], [2, 3], [3]]


def test_who_comes_later_joins_the_next_call_and_waits_for_nobody():
    studio = Studio(steps=lambda row: 50 if row == 50 else 2)

    async def scenario():
        queue = studio.batcher()
        long = asyncio.create_task(queue.submit([50]))
        await asyncio.to_thread(studio.entered.wait, 10)
        quick = await queue.submit([2])
        assert not long.done()
        return quick, await long, queue.counters

    quick, long, counters = asyncio.run(scenario())
    assert (quick, long) == (["picture 2"], ["picture 50"])
    assert [2, 50] in studio.calls
    assert (counters.calls, counters.drawn, counters.images) == (50, 52, 2)


def test_each_size_of_pictures_has_a_call_of_its_own_in_a_step():
    studio = Studio(steps=lambda row: row, size=lambda row: row % 2)

    async def scenario():
        queue = studio.batcher()
        await queue.submit([1, 2, 3])
        return queue.counters

    counters = asyncio.run(scenario())
    assert studio.calls == [[1, 2, 3], [2, 3], [3]]
    assert (counters.calls, counters.drawn) == (2 + 2 + 1, 6)


def test_a_call_never_has_more_rows_than_allowed_and_places_are_filled_at_once():
    studio = Studio(steps=lambda row: row + 1)

    async def scenario():
        queue = studio.batcher(max_rows=2)
        return await asyncio.gather(*(queue.submit([row]) for row in range(4)))

    assert asyncio.run(scenario()) == [[f"picture {row}"] for row in range(4)]
    assert studio.calls == [[0, 1], [1, 2], [2, 3], [2, 3], [3], [3]]


def test_the_event_loop_stays_alive_while_a_call_is_made():
    studio = Studio()
    studio.open.clear()

    async def scenario():
        drawing = asyncio.create_task(studio.batcher().submit([1]))
        while not studio.entered.is_set():
            await asyncio.sleep(0.001)
        waited = not drawing.done()  # this loop runs while the call does not come back
        studio.open.set()
        return waited, await drawing

    waited, pictures = asyncio.run(scenario())
    assert waited
    assert len(pictures) == 1


def test_only_the_request_whose_row_fails_gets_the_error():
    studio = Studio(fails=lambda rows: 13 in rows, steps=lambda row: 3)

    async def scenario():
        queue = studio.batcher()
        jobs = (queue.submit([1]), queue.submit([13]), queue.submit([2]))
        answers = await asyncio.gather(*jobs, return_exceptions=True)
        return answers, await queue.submit([4]), queue.counters

    (first, second, third), later, counters = asyncio.run(scenario())
    assert (first, third, later) == (["picture 1"], ["picture 2"], ["picture 4"])
    assert isinstance(second, ZeroDivisionError)
    assert (counters.images, counters.failed) == (3, 1)


def test_a_row_that_cannot_be_begun_keeps_nobody_from_it():
    studio = Studio(refuses=[13])

    async def scenario():
        queue = studio.batcher()
        return await asyncio.gather(queue.submit([1]), queue.submit([13]), queue.submit([2]), return_exceptions=True)

    first, second, third = asyncio.run(scenario())
    assert (first, third) == (["picture 1"], ["picture 2"])
    assert isinstance(second, ValueError)
    assert studio.calls == [[1, 2]]


def test_a_full_queue_refuses_whole_requests_and_says_when_to_come_back():
    studio = Studio(steps=lambda row: 4)

    async def scenario():
        queue = studio.batcher(max_rows=1, max_waiting=3)
        await queue.submit([9])  # measures: four calls of a second each
        studio.open.clear()
        studio.entered.clear()
        running = asyncio.create_task(queue.submit([0]))
        await asyncio.to_thread(studio.entered.wait, 10)
        waiting = asyncio.create_task(queue.submit([1, 2]))
        await asyncio.sleep(0)
        with pytest.raises(Overloaded) as refused:
            await queue.submit([3, 4])
        fits = asyncio.create_task(queue.submit([5]))
        await asyncio.sleep(0)
        studio.open.set()
        return refused.value, await asyncio.gather(running, waiting, fits), queue.counters.refused

    refused, answers, count = asyncio.run(scenario())
    assert answers == [["picture 0"], ["picture 1", "picture 2"], ["picture 5"]]
    assert (refused.waiting, count) == (2, 1)
    assert refused.retry_after == pytest.approx(3 * 4.0)  # the one being drawn and two that wait


def test_rows_of_a_client_that_left_are_not_begun_or_are_given_up_between_two_calls():
    studio = Studio(steps=lambda row: 5)

    async def scenario():
        queue = studio.batcher(max_rows=2)
        studio.open.clear()
        leaves, stays = asyncio.create_task(queue.submit([0])), asyncio.create_task(queue.submit([1]))
        never, last = asyncio.create_task(queue.submit([2])), asyncio.create_task(queue.submit([3]))
        await asyncio.to_thread(studio.entered.wait, 10)
        leaves.cancel()
        never.cancel()
        await asyncio.sleep(0)
        assert queue.waiting == 1
        studio.open.set()
        return await asyncio.gather(stays, last), queue.counters

    answers, counters = asyncio.run(scenario())
    assert answers == [["picture 1"], ["picture 3"]]
    assert studio.calls[:2] == [[0, 1], [1, 3]]
    assert (studio.given_up, counters.abandoned, counters.images) == ([0], 1, 2)


def test_when_all_clients_leave_nothing_more_is_drawn():
    studio = Studio(steps=lambda row: 1000)

    async def scenario():
        queue = studio.batcher()
        alone = asyncio.create_task(queue.submit([7]))
        await asyncio.to_thread(studio.entered.wait, 10)
        alone.cancel()
        await asyncio.sleep(0.1)
        calls = len(studio.calls)
        await asyncio.sleep(0.1)
        assert len(studio.calls) == calls
        studio.steps = lambda row: 1
        return await queue.submit([8])

    assert asyncio.run(scenario()) == ["picture 8"]
    assert studio.given_up == [7]


def test_a_dead_drawing_loop_is_reported_to_the_health_check():
    async def scenario():
        queue = Studio().batcher()
        await queue.submit([1])
        queue.check()
        await queue.close()
        await asyncio.sleep(0.01)
        with pytest.raises(RuntimeError, match="drawing loop"):
            queue.check()

    asyncio.run(scenario())


def test_previews_are_shown_to_who_asked_between_the_calls_that_were_asked_for():
    studio, seen = Studio(steps=lambda row: row), []

    async def scenario():
        queue = studio.batcher()
        watched = queue.enter([4], watch=Watch({1, 3, 4}, lambda picture: seen.append((picture, len(studio.calls)))))
        return await asyncio.gather(asyncio.gather(*watched), queue.submit([3]))

    assert asyncio.run(scenario()) == [["picture 4"], ["picture 3"]]
    assert seen == [("4 after 1", 1), ("4 after 3", 3)]  # a finished picture needs no preview


def test_a_failed_preview_costs_the_previews_and_not_the_picture():
    studio, seen = Studio(steps=lambda row: 3, blind=True), []

    async def scenario():
        return await asyncio.gather(*studio.batcher().enter([1], watch=Watch({1}, seen.append)))

    assert asyncio.run(scenario()) == ["picture 1"]
    assert seen == []


def test_what_is_late_is_given_up_between_two_calls():
    studio = Studio(steps=lambda row: 1000 if row == 7 else 2)

    async def scenario():
        queue = studio.batcher()
        studio.fails = lambda rows: time.sleep(0.01) or False
        with pytest.raises(TimeoutError):
            await queue.submit([7], seconds=0.2)
        return await queue.submit([8], seconds=10), queue.counters

    picture, counters = asyncio.run(scenario())
    assert (picture, counters.images, counters.abandoned) == (["picture 8"], 1, 1)
    assert studio.given_up == [7]
    assert len(studio.calls) < 100


def test_who_would_wait_past_its_deadline_is_refused_at_once():
    studio = Studio(steps=lambda row: 4)

    async def scenario():
        queue = studio.batcher(max_rows=1)
        await queue.submit([9])  # measures: four calls of a second each
        waiting = [queue.enter([row], seconds=100) for row in range(3)]
        with pytest.raises(Overloaded) as refused:
            queue.enter([3], seconds=11)
        in_time = queue.enter([4], seconds=13)
        for (future,) in [*waiting, in_time]:
            future.cancel()
        return refused.value

    assert asyncio.run(scenario()).retry_after == pytest.approx(4 * 4.0)


def test_the_time_in_the_queue_and_at_the_easel_is_told():
    studio, told = Studio(steps=lambda row: row), []

    async def scenario():
        queue = Batcher(
            lambda: Drawing(studio),
            max_rows=1,
            max_waiting=8,
            clock=lambda: studio.now,
            observe=lambda *it: told.append(it),
        )
        await asyncio.gather(queue.submit([2]), queue.submit([3]))

    asyncio.run(scenario())
    assert told == [("wait", 0.0), ("draw", 2.0), ("wait", 2.0), ("draw", 3.0)]
