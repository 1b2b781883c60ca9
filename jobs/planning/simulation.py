"""The chain of `jobs/planning/flow.py`, event by event: bounded queues, workers that wait, nodes that fail.

What the formula leaves out is here: services of changing length, workers that hold a finished item because the next
queue is full, cores and GPUs that are free on one node while somebody waits on another.
"""

import heapq
import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from jobs.planning.flow import CORES, GPUS, Cluster, Stage

WARM = 0.1  # part of the items before, and after, what the rate is taken over: the chain fills, and drains


@dataclass(frozen=True)
class Simulated:
    """What came of it."""

    rate: float  # items per second, in the middle of the run
    seconds: float  # until the last item
    redone: int  # items that began anew
    busy: dict[str, float]  # stage -> part of its workers' time in which they were at work, waiting for a core included


@dataclass
class Node:
    """One machine: what is free of it, and who waits for that."""

    total: dict[str, int]
    free: dict[str, int] = field(default_factory=dict)
    waiting: dict[str, deque["Worker"]] = field(default_factory=dict)

    def reset(self) -> None:
        self.free = dict(self.total)
        self.waiting = {name: deque() for name in self.total}


@dataclass(eq=False)
class Worker:
    """One of a stage, at home on a node."""

    stage: int
    node: Node
    item: int | None = None
    phases: list[tuple[str, float]] = field(default_factory=list)  # of the item: what is needed, for how long [s]
    began: float = 0.0
    life: int = 0  # counts failures: events of an earlier life are void


