"""Wall times that can be compared: all cases in turn, round by round, so that a slow minute hits them alike."""

import statistics
import time
from collections.abc import Callable, Mapping

import torch


def interleaved(cases: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of every case in every round, after one round that does not count."""
    times: dict[str, list[float]] = {name: [] for name in cases}
    for number in range(rounds + 1):
        for name, work in cases.items():
            began = time.perf_counter()
            work()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if number:
                times[name].append(time.perf_counter() - began)
    return times


def ratio(longer: list[float], shorter: list[float]) -> str:
    """Of the medians, with the quartiles of the pairs, as text."""
    pairs = [a / b for a, b in zip(longer, shorter, strict=True)]
    median = statistics.median(longer) / statistics.median(shorter)
    low, _, high = statistics.quantiles(pairs, n=4) if len(pairs) > 1 else (pairs[0],) * 3
    return f"{median:.2f} ({low:.2f} to {high:.2f})"
