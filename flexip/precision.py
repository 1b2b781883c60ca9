"""The arithmetic of a forward pass in training: its precision, and which attention kernel."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Literal

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

Precision = Literal["fp32", "bf16"]


@contextmanager
def arithmetic(device: str, precision: Precision) -> Iterator[None]:
    """Autocast for bf16; on a CPU also the plain attention, whose backward pass in bf16 is faster than the fused one.

    Args:
        device: of the model, e.g. "cpu", "cuda" or "cuda:1".
    """
    kind, half = device.split(":")[0], precision == "bf16"
    attention = sdpa_kernel(SDPBackend.MATH) if half and kind == "cpu" else nullcontext()
    with attention, torch.autocast(kind, torch.bfloat16, enabled=half):
        yield
