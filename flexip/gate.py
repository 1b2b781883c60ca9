"""The gate: how much of each adapter, per row. It is data that travels with a request, never state of the model."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

Weights = float | Sequence[float]  # constant over the steps, or a list that is spread over them


@dataclass(frozen=True)
class Gate:
    """Weights g_p and g_s of the Preservation and the Personalization Adapter in one UNet call, one pair a row.

    `blocks` weighs the subject in the layers whose name starts with a key (the longest key wins; 1 elsewhere), `mask`
    in each part of the picture; both act on what the two adapters add, whatever `gating` is.
    """

    preservation: Float[Tensor, " B"]
    personalization: Float[Tensor, " B"]
    blocks: Mapping[str, Float[Tensor, " B"]] = field(default_factory=dict)
    mask: Float[Tensor, "B H W"] | None = None

    @classmethod
    def dial(cls, gamma: float | Sequence[float] | Float[Tensor, " B"], rows: int | None = None) -> "Gate":
        """The paper's one dial: g_p = gamma, g_s = 1 - gamma.

        Raises:
            ValueError: a gamma outside 0..1, or `rows` that does not fit.
        """
        values = torch.as_tensor(gamma, dtype=torch.float32)
        if values.ndim == 0:
            values = values.repeat(1 if rows is None else rows)
        if rows is not None and len(values) != rows:
            raise ValueError(f"gamma: {len(values)} values for {rows} rows; give one value or one a row")
        if not bool(((values >= 0) & (values <= 1)).all()):
            raise ValueError(f"gamma: {values.tolist()} is not all within 0..1; 1 keeps identity, 0 obeys the edit")
        return cls(values, 1 - values)

    @classmethod
    def weights(cls, preservation: Sequence[float], personalization: Sequence[float]) -> "Gate":
        """Two free weights a row ("control surface"); any finite value.

        Raises:
            ValueError: a weight that is not finite, or lists of different length.
        """
        if len(preservation) != len(personalization):
            raise ValueError(
                f"gate: {len(preservation)} preservation and {len(personalization)} personalization weights"
            )
        for name, weights in (("preservation", preservation), ("personalization", personalization)):
            if not all(math.isfinite(weight) for weight in weights):
                raise ValueError(f"gate: {name} weights {list(weights)} must be finite numbers")
        return cls(torch.tensor(preservation, dtype=torch.float32), torch.tensor(personalization, dtype=torch.float32))

    @property
    def rows(self) -> int:
        return len(self.preservation)

    def select(self, rows: Tensor) -> "Gate":
        """The gate of the given rows, in that order; rows may repeat."""
        blocks = {name: weights[rows] for name, weights in self.blocks.items()}
        mask = None if self.mask is None else self.mask[rows]
        return type(self)(self.preservation[rows], self.personalization[rows], blocks, mask)

    def to(self, device: torch.device | str, dtype: torch.dtype) -> "Gate":
        blocks = {name: weights.to(device, dtype) for name, weights in self.blocks.items()}
        mask = None if self.mask is None else self.mask.to(device, dtype)
        return type(self)(self.preservation.to(device, dtype), self.personalization.to(device, dtype), blocks, mask)

    def local(self, layer: str, positions: int) -> Float[Tensor, "B 1 X 1"] | None:
        """What a layer's positions multiply the subject's part with; None where neither block nor mask says anything.

        The mask's aspect is the picture's: of X positions, height and width follow from it.
        """
        keys = [key for key in self.blocks if layer.startswith(key)]
        block = self.blocks[max(keys, key=len)][:, None, None, None] if keys else None
        if self.mask is None:
            return block
        height = round(math.sqrt(positions * self.mask.shape[1] / self.mask.shape[2]))
        region = adaptive_avg_pool2d(self.mask[:, None], (height, positions // height)).flatten(2)[..., None]
        return region if block is None else block * region


def at_step(weights: Weights, step: int, steps: int) -> float:
    """The weight in force at a step: a list gives each of its values an equal part of the steps, in their order.

    Raises:
        ValueError: an empty list, or one that is longer than the steps.
    """
    if not isinstance(weights, Sequence):
        return weights
    if not 1 <= len(weights) <= steps:
        raise ValueError(f"schedule: {len(weights)} values for {steps} steps; give 1 to {steps}")
    return weights[step * len(weights) // steps]


def linear(first: float, last: float, steps: int) -> tuple[float, ...]:
    """A schedule that goes evenly from one weight to another."""
    return tuple(torch.linspace(first, last, steps).tolist())


def window(weight: float, start: float, end: float, steps: int) -> tuple[float, ...]:
    """A schedule that is `weight` from the fraction `start` of the steps to the fraction `end`, and 0 elsewhere.

    Raises:
        ValueError: fractions outside 0..1 or in the wrong order.
    """
    if not 0 <= start <= end <= 1:
        raise ValueError(f"window: start {start:g}, end {end:g}; needs 0 <= start <= end <= 1")
    return tuple(weight if start <= (step + 0.5) / steps < end else 0.0 for step in range(steps))
