"""Methods compared by their whole dial: what is kept and what is obeyed at every setting, with paired intervals.

Axes, always in this order: trainings, creatures, edits, noises, settings of the dial. Intervals resample trainings and
creatures (`crossed_bootstrap`); edits and noises are averaged within them first, for they are not independent.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy import stats

from evaluation.calibrate import fit_calibration
from evaluation.statistics import Interval, crossed_bootstrap, hypervolume

Grid = Float[np.ndarray, "trainings creatures edits noises settings"]


@dataclass(frozen=True)
class Scores:
    """One method: its dial's settings, and identity kept and edit obeyed at each, 0..1."""

    settings: Float[np.ndarray, " settings"]  # gamma, or a baseline's scale; rising
    identity: Grid
    edit: Grid

    @property
    def points(self) -> Float[np.ndarray, "trainings creatures settings 2"]:
        """Means over edits and noises; NaN cells (nothing visible) are left out."""
        return np.stack([np.nanmean(grid, axis=(2, 3)) for grid in (self.identity, self.edit)], axis=-1)


@dataclass(frozen=True)
class DialQuality:
    """How well one method's dial works."""

    tau_identity: Interval  # Kendall's tau of the setting against identity kept
    tau_edit: Interval  # against edit obeyed: wanted negative
    step: Interval  # largest step of the mean identity between neighbouring settings, as a share of its range
    step_each: Interval  # the same for single trajectories (one creature, edit, noise), averaged
    step_calibrated: Interval  # the same after the dial was relabelled so that mean identity rises evenly


def curve(scores: Scores) -> tuple[Interval, Interval]:
    """Identity kept and edit obeyed against the setting, each (settings,) with pointwise intervals."""
    points = scores.points
    found = [[crossed_bootstrap(_mean, points[:, :, k, axis]) for k in range(len(scores.settings))] for axis in (0, 1)]
    return _stacked(found[0]), _stacked(found[1])


def dominated(scores: Scores, chance: tuple[float, float]) -> Interval:
    """Area that the method's settings dominate above chance, in the plane of identity kept and edit obeyed."""
    return crossed_bootstrap(lambda values: _area(values, chance), scores.points)


def dominated_ratio(ours: Scores, theirs: Scores, chance: tuple[float, float]) -> Interval:
    """Our dominated area over theirs, paired by training seed and creature.

    Raises:
        ValueError: other trainings or creatures.
    """
    if ours.identity.shape[:2] != theirs.identity.shape[:2]:
        raise ValueError(
            f"scores: {ours.identity.shape[:2]} against {theirs.identity.shape[:2]} trainings and creatures; a ratio "
            "is paired, so that both must be the same"
        )
    split = len(ours.settings)
    both = np.concatenate([ours.points, theirs.points], axis=2)

    def ratio(values: np.ndarray) -> float:
        below = _area(values[:, :, split:], chance)
        return _area(values[:, :, :split], chance) / below if below > 0 else np.inf

    return crossed_bootstrap(ratio, both)


def dial_quality(scores: Scores) -> DialQuality:
    """Order and evenness of the dial."""
    settings, points = scores.settings, scores.points
    each = np.nanmean(_steps(scores.identity), axis=(2, 3))
    mean = np.nanmean(scores.identity, axis=(0, 1, 2, 3))
    even = np.nanmean(_steps(relabelled(settings, mean, scores.identity)), axis=(2, 3))
    return DialQuality(
        tau_identity=crossed_bootstrap(lambda v: _tau(settings, v[..., 0].mean(axis=(0, 1))), points),
        tau_edit=crossed_bootstrap(lambda v: _tau(settings, v[..., 1].mean(axis=(0, 1))), points),
        step=crossed_bootstrap(lambda v: _steps(v[..., 0].mean(axis=(0, 1))).item(), points),
        step_each=crossed_bootstrap(_mean, each),
        step_calibrated=crossed_bootstrap(_mean, even),
    )


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


def _area(values: Float[np.ndarray, "trainings creatures settings 2"], chance: Sequence[float]) -> float:
    return hypervolume(values.mean(axis=(0, 1)), np.asarray(chance, dtype=np.float64))


def _mean(values: np.ndarray) -> float:
    return float(np.nanmean(values))


def _tau(settings: np.ndarray, values: np.ndarray) -> float:
    return 0.0 if np.ptp(values) == 0 else float(np.asarray(stats.kendalltau(settings, values)[0]))


def _steps(trajectories: Float[np.ndarray, "... settings"]) -> Float[np.ndarray, "..."]:
    """Largest step between neighbours as a share of the range; NaN where nothing changes."""
    span = np.ptp(trajectories, axis=-1)
    steps = np.abs(np.diff(trajectories, axis=-1)).max(axis=-1)
    return np.asarray(steps / np.where(span > 0, span, np.nan))


def _stacked(intervals: Sequence[Interval]) -> Interval:
    arrays = {name: np.array([getattr(one, name) for one in intervals]) for name in ("mean", "low", "high")}
    return Interval(**arrays, subjects=intervals[0].subjects, confidence=intervals[0].confidence)
