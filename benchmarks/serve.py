"""The service under load, and beside what one would build instead.

    python -m benchmarks.serve --checkpoint run/checkpoint --rounds 9

Counts are gates, and the exit status tells of them: UNet calls at most 1.15 of the least that the trace needs, one run
of the encoders for each new reference, one answer to each request. Wall times are ratios, medians over interleaved
rounds, to be read and not to be asserted: service against the bare sampler, mixed against equal requests, what HTTP
adds; and a table beside peers.
"""

import argparse
import asyncio
import json
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import httpx
import torch

from benchmarks.load import (
    Asked,
    Outcome,
    Trace,
    arrivals,
    closed_loop,
    equal_trace,
    interleaved,
    least_calls_closed,
    least_calls_open,
    median_ratio,
    mixed_trace,
    open_loop,
)
from flexip.checkpoint import load_checkpoint
from flexip.engine import Engine
from flexip.images import encode_png
from flexip.request import Request
from flexip.sampler import Drawing
from jobs.config import RayConfig
from jobs.serve import ServeConfig, serving

MOST_CALLS = 1.15  # of the least
CLIENTS = (1, 2, 4, 8, 16, 32)
LOADS = (0.5, 0.8, 0.95)  # of the capacity
PATIENCE = 300  # [s] until a peer must answer


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    rows: int  # of one UNet call [images]
    steps: tuple[int, ...]
    per_client: int  # requests
    references: int
    rounds: int

    def trace(self, clients: int, seed: int) -> Trace:
        """Mixed requests for so many clients, of subjects that no other seed has."""
        return mixed_trace(max(clients, 2) * self.per_client, self.steps, self.references, seed)


@dataclass(frozen=True)
class Counts:
    """What the service's counters say of one trace."""

    calls: int
    least: int
    fill: float  # images in a call, of the most there is room for
    encoded: int
    new: int  # references
    lost: int  # requests without their one answer

    @property
    def passed(self) -> bool:
        return self.calls <= MOST_CALLS * self.least and self.encoded == self.new and self.lost == 0

    def line(self, name: str, outcome: Outcome) -> str:
        """For people."""
        p50, p95 = outcome.quantile(0.5), outcome.quantile(0.95)
        return (
            f"{name:18} calls {self.calls:5} of least {self.least:5} = {self.calls / self.least:5.2f}   "
            f"fill {self.fill:4.0%}   encoded {self.encoded} of {self.new}   lost {self.lost}   "
            f"p50 {p50:6.2f} s   p95 {p95:6.2f} s   {'ok' if self.passed else 'NOT OK'}"
        )


def counted(url: str, before: dict[str, Any], trace: Trace, outcome: Outcome, least: int, rows: int) -> Counts:
    """The difference that a trace made."""
    after = httpx.get(f"{url}/healthz", timeout=60).json()
    calls = after["calls"] - before["calls"]
    return Counts(
        calls=calls,
        least=least,
        fill=(after["drawn"] - before["drawn"]) / (calls * rows),
        encoded=after["encoded"] - before["encoded"],
        new=len({asked.reference for asked in trace.requests}),
        lost=len(trace.requests) - (after["images"] - before["images"]) + outcome.failed,
    )


def closed(url: str, plan: Plan, clients: int, seed: int) -> tuple[Counts, Outcome]:
    """A closed loop and its counts."""
    trace, before = plan.trace(clients, seed), httpx.get(f"{url}/healthz", timeout=60).json()
    outcome = asyncio.run(closed_loop(url, trace, clients))
    least = least_calls_closed(trace, clients, plan.rows)
    return counted(url, before, trace, outcome, least, plan.rows), outcome


def opened(url: str, plan: Plan, per_second: float, seconds: Sequence[float], seed: int) -> tuple[Counts, Outcome]:
    """An open loop and its counts; a call for n images takes seconds[0] + n seconds[1]."""
    trace, before = plan.trace(2 * plan.rows, seed), httpx.get(f"{url}/healthz", timeout=60).json()
    outcome = asyncio.run(open_loop(url, trace, per_second, seed))
    times = arrivals(len(trace.requests), per_second, seed)
    least = least_calls_open(trace, times, plan.rows, lambda images: seconds[0] + images * seconds[1])
    return counted(url, before, trace, outcome, least, plan.rows), outcome


def bare(engine: Engine, trace: Trace, rows: int) -> float:
    """Seconds that the sampler needs for the trace, its batch always full, PNG files and all, without any service."""
    waiting, drawing, begin = [*enumerate(trace.requests)][::-1], Drawing(engine), time.perf_counter()
    while waiting or len(drawing):
        room = rows - len(drawing)
        coming = [waiting.pop() for _ in range(min(room, len(waiting)))]
        drawing.add({number: to_request(asked, trace) for number, asked in coming})
        for picture in drawing.step().values():
            encode_png(picture)
    return time.perf_counter() - begin


def to_request(asked: Asked, trace: Trace) -> Request:
    """What the service makes of the body."""
    return Request(
        prompt=asked.prompt,
        reference=trace.references[asked.reference],
        preservation=asked.gate,
        personalization=1 - asked.gate,
        guidance_scale=asked.guidance,
        steps=asked.steps,
        seed=asked.seed,
    )


def call_seconds(engine: Engine, rows: int) -> tuple[float, float]:
    """(a, b) of a + b n, the seconds of a UNet call for n images with guidance, from calls for one and for `rows`."""
    alone, full = (bare(engine, equal_trace(n, 10, n, n), n) / 10 for n in (1, rows))
    each = max(0.0, (full - alone) / max(1, rows - 1))
    return alone - each, each


