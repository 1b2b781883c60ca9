"""mRank: how methods stand over several metrics at once, always with the pool that they were ranked in.

A rank depends on who else is in the pool: a method added or removed changes everybody's. FlexIP's Table 1 is here as it
was printed (arXiv 2504.07405v1), to test the rule by and to compare with, never to mix with numbers measured here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy import stats

from evaluation.statistics import Interval


@dataclass(frozen=True)
class Ranking:
    """Mean ranks of a pool of methods, 1 being the best."""

    methods: tuple[str, ...]  # the pool
    metrics: tuple[str, ...]
    ranks: Float[np.ndarray, "methods metrics"]  # competition ranks: equal values share the better one
    mean: Float[np.ndarray, " methods"]

    @property
    def pool(self) -> str:
        """What has to stand beside every mean rank."""
        return f"{len(self.methods)} methods ({', '.join(self.methods)}) over {', '.join(self.metrics)}"


def rank_methods(
    values: Mapping[str, Sequence[float]], metrics: Sequence[str], weights: Sequence[float] | None = None
) -> Ranking:
    """Competition rank of each method in each metric, more being better, and their weighted mean.

    Args:
        values: method -> its value in each metric.
        weights: of the metrics; none: all alike. DisEnvisioner halves those of CLIP-I and DINO-I.

    Raises:
        ValueError: a value that is missing: a mean over other metrics would compare nothing.
    """
    methods, table = tuple(values), np.array([list(row) for row in values.values()], dtype=np.float64)
    if not np.isfinite(table).all():
        method, metric = (int(i) for i in np.argwhere(~np.isfinite(table))[0])
        raise ValueError(f"{methods[method]}: has no {metrics[metric]}; a mean rank needs every metric of every method")
    ranks = _ranks(table)
    return Ranking(methods, tuple(metrics), ranks, np.average(ranks, axis=1, weights=weights))


def rank_intervals(
    values: Float[np.ndarray, "methods metrics subjects"],
    *,
    weights: Sequence[float] | None = None,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Mean rank of each method with an interval that resamples subjects, for all methods and metrics together."""
    rng, subjects = np.random.default_rng(seed), values.shape[2]
    mean = np.average(_ranks(np.nanmean(values, axis=2)), axis=1, weights=weights)
    if subjects < 2:
        nothing = np.full_like(mean, np.nan)
        return Interval(mean, nothing, nothing, subjects, confidence)
    found = [
        np.average(_ranks(np.nanmean(values[:, :, chosen], axis=2)), axis=1, weights=weights)
        for chosen in rng.integers(subjects, size=(resamples, subjects))
    ]
    tail = 50 * (1 - confidence)
    low, high = np.percentile(found, [tail, 100 - tail], axis=0)
    return Interval(mean, low, high, subjects, confidence)


def _ranks(table: Float[np.ndarray, "methods metrics"]) -> Float[np.ndarray, "methods metrics"]:
    return np.asarray(stats.rankdata(-table, method="min", axis=0), dtype=np.float64)


PUBLISHED_METRICS = ("CLIP-T", "CLIP-I", "DINO-I", "CLIP-IQA", "Aesthetic")
PUBLISHED = {
    "BLIP-Diffusion": (0.166, 0.681, 0.374, 0.486, 5.234),
    "ELITE": (0.269, 0.793, 0.657, 0.522, 5.437),
    "MoMA": (0.265, 0.830, 0.656, 0.546, 5.437),
    "SSR-Encoder": (0.277, 0.802, 0.581, 0.568, 5.578),
    "IP-Adapter": (0.209, 0.855, 0.728, 0.581, 5.594),
    "IP-Adapter-Instruct": (0.234, 0.833, 0.701, 0.584, 5.459),
    "λ-Eclipse": (0.296, 0.747, 0.467, 0.589, 5.597),
    "DisEnvisioner": (0.255, 0.851, 0.732, 0.470, 5.658),
    "FlexIP": (0.284, 0.873, 0.739, 0.598, 6.039),
}
