"""Uncertainty with the subject as the unit: images of one subject are not independent of each other."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

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
    settings: Float[np.ndarray, " settings"], values: Float[np.ndarray, "... settings"]
) -> Float[np.ndarray, "..."]:
    """Kendall's tau-b of a dial's setting against a metric: 1 when the metric only rises, -1 when it only falls.

    Over all leading axes at once, which scipy's is not. A metric that never moves counts as 0: the dial did nothing.
    NaN with a single setting.
    """
    if len(settings) < 2:
        return np.full(values.shape[:-1], np.nan)
    first, second = np.triu_indices(len(settings), 1)
    turned, moved = (np.sign(array[..., second] - array[..., first]) for array in (settings, values))
    pairs = np.sqrt((turned != 0).sum() * (moved != 0).sum(axis=-1))
    return np.asarray((turned * moved).sum(axis=-1) / np.maximum(pairs, 1))


def largest_step(values: Float[np.ndarray, "... settings"]) -> Float[np.ndarray, "..."]:
    """Largest jump of a metric between neighbouring settings, as a share of its range; NaN where it never moves."""
    if values.shape[-1] < 2:
        return np.full(values.shape[:-1], np.nan)
    span = np.ptp(values, axis=-1)
    steps = np.abs(np.diff(values, axis=-1)).max(axis=-1)
    return np.asarray(steps / np.where(span > 0, span, np.nan))


def crossed_bootstrap(
    statistic: Callable[[Float[np.ndarray, "seeds subjects ..."]], Float[np.ndarray, "..."] | float],
    values: Float[np.ndarray, "seeds subjects ..."],
    *,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """A statistic of several trainings on the same subjects, with a percentile interval over both.

    Training seeds and subjects are resampled independently, whole (crossed cluster bootstrap, Owen 2007): what is to be
    paired, two methods for example, lies along the further axes and stays together. A statistic of several numbers has
    an interval for each.
    """
    values = np.asarray(values, dtype=np.float64)
    mean = np.asarray(statistic(values), dtype=np.float64)
    if max(values.shape[:2]) < 2:
        nothing = np.full_like(mean, np.nan)
        return Interval(mean, nothing, nothing, values.shape[1], confidence)
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(resamples):
        runs, subjects = (rng.integers(count, size=count) for count in values.shape[:2])
        found.append(statistic(values[runs][:, subjects]))
    tail = 50 * (1 - confidence)
    low, high = np.nanpercentile(np.array(found), [tail, 100 - tail], axis=0)
    return Interval(mean, np.asarray(low), np.asarray(high), values.shape[1], confidence)


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


@dataclass(frozen=True)
class Difference:
    """Two methods on the same subjects, in one metric."""

    interval: Interval  # of the mean difference over subjects
    p: float  # of the sign-flip test; see `corrected` for several metrics
    detectable: float  # the least difference that so many subjects would show, see `detectable_difference`

    @property
    def verdict(self) -> Literal["better", "worse", "tie"]:
        """A tie wherever the interval contains zero, or there is none."""
        if not self.interval.low > 0 and not self.interval.high < 0:
            return "tie"
        return "better" if self.interval.low > 0 else "worse"


def paired_difference(
    ours: Float[np.ndarray, " subjects"], theirs: Float[np.ndarray, " subjects"], *, confidence: float = 0.95
) -> Difference:
    """Per-subject means of two methods against each other; subjects that either lacks (NaN) are left out.

    Both must have been averaged over the same prompts and seeds.

    Raises:
        ValueError: no subject was scored for both.
    """
    difference = np.asarray(ours - theirs, dtype=np.float64)
    difference = difference[np.isfinite(difference)]
    if not len(difference):
        raise ValueError("subjects: none was scored for both methods")
    interval = bootstrap_mean(difference, confidence=confidence)
    return Difference(interval, sign_flip_p(difference), detectable_difference(difference))


def sign_flip_p(
    difference: Float[np.ndarray, " subjects"], *, most_exact: int = 14, resamples: int = 20000, seed: int = 0
) -> float:
    """Two-sided p of the mean difference being zero: each subject's sign is as likely the other way round.

    All sign patterns up to `most_exact` subjects, drawn ones beyond (which count themselves, so that p is never 0).
    With n subjects p cannot fall below 2 / 2^n. NaN with one subject.
    """
    count = len(difference)
    if count < 2:
        return float("nan")
    if count <= most_exact:
        signs = 1 - 2 * ((np.arange(2**count)[:, None] >> np.arange(count)) & 1)
        extra = 0
    else:
        signs = np.random.default_rng(seed).choice([-1, 1], size=(resamples, count))
        extra = 1
    means = np.abs(signs @ difference)
    as_extreme = (means >= abs(difference.sum()) * (1 - 1e-12)).sum()
    return float((as_extreme + extra) / (len(signs) + extra))


def detectable_difference(difference: Float[np.ndarray, " subjects"], alpha: float = 0.05, power: float = 0.8) -> float:
    """The least true mean difference that a two-sided paired t-test finds with this power, given this spread.

    NaN with one subject. A leaderboard whose leads are smaller settles nothing.
    """
    count = len(difference)
    if count < 2:
        return float("nan")
    quantiles = stats.t.ppf(1 - alpha / 2, count - 1) + stats.t.ppf(power, count - 1)
    return float(quantiles * np.std(difference, ddof=1) / np.sqrt(count))


def corrected(p: Float[np.ndarray, " tests"]) -> Float[np.ndarray, " tests"]:
    """Holm's step-down correction of several tests' p; NaN stays, and does not count as a test."""
    p, found = np.asarray(p, dtype=np.float64), np.full(len(p), np.nan)
    known = np.flatnonzero(np.isfinite(p))
    order = known[np.argsort(p[known])]
    steps = np.maximum.accumulate(p[order] * np.arange(len(order), 0, -1))
    found[order] = np.minimum(steps, 1)
    return found


def wilson(successes: int, trials: int, confidence: float = 0.95) -> Interval:
    """A share with its score interval (Wilson 1927): within 0..1, and honest for few trials. NaN for none."""
    if not trials:
        nothing = np.asarray(np.nan)
        return Interval(nothing, nothing, nothing, 0, confidence)
    found = stats.binomtest(successes, trials).proportion_ci(confidence, method="wilson")
    return Interval(np.asarray(successes / trials), np.asarray(found.low), np.asarray(found.high), trials, confidence)


def krippendorff_alpha(
    ratings: Float[np.ndarray, "raters items"], level: Literal["nominal", "interval"] = "interval"
) -> float:
    """Krippendorff's alpha: 1 full agreement, 0 what chance gives; NaN cells are ratings that were not made.

    NaN where no item has two ratings, or all ratings are equal.
    """
    pairable = ratings[:, np.isfinite(ratings).sum(axis=0) >= 2]
    values = pairable[np.isfinite(pairable)]
    if not len(values):
        return float("nan")

    def distance(column: Float[np.ndarray, " n"]) -> float:
        apart = column[:, None] - column
        return float((apart**2).sum() if level == "interval" else (apart != 0).sum())

    items = [column[np.isfinite(column)] for column in pairable.T]
    observed = sum(distance(item) / (len(item) - 1) for item in items) / len(values)
    expected = distance(values) / (len(values) * (len(values) - 1))
    return float(1 - observed / expected) if expected > 0 else float("nan")
