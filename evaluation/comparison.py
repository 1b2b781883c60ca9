"""Several trainings of one method, read on a grid of creatures, edits and noises at every setting of the dial.

Axes, always in this order: trainings, creatures, edits, noises, settings of the dial.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from evaluation.calibrate import fit_calibration
from evaluation.gate_sweep import GateSweep
from evaluation.statistics import Interval, crossed_bootstrap, largest_step

Grid = Float[np.ndarray, "trainings creatures edits noises settings"]


@dataclass(frozen=True)
class Scores:
    """One method: its dial's settings, and identity kept and edit obeyed at each, 0..1; NaN where nothing shows."""

    settings: Float[np.ndarray, " settings"]  # gamma, or a baseline's scale; rising
    identity: Grid
    edit: Grid

    def sweep(self, method: str, chance: tuple[float, float]) -> GateSweep:
        """The dial, edits and noises averaged within each creature; areas count from chance."""
        kept, obeyed = (np.nanmean(grid, axis=(2, 3)) for grid in (self.identity, self.edit))
        return GateSweep(method, "identity kept", "edit obeyed", self.settings, kept, obeyed, np.array(chance))


def single_steps(scores: Scores) -> tuple[Interval, Interval]:
    """Largest steps of identity in single trajectories (one creature, edit, noise), averaged.

    First as drawn; then after the dial was relabelled so that the mean identity rises evenly.
    """
    mean = np.nanmean(scores.identity, axis=(0, 1, 2, 3))
    even = relabelled(scores.settings, mean, scores.identity)
    each = [np.nanmean(largest_step(grid), axis=(2, 3)) for grid in (scores.identity, even)]
    drawn, relabelled_dial = (crossed_bootstrap(lambda values: float(np.nanmean(values)), steps) for steps in each)
    return drawn, relabelled_dial


def relabelled(
    settings: Float[np.ndarray, " settings"],
    mean: Float[np.ndarray, " settings"],
    trajectories: Float[np.ndarray, "... settings"],
) -> Float[np.ndarray, "... settings"]:
    """Trajectories at those settings where the mean, made monotone, takes evenly spaced values.

    Any dial is smooth on means after such a relabelling; whether single pictures change evenly then is its own merit.
    The nearest setting that was drawn stands for each: scores between two settings would hide a jump.
    """
    fitted = fit_calibration(settings, mean[None], metric="", protocol="")
    levels = np.linspace(fitted.identity[0], fitted.identity[-1], len(settings))
    wanted = np.array([fitted.gamma_for(float(level)) for level in levels])
    nearest = np.abs(settings[:, None] - wanted).argmin(axis=0)
    return trajectories[..., nearest]
