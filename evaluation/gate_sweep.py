"""One method's whole dial: what is kept and what is obeyed at every setting, and how good a dial that makes.

FlexIP's Figure 1 claims a smooth trade of identity against edit; here that claim is numbers with intervals.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from evaluation.scoring import Column
from evaluation.statistics import (
    Interval,
    bootstrap_mean,
    crossed_bootstrap,
    hypervolume,
    kendall_tau,
    largest_step,
    pareto_front,
)


@dataclass(frozen=True)
class GateSweep:
    """A method with a dial, in the plane of one identity metric and one text metric, by subject."""

    method: str
    identity_name: str
    text_name: str
    units: tuple[str, ...]
    gammas: Float[np.ndarray, " gammas"]  # rising
    identity: Float[np.ndarray, "subjects gammas"]
    text: Float[np.ndarray, "subjects gammas"]
    corner: Float[np.ndarray, " 2"]  # identity of a wrong subject and text of a copy: what is worth nothing

    @property
    def curves(self) -> tuple[Interval, Interval]:
        """Identity and text against gamma, each (gammas,) with its band over subjects."""
        return bootstrap_mean(self.identity), bootstrap_mean(self.text)

    @property
    def points(self) -> Float[np.ndarray, "gammas 2"]:
        """The dial's path: mean identity and mean text at every setting."""
        return np.stack([self.identity.mean(axis=0), self.text.mean(axis=0)], axis=-1)

    @property
    def front(self) -> Float[np.ndarray, "front 2"]:
        """Those settings that no other beats in both."""
        return pareto_front(self.points)

    @property
    def area(self) -> Interval:
        """What the settings dominate above the corner (hypervolume): 0 is no better than copying or ignoring."""
        return self._interval(lambda kept, said: hypervolume(np.stack([kept, said], axis=-1), self.corner))

    @property
    def tau_identity(self) -> Interval:
        """Kendall's tau of gamma against identity, of each subject: 1 is a dial that only ever adds identity."""
        return bootstrap_mean(kendall_tau(self.gammas, self.identity))

    @property
    def tau_text(self) -> Interval:
        """The same against text: wanted negative, the dial gives the prompt back."""
        return bootstrap_mean(kendall_tau(self.gammas, self.text))

    @property
    def step(self) -> Interval:
        """Largest jump of the mean identity between neighbouring settings, as a share of its whole range."""

        def share(kept: np.ndarray, _: np.ndarray) -> float:
            span = float(np.ptp(kept))
            return float(largest_step(kept[None])[0]) / span if span > 0 else np.nan

        return self._interval(share)

    def _interval(self, statistic: Callable[[np.ndarray, np.ndarray], float]) -> Interval:
        both = np.stack([self.identity, self.text], axis=-1)[None]  # one training: subjects alone are resampled
        found = crossed_bootstrap(lambda v: statistic(*v.mean(axis=(0, 1)).T), both, resamples=1000)
        if len(self.units) < 2:
            nothing = np.full_like(found.mean, np.nan)
            return Interval(found.mean, nothing, nothing, len(self.units), found.confidence)
        return found


def gate_sweep(method: str, identity: Column, text: Column) -> GateSweep | None:
    """The sweep of a method, or None where it has no dial; subjects that lack a setting are left out."""
    gammas = sorted({cell.gamma for cell in identity.values if cell.method == method and cell.gamma is not None})
    if len(gammas) < 2:
        return None
    units = sorted({cell.unit for cell in identity.values if cell.method == method})
    kept, said = (_table(column, method, units, gammas) for column in (identity, text))
    whole = np.asarray(np.isfinite(kept).all(axis=1) & np.isfinite(said).all(axis=1))
    if not whole.any():
        return None
    corner = np.array([_control(identity, "wrong subject"), _control(text, "copy")])
    names = tuple(unit for unit, good in zip(units, whole, strict=True) if good)
    return GateSweep(
        method, identity.name, text.name, names, np.array(gammas), kept[whole], said[whole], np.nan_to_num(corner)
    )


def _table(column: Column, method: str, units: list[str], gammas: list[float]) -> Float[np.ndarray, "subjects gammas"]:
    cells: dict[tuple[str, float | None], list[float]] = {}
    for cell, value in column.values.items():
        if cell.method == method:
            cells.setdefault((cell.unit, cell.gamma), []).append(value)
    return np.array([[_mean(cells.get((unit, gamma), [])) for gamma in gammas] for unit in units])


def _control(column: Column, method: str) -> float:
    return _mean([value for cell, value in column.values.items() if cell.method == method])


def _mean(values: list[float]) -> float:
    known = [value for value in values if np.isfinite(value)]
    return float(np.mean(known)) if known else float("nan")
