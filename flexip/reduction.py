"""Averages over the processes of a training: one flat buffer, and on request one order of summation."""

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor


@torch.no_grad()
def average_over_ranks(tensors: Sequence[Tensor], ordered: bool) -> None:
    """Replace tensors of any shapes, and one dtype, by their mean over all ranks, in place.

    Args:
        tensors: the same shapes in the same order on every rank.
        ordered: sum in the order of the ranks, so that a repeated run gives the same bits. The order in which a plain
            all-reduce adds (or that of DDP's buckets, which are laid out anew after the first step) depends on the
            backend, the size and the number of ranks.
    """
    world = dist.get_world_size() if dist.is_initialized() else 1
    if world == 1 or not tensors:
        return
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    if ordered:
        flat = _sum_in_order(flat, world)
    else:
        dist.all_reduce(flat)
    parts = (flat / world).split([tensor.numel() for tensor in tensors])
    torch._foreach_copy_(list(tensors), [part.view(t.shape) for part, t in zip(parts, tensors, strict=True)])


@torch.no_grad()
def copy_from_first(tensors: Sequence[Tensor]) -> None:
    """Give every rank the values of rank 0: machines of different kinds may draw other first weights from one seed."""
    if not dist.is_initialized() or dist.get_world_size() == 1 or not tensors:
        return
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    dist.broadcast(flat, 0)
    parts = flat.split([tensor.numel() for tensor in tensors])
    torch._foreach_copy_(list(tensors), [part.view(t.shape) for part, t in zip(parts, tensors, strict=True)])


def _sum_in_order(flat: Tensor, world: int) -> Tensor:
    """Each rank adds up one stretch of the buffer, rank by rank, and hands it to all: as much traffic as a ring."""
    stretch = -(-flat.numel() // world)
    padded = torch.nn.functional.pad(flat, (0, stretch * world - flat.numel()))
    received = torch.empty_like(padded)
    dist.all_to_all_single(received, padded)
    first, *others = received.view(world, stretch)
    total = first.clone()
    for part in others:
        total += part
    dist.all_gather_into_tensor(padded, total)
    return padded[: flat.numel()]
