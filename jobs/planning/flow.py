"""How fast a chain of queues runs, in one formula. `jobs/planning/simulation.py` runs the same chain event by event.

A chain is a row of stages. A stage has workers, each busy with one item at a time, which takes a core for a while, then
a GPU for a while. A node that fails loses what its workers were busy with: these items begin anew at the first stage.
In the long run the slowest limit decides: the workers of a stage, all cores, or all GPUs.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

CORES, GPUS = "cores", "GPUs"


@dataclass(frozen=True)
class Stage:
    """What one item needs of a stage."""

    name: str
    workers: int
    cpu_s: float  # of one core
    gpu_s: float = 0.0  # of one GPU

    @property
    def seconds(self) -> float:
        """That a worker is busy with an item."""
        return self.cpu_s + self.gpu_s

    def __post_init__(self):
        if self.workers < 1:
            raise ValueError(f"{self.name}: workers = {self.workers}; at least 1 is needed")
        if min(self.cpu_s, self.gpu_s) < 0 or not 0 < self.seconds < math.inf:
            raise ValueError(f"{self.name}: {self.seconds} s an item; a stage takes a time above 0")


@dataclass(frozen=True)
class Cluster:
    """Where a chain runs. Its cores, GPUs and workers are spread evenly over its nodes."""

    cores: int
    gpus: int = 0
    nodes: int = 1
    mtbf_s: float = math.inf  # mean time between two failures of one node, while it is up
    repair_s: float = 0.0  # until it, or another in its place, is up again

    @property
    def availability(self) -> float:
        """Part of the time that a node is up."""
        return 1.0 if math.isinf(self.mtbf_s) else self.mtbf_s / (self.mtbf_s + self.repair_s)


def redone(stages: Sequence[Stage], cluster: Cluster) -> list[float]:
    """By stage: work per finished item, of the work without failures; 1 where nothing fails.

    A node fails during a service of s seconds with probability 1 - p, p = exp(-s / mtbf). Every item must get through
    all stages in one go, so it starts stage i 1 / (p_i p_{i+1} ... p_n) times, for (1 - p_i) mtbf seconds on average.
    """
    factors, onward = [], 1.0
    for stage in reversed(stages):
        risk = stage.seconds / cluster.mtbf_s
        onward *= math.exp(-risk)
        part = -math.expm1(-risk) / risk if risk else 1.0
        factors.append(part / onward)
    return factors[::-1]


def limits(stages: Sequence[Stage], cluster: Cluster) -> dict[str, float]:
    """Items per second that each limit would allow alone."""
    factors, up = redone(stages, cluster), cluster.availability
    found = {
        stage.name: up * stage.workers / (stage.seconds * factor) for stage, factor in zip(stages, factors, strict=True)
    }
    for name, units, needs in (
        (CORES, cluster.cores, [stage.cpu_s for stage in stages]),
        (GPUS, cluster.gpus, [stage.gpu_s for stage in stages]),
    ):
        need = sum(need * factor for need, factor in zip(needs, factors, strict=True))
        if need:
            found[name] = up * units / need
    return found


def bottleneck(allowed: dict[str, float]) -> tuple[str, float]:
    """The limit that is reached first, and its items per second. Raises ValueError: it allows none at all."""
    name = min(allowed, key=lambda limit: allowed[limit])
    if allowed[name] <= 0:
        raise ValueError(f"{name}: there are none, and the work needs some")
    return name, allowed[name]
