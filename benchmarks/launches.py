"""What one UNet call asks of a device: operators and FLOPs, counted on the meta device, where nothing is computed.

A launch is an operator that does work: views are left out, and an attention is one, as on a GPU. At batch 1 a GPU
waits for the next launch rather than for arithmetic: their number, not FLOPs, tells what an adapter costs there.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

ATTENTION = "scaled_dot_product_attention"


@dataclass(frozen=True)
class Work:
    """Of one call."""

    operators: Counter[str]
    flops: int  # a multiply-add as two

    @property
    def launches(self) -> int:
        return self.operators.total()


def count(call: Callable[[], object]) -> Work:
    """What a call does with tensors on the meta device."""
    operators = _Operators()
    with FlopCounterMode(display=False) as flops, operators, _OneAttention(operators):
        call()
    return Work(operators.seen, flops.get_total_flops())


class _Operators(TorchDispatchMode):
    """Names of the operators that are no views."""

    def __init__(self):
        super().__init__()
        self.seen: Counter[str] = Counter()
        self.paused = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not self.paused and not func.is_view and "_unsafe_view" not in func.name():
            self.seen[func.name().removeprefix("aten::")] += 1
        return func(*args, **(kwargs or {}))


class _OneAttention(TorchFunctionMode):
    """The meta device would take an attention apart into its matrix products."""

    def __init__(self, operators: _Operators):
        super().__init__()
        self.operators = operators

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not F.scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))
        self.operators.seen[ATTENTION] += 1
        self.operators.paused = True
        try:
            return func(*args, **(kwargs or {}))
        finally:
            self.operators.paused = False
