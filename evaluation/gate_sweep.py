"""One method's whole dial: what is kept and what is obeyed at every setting, and how good a dial that makes.

FlexIP's Figure 1 claims a smooth trade of identity against edit; here that claim is numbers with intervals. Everything
that draws a dial and measures it ends in a `GateSweep`: a benchmark, a validation, a comparison of several trainings.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float

from evaluation.scoring import Column
from evaluation.statistics import Interval, crossed_bootstrap, hypervolume, kendall_tau, largest_step, pareto_front

Points = Float[np.ndarray, "settings 2"]  # mean identity and mean text at every setting


@dataclass(frozen=True)
class GateSweep:
    """A method with a dial, in the plane of one identity metric and one text metric. Unknown cells are NaN.

    Prompts and noises are averaged within each subject, for they are not independent; intervals resample subjects, and
    trainings where there are several.
    """

    method: str
    identity_name: str
    text_name: str
    settings: Float[np.ndarray, " settings"]  # gamma, or a baseline's scale; rising
    identity: Float[np.ndarray, "trainings subjects settings"]
    text: Float[np.ndarray, "trainings subjects settings"]
    corner: Float[np.ndarray, " 2"]  # identity and text of what is worth nothing: controls, or chance

    @cached_property
    def points(self) -> Points:
        """The dial's path."""
        return _path(self.values)

    @property
    def front(self) -> Float[np.ndarray, "front 2"]:
        """Those settings that no other beats in both."""
        return pareto_front(self.points)

    @cached_property
    def curves(self) -> tuple[Interval, Interval]:
        """Identity and text against the setting, each (settings,) with its band."""
        both = self._interval(lambda path: path)
        left, right = (
            Interval(both.mean[:, axis], both.low[:, axis], both.high[:, axis], both.subjects, both.confidence)
            for axis in (0, 1)
        )
        return left, right

    @cached_property
    def area(self) -> Interval:
        """What the settings dominate above the corner (hypervolume): 0 is no better than copying or ignoring."""
        return self._interval(lambda path: hypervolume(path, self.corner))

    @cached_property
    def tau_identity(self) -> Interval:
        """Kendall's tau of the setting against the mean identity: 1 is a dial that only ever adds identity."""
        return self._interval(lambda path: kendall_tau(self.settings, path[:, 0]))

    @cached_property
    def tau_text(self) -> Interval:
        """The same against text: wanted negative, the dial gives the prompt back."""
        return self._interval(lambda path: kendall_tau(self.settings, path[:, 1]))

    @cached_property
    def step(self) -> Interval:
        """Largest jump of the mean identity between neighbouring settings, as a share of its whole range."""
        return self._interval(lambda path: largest_step(path[:, 0]))

    @property
    def values(self) -> Float[np.ndarray, "trainings subjects settings 2"]:
        """Identity and text side by side."""
        return np.stack([self.identity, self.text], axis=-1)

    def _interval(self, statistic: Callable[[Points], Float[np.ndarray, "..."] | float]) -> Interval:
        return crossed_bootstrap(lambda values: statistic(_path(values)), self.values)


def area_ratio(ours: GateSweep, theirs: GateSweep) -> Interval:
    """Our dominated area over theirs, paired by training and subject.

    Raises:
        ValueError: other trainings or subjects.
    """
    if ours.identity.shape[:2] != theirs.identity.shape[:2]:
        raise ValueError(
            f"sweeps: {ours.identity.shape[:2]} against {theirs.identity.shape[:2]} trainings and subjects; a ratio "
            "is paired, so that both must be the same"
        )
    split = len(ours.settings)

    def ratio(both: Float[np.ndarray, "trainings subjects both 2"]) -> float:
        path = _path(both)
        below = hypervolume(path[split:], theirs.corner)
        return hypervolume(path[:split], ours.corner) / below if below > 0 else np.inf

    return crossed_bootstrap(ratio, np.concatenate([ours.values, theirs.values], axis=2))


def gate_sweep(method: str, identity: Column, text: Column) -> GateSweep | None:
    """The sweep of a method, or None where it has no dial.

    A prompt and seed that lack a setting, because a picture was lost, are left out at all settings: the curve would
    show the prompt and not the dial.
    """
    settings = sorted({cell.gamma for cell in identity.values if cell.method == method and cell.gamma is not None})
    if len(settings) < 2:
        return None
    units = sorted({cell.unit for cell in identity.values if cell.method == method})
    whole_dials = _whole_dials(method, identity, text, len(settings))
    kept, said = (_table(column, method, units, settings, whole_dials) for column in (identity, text))
    whole = np.isfinite(kept).all(axis=1) & np.isfinite(said).all(axis=1)
    if not whole.any():
        return None
    corner = np.nan_to_num([_control(identity, "wrong subject"), _control(text, "copy")])
    return GateSweep(method, identity.name, text.name, np.array(settings), kept[None, whole], said[None, whole], corner)


def _path(values: Float[np.ndarray, "trainings subjects settings 2"]) -> Points:
    return np.asarray(np.nanmean(values, axis=(0, 1)))


def _whole_dials(method: str, identity: Column, text: Column, settings: int) -> set[tuple[str, int, int]]:
    """Unit, prompt and seed of which both columns know every setting."""
    known: dict[tuple[str, int, int], set[float]] = {}
    for cell, value in identity.values.items():
        if (
            cell.method == method
            and cell.gamma is not None
            and np.isfinite([value, text.values.get(cell, np.nan)]).all()
        ):
            known.setdefault((cell.unit, cell.number, cell.seed), set()).add(cell.gamma)
    return {place for place, found in known.items() if len(found) == settings}


def _table(
    column: Column,
    method: str,
    units: list[str],
    settings: list[float],
    whole_dials: set[tuple[str, int, int]],
) -> Float[np.ndarray, "units settings"]:
    cells: dict[tuple[str, float | None], list[float]] = {}
    for cell, value in column.values.items():
        if cell.method == method and (cell.unit, cell.number, cell.seed) in whole_dials:
            cells.setdefault((cell.unit, cell.gamma), []).append(value)
    return np.array([[_mean(cells.get((unit, setting), [])) for setting in settings] for unit in units])


def _control(column: Column, method: str) -> float:
    return _mean([value for cell, value in column.values.items() if cell.method == method])


def _mean(values: list[float]) -> float:
    known = [value for value in values if np.isfinite(value)]
    return float(np.mean(known)) if known else float("nan")
