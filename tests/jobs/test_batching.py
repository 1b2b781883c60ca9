"""The queue in front of the drawing thread, with drawing replaced by functions whose order and failures are known."""

import asyncio
import threading
import time
from collections.abc import Sequence

import pytest

from jobs.serving.batching import Batcher, Overloaded


def batcher(draw, max_rows: int = 4, max_waiting: int = 8) -> Batcher[int, str]:
    return Batcher(draw, max_rows=max_rows, max_waiting=max_waiting, wait=0.02)


class Gate:
    """Drawing that records its batches and waits until it is opened."""

    def __init__(self):
        self.batches: list[list[int]] = []
        self.open = threading.Event()
        self.entered = threading.Event()

    def __call__(self, rows: Sequence[int]) -> list[str]:
        self.batches.append(list(rows))
        self.entered.set()
        assert self.open.wait(10)
        return [f"picture {row}" for row in rows]


def test_rows_that_arrive_together_share_one_call_and_come_back_in_order():
    gate = Gate()
    gate.open.set()

    async def scenario():
        queue = batcher(gate)
        return await asyncio.gather(queue.submit([1, 2]), queue.submit([3]))

    assert asyncio.run(scenario()) == [["picture 1", "picture 2"], ["picture 3"]]
    assert gate.batches == [[1, 2, 3]]


def test_a_batch_never_exceeds_its_rows_and_the_rest_follows():
    gate = Gate()
    gate.open.set()

    async def scenario():
        queue = batcher(gate, max_rows=2)
        answers = await asyncio.gather(*(queue.submit([row]) for row in range(5)))
        return answers, queue.counters

    answers, counters = asyncio.run(scenario())
    assert answers == [[f"picture {row}"] for row in range(5)]
    assert gate.batches == [[0, 1], [2, 3], [4]]
    assert (counters.batches, counters.images) == (3, 5)


def test_the_event_loop_stays_alive_while_a_batch_is_drawn():
    async def scenario():
        queue = batcher(lambda rows: [time.sleep(0.5) or "slow" for _ in rows])
        drawing, ticks = asyncio.create_task(queue.submit([1])), 0
        while not drawing.done():
            await asyncio.sleep(0.01)
            ticks += 1
        return ticks

    assert asyncio.run(scenario()) > 10


def test_only_the_request_whose_row_fails_gets_the_error():
    def draw(rows: Sequence[int]) -> list[str]:
        if 13 in rows:
            raise ZeroDivisionError("thirteen")
        return [f"picture {row}" for row in rows]

    async def scenario():
        queue = batcher(draw)
        jobs = (queue.submit([1]), queue.submit([13]), queue.submit([2]))
        return await asyncio.gather(*jobs, return_exceptions=True), queue.counters

    (first, second, third), counters = asyncio.run(scenario())
    assert (first, third) == (["picture 1"], ["picture 2"])
    assert isinstance(second, ZeroDivisionError)
    assert (counters.images, counters.failed) == (2, 1)


def test_a_full_queue_refuses_whole_requests_and_says_when_to_come_back():
    gate = Gate()

    async def scenario():
        queue = batcher(gate, max_rows=1, max_waiting=3)
        running = asyncio.create_task(queue.submit([0]))
        await asyncio.to_thread(gate.entered.wait, 10)
        waiting = asyncio.create_task(queue.submit([1, 2]))
        await asyncio.sleep(0)
        with pytest.raises(Overloaded) as refused:
            await queue.submit([3, 4])
        fits = asyncio.create_task(queue.submit([5]))
        await asyncio.sleep(0)
        gate.open.set()
        return refused.value, await asyncio.gather(running, waiting, fits), queue.counters.refused

    refused, answers, count = asyncio.run(scenario())
    assert answers == [["picture 0"], ["picture 1", "picture 2"], ["picture 5"]]
    assert (refused.waiting, count) == (2, 1)
    assert refused.retry_after > 0


def test_rows_of_a_client_that_left_are_not_drawn():
    gate = Gate()

    async def scenario():
        queue = batcher(gate, max_rows=1)
        running = asyncio.create_task(queue.submit([0]))
        await asyncio.to_thread(gate.entered.wait, 10)
        gone, stays = asyncio.create_task(queue.submit([1])), asyncio.create_task(queue.submit([2]))
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.sleep(0)
        assert queue.waiting == 1
        gate.open.set()
        await asyncio.gather(running, stays)

    asyncio.run(scenario())
    assert gate.batches == [[0], [2]]


def test_a_dead_drawing_loop_is_reported_to_the_health_check():
    gate = Gate()
    gate.open.set()

    async def scenario():
        queue = batcher(gate)
        await queue.submit([1])
        queue.check()
        await queue.close()
        await asyncio.sleep(0.01)
        with pytest.raises(RuntimeError, match="drawing loop"):
            queue.check()

    asyncio.run(scenario())
