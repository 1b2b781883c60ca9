"""Load for an image service: a fixed trace of mixed requests, clients that send it, the least UNet calls it needs."""

import asyncio
import base64
import math
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import httpx
import numpy as np

from flexip.images import Rgb, encode_png
from flexip.pocket.identity import identity
from flexip.pocket.world import place, render

ROUTE = "/v1/images/generations"
PROMPTS = ("a happy creature in the snow", "a sad creature on a beach", "a sketch of a creature", "a creature jumping")
GUIDANCE = (1.0, 2.0, 5.0)
SIDE = 64  # [px] of references


@dataclass(frozen=True)
class Asked:
    """One request of a trace."""

    prompt: str
    reference: int  # index into the trace's references
    gate: float
    guidance: float
    steps: int
    seed: int

    @property
    def rows(self) -> int:
        """UNet rows that it has in every call."""
        return 2 if self.guidance > 1 else 1


@dataclass(frozen=True)
class Trace:
    """Requests in their order, and the pictures of the subjects that they name."""

    requests: tuple[Asked, ...]
    references: tuple[Rgb, ...]

    def body(self, asked: Asked) -> dict[str, Any]:
        """Of the HTTP request."""
        return {
            "prompt": asked.prompt,
            "guidance_scale": asked.guidance,
            "num_inference_steps": asked.steps,
            "seed": asked.seed,
            "cut_out": False,
            "subjects": [{"image": _base64(self.references[asked.reference]), "gate": asked.gate}],
        }

    @property
    def row_steps(self) -> int:
        """UNet rows of all steps of all requests: the work."""
        return sum(asked.rows * asked.steps for asked in self.requests)


def mixed_trace(count: int, steps: Sequence[int], references: int, seed: int) -> Trace:
    """The same for the same arguments: gates, guidance, steps and subjects in any mixture."""
    rng = np.random.default_rng(seed)
    requests = tuple(
        Asked(
            prompt=str(rng.choice(PROMPTS)),
            reference=i % references,
            gate=float(rng.integers(0, 11)) / 10,
            guidance=float(rng.choice(GUIDANCE)),
            steps=int(rng.choice(steps)),
            seed=int(rng.integers(2**31)),
        )
        for i in range(count)
    )
    return Trace(requests, subjects(references, rng))


def equal_trace(count: int, steps: int, references: int, seed: int) -> Trace:
    """As `mixed_trace`, but all requests have one gate, one guidance and as many steps."""
    rng = np.random.default_rng(seed)
    requests = tuple(
        Asked(PROMPTS[0], i % references, 0.5, GUIDANCE[-1], steps, int(rng.integers(2**31))) for i in range(count)
    )
    return Trace(requests, subjects(references, rng))


def subjects(count: int, rng: np.random.Generator) -> tuple[Rgb, ...]:
    """Pictures of so many creatures; another generator gives other pictures."""
    first = int(rng.integers(10**6))
    return tuple(render(place([identity("test", first + k)], rng), SIDE).image for k in range(count))


def _base64(picture: Rgb) -> str:
    return base64.b64encode(encode_png(picture)).decode()


@dataclass
class Outcome:
    """What came back."""

    seconds: float  # from the first request to the last answer
    latencies: list[float] = field(default_factory=list)  # of images that came [s]
    refused: int = 0  # 429
    failed: int = 0  # any other status, or none

    @property
    def images_per_second(self) -> float:
        return len(self.latencies) / self.seconds

    def quantile(self, part: float) -> float:
        """Of the latencies [s]."""
        return float(np.quantile(self.latencies, part)) if self.latencies else math.nan


Send = Callable[[Asked], Awaitable[None]]


async def closed_loop(url: str, trace: Trace, clients: int) -> Outcome:
    """Each client sends its share of the trace, every request after the answer to the one before."""

    async def client(send: Send, number: int) -> None:
        for asked in trace.requests[number::clients]:
            await send(asked)

    return await _driven(url, trace, lambda send: [client(send, number) for number in range(clients)])


async def open_loop(url: str, trace: Trace, per_second: float, seed: int) -> Outcome:
    """Requests arrive at random (Poisson) whatever the answers do."""
    times = arrivals(len(trace.requests), per_second, seed)

    async def client(send: Send, asked: Asked, moment: float) -> None:
        await asyncio.sleep(moment)
        await send(asked)

    return await _driven(url, trace, lambda send: [client(send, *it) for it in zip(trace.requests, times, strict=True)])


def arrivals(count: int, per_second: float, seed: int) -> list[float]:
    """Moments [s] of a Poisson process, the same for the same arguments; the first at 0."""
    gaps = np.random.default_rng(seed).exponential(1 / per_second, count)
    return np.cumsum(np.concatenate([[0.0], gaps[1:]])).tolist()


async def _driven(url: str, trace: Trace, clients: Callable[[Send], list[Any]]) -> Outcome:
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    async with httpx.AsyncClient(base_url=url, timeout=600, limits=limits) as http:
        bodies = {asked: trace.body(asked) for asked in trace.requests}
        outcome, begin = Outcome(0.0), time.perf_counter()

        async def send(asked: Asked) -> None:
            sent = time.perf_counter()
            try:
                answer = await http.post(ROUTE, json=bodies[asked])
                if answer.status_code == 200:
                    assert len(answer.json()["data"]) == 1
                    outcome.latencies.append(time.perf_counter() - sent)
                elif answer.status_code == 429:
                    outcome.refused += 1
                else:
                    outcome.failed += 1
            except httpx.HTTPError:
                outcome.failed += 1

        await asyncio.gather(*clients(send))
        outcome.seconds = time.perf_counter() - begin
    return outcome


def least_calls_closed(trace: Trace, clients: int, max_rows: int) -> int:
    """UNet calls of a batcher that loses no time: an answer's client sends its next request within the same call.

    Those that find no place wait in the order in which they came.
    """
    shares = [[asked.steps for asked in trace.requests[n::clients]][::-1] for n in range(clients)]
    waiting = [share for share in shares if share]
    running: list[tuple[int, list[int]]] = []  # steps that are left, and the client's requests to come
    calls = 0
    while waiting or running:
        while waiting and len(running) < max_rows:
            share = waiting.pop(0)
            running.append((share.pop(), share))
        calls += 1
        advanced = [(left - 1, share) for left, share in running]
        waiting += [share for left, share in advanced if left == 0 and share]
        running = [(left, share) for left, share in advanced if left > 0]
    return calls


def least_calls_open(trace: Trace, times: Sequence[float], max_rows: int, seconds: Callable[[int], float]) -> int:
    """The same for requests that arrive at `times`; a call for n images takes `seconds(n)`."""
    coming = [*zip(times, (asked.steps for asked in trace.requests), strict=True)][::-1]
    running: list[int] = []
    calls, now = 0, 0.0
    while coming or running:
        if not running:
            now = max(now, coming[-1][0])
        while coming and coming[-1][0] <= now and len(running) < max_rows:
            running.append(coming.pop()[1])
        calls, now = calls + 1, now + seconds(len(running))
        running = [left - 1 for left in running if left > 1]
    return calls


def interleaved(rounds: int, *measure: Callable[[int], float]) -> list[list[float]]:
    """Each measurement once a round, in turns, so that a slower minute of the machine meets all of them."""
    table = [[one(number) for one in measure] for number in range(rounds)]
    return [list(column) for column in zip(*table, strict=True)]


def median_ratio(numerators: Sequence[float], denominators: Sequence[float]) -> float:
    """Of the pairs of one round each."""
    return median(a / b for a, b in zip(numerators, denominators, strict=True))
