"""What is asked for one picture, and the gate that a batch of requests has at one step."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import get_args

import numpy as np
import torch
from jaxtyping import Float
from torch.nn.functional import adaptive_avg_pool2d

from flexip.adapters import Merging
from flexip.gate import Gate, Weights, at_step
from flexip.images import Rgb
from flexip.solvers import Solver


@dataclass(frozen=True)
class Request:
    """One picture asked for; without a reference the base model answers.

    Raises:
        ValueError: a number of steps, a solver, a guidance, a schedule, a block's weight or a mask out of bounds.
    """

    prompt: str
    reference: Rgb | tuple[Rgb, ...] | None = None  # several show one subject
    preservation: Weights = 0.5  # see `Gate`; a list is spread over the steps
    personalization: Weights = 0.5
    negative_prompt: str = ""
    guidance_scale: float = 5.0
    steps: int = 25
    solver: Solver = "ddim"  # "dpm++2m" needs about half the steps
    seed: int = 0
    merging: Merging = "average"  # of several references
    blocks: Mapping[str, float] = field(default_factory=dict)  # name of a UNet block, e.g. "up_blocks" -> weight
    mask: Float[np.ndarray, "H W"] | None = None  # 0..1: where the subject may act; of the picture's aspect

    def __post_init__(self):
        if not 1 <= self.steps <= 1000:
            raise ValueError(f"steps: {self.steps} must be within 1..1000")
        if self.solver not in get_args(Solver):
            raise ValueError(f"solver: {self.solver!r} must be one of {', '.join(get_args(Solver))}")
        if not np.isfinite(self.guidance_scale):
            raise ValueError(f"guidance_scale: {self.guidance_scale} must be a finite number; 1 means no guidance")
        for weights in (self.preservation, self.personalization):
            at_step(weights, 0, self.steps)
        if not all(np.isfinite(weight) for weight in self.blocks.values()):
            raise ValueError(f"blocks: {dict(self.blocks)} must be finite numbers")
        if self.mask is not None and not (self.mask.ndim == 2 and 0 <= self.mask.min() <= self.mask.max() <= 1):
            raise ValueError(f"mask: shape {self.mask.shape}; needs height and width, and values within 0..1")

    @property
    def references(self) -> tuple[Rgb, ...]:
        """The references, none to several."""
        if self.reference is None:
            return ()
        return self.reference if isinstance(self.reference, tuple) else (self.reference,)

    @property
    def unet_rows(self) -> int:
        """Rows of a UNet call: one, or two with guidance."""
        return 2 if self.guidance_scale > 1 else 1


def gate_at(requests: Sequence[Request], steps: Sequence[int], size: tuple[int, int]) -> Gate:
    """The gate of every request at its own step; masks at `size`, height and width of the latents."""
    preservation, personalization = (
        [at_step(getattr(r, name), step, r.steps) for r, step in zip(requests, steps, strict=True)]
        for name in ("preservation", "personalization")
    )
    gate = Gate.weights(preservation, personalization)
    names = sorted({name for r in requests for name in r.blocks})
    blocks = {name: torch.tensor([_block_weight(r.blocks, name) for r in requests]) for name in names}
    masked = any(r.mask is not None for r in requests)
    mask = torch.stack([_at_size(r.mask, size) for r in requests]) if masked else None
    return Gate(gate.preservation, gate.personalization, blocks, mask)


def check_blocks(requests: Sequence[Request], layers: Sequence[str]) -> None:
    """Raises ValueError for a block that is the beginning of no layer's name: it would be ignored without a word."""
    for name in {name for r in requests for name in r.blocks}:
        if not any(layer.startswith(name) for layer in layers):
            known = sorted({".".join(layer.split(".")[:2]) for layer in layers})
            raise ValueError(f"blocks: {name!r} is no block of this UNet; known are {', '.join(known)}")


def _block_weight(blocks: Mapping[str, float], name: str) -> float:
    """A request's weight for a block that perhaps only its neighbours name: that of its own longest beginning."""
    own = [key for key in blocks if name.startswith(key)]
    return float(blocks[max(own, key=len)]) if own else 1.0


def _at_size(mask: np.ndarray | None, size: tuple[int, int]) -> Float[torch.Tensor, "h w"]:
    if mask is None:
        return torch.ones(size)
    return adaptive_avg_pool2d(torch.as_tensor(mask, dtype=torch.float32)[None], size)[0]