class Chain:
    """The state of a run. `run` moves it on until `items` items have left it."""

    def __init__(self, stages: Sequence[Stage], cluster: Cluster, items: int, buffer: int, spread: float, seed: int):
        self.stages, self.cluster, self.items, self.buffer, self.spread = stages, cluster, items, buffer, spread
        self.chance = random.Random(seed)
        self.now, self.redone, self.left = 0.0, 0, list[float]()
        self.events: list[tuple[float, int, Callable[[], None]]] = []
        self.count = 0
        self.busy = [0.0] * len(stages)
        self.nodes = [Node(self._share(number)) for number in range(cluster.nodes)]
        self.queues: list[deque[int]] = [deque(range(items)), *(deque() for _ in stages[1:])]
        self.idle = [
            deque(Worker(place, self.nodes[number % len(self.nodes)]) for number in range(stage.workers))
            for place, stage in enumerate(stages)
        ]
        self.workers = [worker for idle in self.idle for worker in idle]
        self.held: list[deque[Worker]] = [deque() for _ in stages]  # done, and the next queue has no place
        for node in self.nodes:
            node.reset()
            self._await_failure(node)

    def run(self) -> Simulated:
        """To the end."""
        self._settle()
        while len(self.left) < self.items:
            self.now, _, act = heapq.heappop(self.events)
            act()
        first, last = int(WARM * self.items), int((1 - WARM) * self.items) - 1
        rate = (last - first) / (self.left[last] - self.left[first])
        shares = {
            stage.name: busy / (self.now * stage.workers) for stage, busy in zip(self.stages, self.busy, strict=True)
        }
        return Simulated(rate, self.now, self.redone, shares)

    def _share(self, number: int) -> dict[str, int]:
        nodes, totals = self.cluster.nodes, {CORES: self.cluster.cores, GPUS: self.cluster.gpus}
        return {name: total // nodes + (number < total % nodes) for name, total in totals.items()}

    def _at(self, delay: float, act: Callable[[], None]) -> None:
        self.count += 1  # keeps events of one moment in their order
        heapq.heappush(self.events, (self.now + delay, self.count, act))

    def _settle(self) -> None:
        """Items go on wherever they can: from the last stage to the first, as each frees places for the one before."""
        for place in reversed(range(len(self.stages))):
            queue, idle, moved = self.queues[place], self.idle[place], True
            while moved:
                moved = False
                while queue and idle:
                    self._start(idle.popleft(), queue.popleft())
                while place and self.held[place - 1] and len(queue) < self.buffer:
                    queue.append(self._freed(self.held[place - 1].popleft()))
                    moved = True

    def _freed(self, worker: Worker) -> int:
        """The item of a worker, which has none from then on."""
        assert worker.item is not None
        item, worker.item = worker.item, None
        self.idle[worker.stage].append(worker)
        return item

    def _start(self, worker: Worker, item: int) -> None:
        stage = self.stages[worker.stage]
        needs = ((CORES, stage.cpu_s), (GPUS, stage.gpu_s))
        worker.item, worker.began = item, self.now
        worker.phases = [(name, self._drawn(mean)) for name, mean in needs if mean]
        self._ask(worker)

    def _drawn(self, mean: float) -> float:
        if not self.spread:
            return mean
        shape = self.spread**-2
        return self.chance.gammavariate(shape, mean / shape)

    def _ask(self, worker: Worker) -> None:
        """The next thing that the item needs of the node, at once or when somebody gives it back."""
        name = worker.phases[0][0]
        if worker.node.free[name]:
            self._use(worker)
        else:
            worker.node.waiting[name].append(worker)

    def _use(self, worker: Worker) -> None:
        name, seconds = worker.phases[0]
        worker.node.free[name] -= 1
        life = worker.life
        self._at(seconds, lambda: self._used(worker) if worker.life == life else None)

    def _used(self, worker: Worker) -> None:
        name, _ = worker.phases.pop(0)
        worker.node.free[name] += 1
        if worker.node.waiting[name]:
            self._use(worker.node.waiting[name].popleft())
        if worker.phases:
            self._ask(worker)
            return
        self.busy[worker.stage] += self.now - worker.began
        if worker.stage + 1 < len(self.stages):
            self.held[worker.stage].append(worker)
        else:
            self._freed(worker)
            self.left.append(self.now)
        self._settle()

    def _await_failure(self, node: Node) -> None:
        if self.cluster.mtbf_s < float("inf"):
            self._at(self.chance.expovariate(1 / self.cluster.mtbf_s), lambda: self._fail(node))

    def _fail(self, node: Node) -> None:
        node.reset()
        lost = [worker for worker in self.workers if worker.node is node]
        for worker in lost:
            worker.life += 1
            if worker.item is not None:
                done = worker in self.held[worker.stage]
                self.busy[worker.stage] += 0.0 if done else self.now - worker.began
                self.redone += 1
                self.queues[0].appendleft(worker.item)
            worker.item, worker.phases = None, []
        for lists in (self.idle, self.held):
            lists[:] = [deque(worker for worker in workers if worker.node is not node) for workers in lists]
        self._at(self.cluster.repair_s, lambda: self._repair(node, lost))
        self._settle()

    def _repair(self, node: Node, workers: Sequence[Worker]) -> None:
        for worker in workers:
            self.idle[worker.stage].append(worker)
        self._await_failure(node)
        self._settle()


def simulate(
    stages: Sequence[Stage], cluster: Cluster, items: int, *, buffer: int = 16, spread: float = 0.0, seed: int = 0
) -> Simulated:
    """Run `items` items through the chain.

    Args:
        buffer: places of the queue before each stage but the first, which holds everything that is still to come.
        spread: standard deviation of the times, of their mean; they are drawn from a gamma distribution. 0: all alike.

    Raises:
        ValueError: too few items to tell a rate, no place in the queues, or a node without what a worker needs.
    """
    if items < 20 or buffer < 1:
        raise ValueError(f"items = {items}, buffer = {buffer}: at least 20 items and 1 place are needed")
    needs = {CORES: cluster.cores, GPUS: cluster.gpus if any(stage.gpu_s for stage in stages) else cluster.nodes}
    for name, units in needs.items():
        if units < cluster.nodes:
            raise ValueError(f"{name} = {units}: every one of {cluster.nodes} nodes needs one")
    return Chain(stages, cluster, items, buffer, spread, seed).run()
