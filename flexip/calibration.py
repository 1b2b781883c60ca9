"""What a checkpoint's dial means: how much identity each gamma keeps, measured on subjects held out from training."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Calibration:
    """A curve that never falls: identity similarity against gamma. Kept in the checkpoint's `config.json`."""

    gammas: list[float]  # rising
    identity: list[float]  # mean similarity that was measured there, made monotone
    metric: str  # what the similarity is
    subjects: int
    protocol: str  # id of everything that the numbers depend on

    def identity_at(self, gamma: float) -> float:
        """The similarity to expect at a gamma within 0..1."""
        return float(np.interp(gamma, self.gammas, self.identity))

    def gamma_for(self, identity: float) -> float:
        """The smallest gamma that keeps this much identity.

        Raises:
            ValueError: more or less than any gamma of this checkpoint keeps; says what is in reach.
        """
        low, high = self.identity[0], self.identity[-1]
        if not low <= identity <= high:
            raise ValueError(
                f"identity = {identity:g}: out of this checkpoint's reach; gamma {self.gammas[0]:g} to "
                f"{self.gammas[-1]:g} keeps {low:.3f} to {high:.3f} ({self.metric})"
            )
        first = [i for i in range(len(self.identity)) if i == 0 or self.identity[i] > self.identity[i - 1]]
        right = next(i for i in first if self.identity[i] >= identity)
        if right == 0:
            return self.gammas[0]
        ends = (self.identity[right - 1], self.identity[right]), (self.gammas[right - 1], self.gammas[right])
        return float(np.interp(identity, *ends))
