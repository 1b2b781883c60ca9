"""The parts of a trial, made side by side on Ray: a file each, so that what is there is not made again."""

from collections.abc import Callable, Sequence
from typing import Any

import ray
from ray.util.actor_pool import ActorPool

from jobs.console import progress

Maker = Callable[[int], None]  # makes the part of this number, a file


def worker_count() -> int:
    """Processes that draw side by side, of one thread each: two threads of one process draw little more than one."""
    return max(1, int(ray.cluster_resources().get("CPU", 1)))


def make_parts(prepare: Callable[[], Maker], missing: Sequence[int], title: str, unit: str) -> None:
    """Makes these parts. A worker that dies is started anew, and its part is made again.

    Args:
        prepare: called once in every worker; loads what all parts need.

    Raises:
        ray.exceptions.RayError: a part that could not be made.
    """
    actors: list[Any] = [_Worker.remote(prepare) for _ in range(min(worker_count(), len(missing)))]
    try:
        with progress(len(missing), title, unit) as bar:
            for _ in ActorPool(actors).map_unordered(lambda actor, number: actor.make.remote(number), [*missing]):
                bar.update()
    finally:
        for actor in actors:
            ray.kill(actor)


@ray.remote(num_cpus=1, max_restarts=3, max_task_retries=3)
class _Worker:
    def __init__(self, prepare: Callable[[], Maker]):
        import torch

        from jobs.console import quiet_libraries

        quiet_libraries()
        torch.set_num_threads(1)
        self._make = prepare()

    def make(self, number: int) -> None:
        self._make(number)