def ratios(url: str, engine: Engine, plan: Plan) -> dict[str, float]:
    """Wall ratios as medians over interleaved rounds."""
    clients, mean = 2 * plan.rows, round(sum(plan.steps) / len(plan.steps))

    def mixed(number: int) -> Trace:
        return plan.trace(clients, 1000 + number)

    def alone(number: int) -> Trace:
        return equal_trace(1, mean, 1, 3000 + number)

    def work(trace: Trace) -> float:
        return trace.row_steps / asyncio.run(closed_loop(url, trace, clients)).seconds

    service, sampler, equal, answered, drawn = interleaved(
        plan.rounds,
        lambda number: work(mixed(number)),
        lambda number: mixed(number).row_steps / bare(engine, mixed(number), plan.rows),
        lambda number: work(equal_trace(clients * plan.per_client, mean, plan.references, 2000 + number)),
        lambda number: asyncio.run(closed_loop(url, alone(number), 1)).seconds,
        lambda number: bare(engine, alone(number), 1),
    )
    return {
        "service / bare sampler": median_ratio(service, sampler),
        "mixed / equal requests": median_ratio(service, equal),
        "added by HTTP [ms]": 1000 * median(a - b for a, b in zip(answered, drawn, strict=True)),
    }


def compare(urls: dict[str, str], plan: Plan) -> dict[str, dict[str, float]]:
    """Images/s, p50 and p95 of each service under the same mixed load of as many clients as there are rows."""
    seen: dict[str, list[Outcome]] = {name: [] for name in urls}

    def measure(name: str, number: int) -> float:
        outcome = asyncio.run(closed_loop(urls[name], plan.trace(plan.rows, 4000 + number), plan.rows))
        assert outcome.failed == outcome.refused == 0, f"{name}: {outcome}"
        seen[name].append(outcome)
        return outcome.images_per_second

    interleaved(plan.rounds, *(lambda number, name=name: measure(name, number) for name in urls))
    return {
        name: {
            "images/s": median(outcome.images_per_second for outcome in outcomes),
            "p50 [s]": median(outcome.quantile(0.5) for outcome in outcomes),
            "p95 [s]": median(outcome.quantile(0.95) for outcome in outcomes),
        }
        for name, outcomes in seen.items()
    }


@contextmanager
def peer(name: str, checkpoint: Path, rows: int) -> Iterator[str]:
    """A peer in a process of its own; gives its URL."""
    port = free_port()
    words = [sys.executable, "-m", "benchmarks.peers", name, "--checkpoint", str(checkpoint)]
    with tempfile.TemporaryFile() as log:
        command = [*words, "--port", str(port), "--rows", str(rows)]
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        try:
            end = time.monotonic() + PATIENCE
            while not _listens(f"http://127.0.0.1:{port}"):
                if process.poll() is not None or time.monotonic() > end:
                    log.seek(0)
                    sys.exit(f"the peer {name} did not start:\n{log.read().decode()}")
                time.sleep(0.5)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(60)


def _listens(url: str) -> bool:
    try:
        return httpx.get(f"{url}/openapi.json", timeout=30).status_code == 200
    except httpx.HTTPError:
        return False


def free_port() -> int:
    """A TCP port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def run(checkpoint: Path, plan: Plan) -> dict[str, Any]:
    """Everything, printed as it is measured."""
    torch.set_num_threads(1)
    engine = load_checkpoint(checkpoint)
    config = ServeConfig(
        checkpoint=str(checkpoint),
        port=free_port(),
        batch_rows=plan.rows,
        queue_rows=max(32, 4 * plan.rows),
        ray=RayConfig(num_cpus=2),
    )
    result: dict[str, Any] = {"gates": {}}
    with ExitStack() as stack:
        url = stack.enter_context(serving(config))
        closed(url, plan, 2, seed=1)  # warms up
        for clients in CLIENTS:
            counts, outcome = closed(url, plan, clients, seed=100 + clients)
            _tell(result, f"{clients} clients", counts, outcome)
        capacity = outcome.images_per_second
        seconds = call_seconds(engine, plan.rows)
        for part in LOADS:
            counts, outcome = opened(url, plan, part * capacity, seconds, seed=200 + round(100 * part))
            _tell(result, f"{part:.0%} of capacity", counts, outcome)
        result["ratios"] = ratios(url, engine, plan)
        peers = {name: stack.enter_context(peer(name, checkpoint, plan.rows)) for name in ("pipeline", "batch")}
        result["services"] = compare({"FlexIP": url, **peers}, plan)
    for name, value in result["ratios"].items():
        print(f"{name:26} {value:8.3f}   median of {plan.rounds}")
    for name, row in result["services"].items():
        print(f"{name:26} " + "   ".join(f"{what} {value:8.3f}" for what, value in row.items()))
    return result


def _tell(result: dict[str, Any], name: str, counts: Counts, outcome: Outcome) -> None:
    result["gates"][name] = vars(counts) | {"passed": counts.passed, "images/s": outcome.images_per_second}
    print(counts.line(name, outcome), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=9, help="of every wall measurement")
    parser.add_argument("--rows", type=int, default=8, help="most images of one UNet call")
    parser.add_argument("--steps", type=int, nargs="+", default=[10, 15, 20, 30], help="that requests have")
    parser.add_argument("--per-client", type=int, default=4, help="requests of each client")
    parser.add_argument("--references", type=int, default=4, help="new subjects of each trace")
    parser.add_argument("--output", type=Path, help="file for all numbers, as JSON")
    options = parser.parse_args()
    plan = Plan(options.rows, tuple(options.steps), options.per_client, options.references, options.rounds)
    result = run(options.checkpoint, plan)
    if options.output:
        options.output.write_text(json.dumps(result, indent=2))
    sys.exit(0 if all(gate["passed"] for gate in result["gates"].values()) else 1)


if __name__ == "__main__":
    main()
