"""The gate: how much of each adapter, per row. It is data that travels with a request, never state of the model."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Gate:
    """Weights g_p and g_s of the Preservation and the Personalization Adapter, one pair a row."""

    preservation: Float[Tensor, " B"]
    personalization: Float[Tensor, " B"]

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
        return type(self)(self.preservation[rows], self.personalization[rows])

    def to(self, device: torch.device | str, dtype: torch.dtype) -> "Gate":
        return type(self)(self.preservation.to(device, dtype), self.personalization.to(device, dtype))
