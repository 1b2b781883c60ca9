"""Uncertainty with the subject as the unit: images of one subject are not independent of each other."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy import stats


@dataclass(frozen=True)
class Interval:
    """Mean over subjects with a bootstrap interval; low and high are NaN with one subject: nothing to resample."""

    mean: Float[np.ndarray, "..."]
    low: Float[np.ndarray, "..."]
    high: Float[np.ndarray, "..."]
    subjects: int
    confidence: float


def bootstrap_mean(
    values: Float[np.ndarray, "subjects ..."], *, confidence: float = 0.95, resamples: int = 2000, seed: int = 0
) -> Interval:
    """Mean of per-subject values with a percentile interval that resamples subjects (cluster bootstrap).

    With fewer than about ten subjects a percentile interval is too narrow: report the count beside it.
    """
    values = np.asarray(values, dtype=np.float64)
    mean = np.asarray(values.mean(axis=0))
    if len(values) < 2:
        nothing = np.full_like(mean, np.nan)
        return Interval(mean, nothing, nothing, len(values), confidence)
    found = stats.bootstrap(
        (values,),
        np.mean,
        axis=0,
        n_resamples=resamples,
        confidence_level=confidence,
        method="percentile",
        vectorized=True,
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return Interval(mean, np.asarray(found.low), np.asarray(found.high), len(values), confidence)


def kendall_tau(
    gammas: Float[np.ndarray, " gammas"], values: Float[np.ndarray, "subjects gammas"]
) -> Float[np.ndarray, " subjects"]:
    """Per subject, Kendall's tau-b of gamma against a metric: 1 when the metric only rises, -1 when it only falls.

    A metric that never moves counts as 0: the dial did nothing. NaN with a single gamma.
    """
    if len(gammas) < 2:
        return np.full(len(values), np.nan)
    taus = [0.0 if np.ptp(row) == 0 else stats.kendalltau(gammas, row)[0] for row in values]
    return np.asarray(taus, dtype=np.float64)


def largest_step(values: Float[np.ndarray, "subjects gammas"]) -> Float[np.ndarray, " subjects"]:
    """Per subject, the largest jump of a metric between neighbouring gammas; NaN with a single gamma."""
    if values.shape[1] < 2:
        return np.full(len(values), np.nan)
    return np.abs(np.diff(values, axis=1)).max(axis=1)


def crossed_bootstrap(
    statistic: Callable[[Float[np.ndarray, "seeds subjects ..."]], float],
    values: Float[np.ndarray, "seeds subjects ..."],
    *,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """A statistic of several trainings on the same subjects, with a percentile interval over both.

    Training seeds and subjects are resampled independently, whole (crossed cluster bootstrap, Owen 2007): what is to be
    paired, two methods for example, lies along the further axes and stays together.
    """
    values = np.asarray(values, dtype=np.float64)
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(resamples):
        runs, subjects = (rng.integers(count, size=count) for count in values.shape[:2])
        found.append(statistic(values[runs][:, subjects]))
    tail = 50 * (1 - confidence)
    low, high = np.nanpercentile(found, [tail, 100 - tail])
    return Interval(np.asarray(statistic(values)), np.asarray(low), np.asarray(high), values.shape[1], confidence)


def pareto_front(points: Float[np.ndarray, "points 2"]) -> Float[np.ndarray, "front 2"]:
    """The points that no other one beats in both coordinates, more being better; by rising first coordinate."""
    order = points[np.lexsort((points[:, 1], points[:, 0]))][::-1]  # best first coordinate first
    best = np.concatenate([[-np.inf], np.maximum.accumulate(order[:, 1])[:-1]])
    return order[order[:, 1] > best][::-1]


def hypervolume(points: Float[np.ndarray, "points 2"], reference: Float[np.ndarray, " 2"]) -> float:
    """Area that the points dominate above a reference point; those not above it in both coordinates add nothing."""
    above = points[(points > reference).all(axis=1)]
    if not len(above):
        return 0.0
    front = pareto_front(above)
    widths = np.diff(np.concatenate([[reference[0]], front[:, 0]]))
    return float((widths * (front[:, 1] - reference[1])).sum())
