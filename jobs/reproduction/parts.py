"""The parts of a trial, made side by side on Ray: a file each, so that what is there is not made again."""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import ray
from ray import cloudpickle

from jobs.console import progress

Maker = Callable[[int], None]  # makes the part of this number, a file


def worker_count() -> int:
    """Processes that draw side by side, of one thread each: two threads of one process draw little more than one."""
    return max(1, int(ray.cluster_resources().get("CPU", 1)))


def make_parts(prepare: Callable[[], Maker], missing: Sequence[int], title: str, unit: str) -> None:
    """Makes these parts; those of a process that dies are made again by another.

    Args:
        prepare: called once in every process; loads what all parts need.

    Raises:
        ray.exceptions.RayError: a part that could not be made.
    """
    pickled = cloudpickle.dumps(prepare)
    waiting: list[Any] = [_make.remote(pickled, number) for number in missing]
    with progress(len(missing), title, unit) as bar:
        while waiting:
            done, waiting = ray.wait(waiting)
            ray.get(done)
            bar.update(len(done))


@ray.remote(num_cpus=1, max_retries=3)
def _make(prepare: bytes, number: int) -> None:
    _maker(prepare)(number)


@lru_cache(maxsize=1)  # Ray keeps its processes, so that torch is imported once, and the models are loaded once a trial
def _maker(prepare: bytes) -> Maker:
    import torch

    from jobs.console import quiet_libraries

    quiet_libraries()
    torch.set_num_threads(1)
    return cloudpickle.loads(prepare)()
