"""A few small processes in one gloo group, without any launcher."""

import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any


def run_gang(world: int, folder: Path, work: Callable[..., Any], *arguments: Any) -> None:
    """Call `work(rank, world, *arguments)` in `world` processes at once; raises when one fails.

    The processes are forked from a server that has imported the heavy libraries once.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["diffusers.models", "diffusers.optimization", "flexip.model"])
    rendezvous = folder / f"rendezvous-{len(list(folder.glob('rendezvous-*')))}"
    members = [
        context.Process(target=_join, args=(rank, world, str(rendezvous), work, arguments)) for rank in range(world)
    ]
    for member in members:
        member.start()
    for member in members:
        member.join(timeout=2800)
    codes = [member.exitcode for member in members]
    for member in members:
        if member.is_alive():
            member.kill()
    if any(codes):
        raise AssertionError(f"exit codes of the {world} processes: {codes}; their errors are in the captured output")


def _join(rank: int, world: int, rendezvous: str, work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    import torch

    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=world)
    try:
        work(rank, world, *arguments)
    finally:
        torch.distributed.destroy_process_group()
