"""Methods side by side: means with intervals over subjects, ties said to be ties, metrics that can be gamed flagged."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from evaluation.answers import Cell
from evaluation.benchmarks import BenchmarkError
from evaluation.ranking import Ranking, rank_intervals, rank_methods
from evaluation.scoring import Column
from evaluation.statistics import Difference, Interval, bootstrap_mean, corrected, paired_difference

CONTROLS = ("copy", "wrong subject")  # answers that nobody drew; see `evaluation.scoring.controls`
RANKED = ("CLIP-T", "CLIP-I", "DINO-I", "CLIP-IQA", "Aesthetic")  # of FlexIP's Table 1
HALVED = ("CLIP-I", "DINO-I")  # in DisEnvisioner's variant of the mean rank
Case = tuple[str, int]  # unit and number of the prompt


@dataclass(frozen=True)
class Entry:
    """A method at one setting of its dial."""

    method: str
    gamma: float | None

    @property
    def title(self) -> str:
        return self.method if self.gamma is None else f"{self.method}, γ = {self.gamma:g}"

    def holds(self, cell: Cell) -> bool:
        return (cell.method, cell.gamma) == (self.method, self.gamma)


@dataclass(frozen=True)
class Standing:
    """One entry in one metric."""

    interval: Interval  # over the subjects that all entries have, each by the prompts that all have answered
    behind: Difference | None  # against the best entry; None for the best itself and for controls
    p: float  # of that difference, corrected for all comparisons of the board (Holm)

    @property
    def first(self) -> bool:
        """Whether it is the best, or cannot be told from it; never where nothing was measured."""
        return bool(np.isfinite(self.interval.mean)) and (self.behind is None or self.behind.verdict == "tie")


@dataclass(frozen=True)
class Leaderboard:
    """All entries, their standings by column, and the controls beside them."""

    entries: tuple[Entry, ...]
    controls: tuple[Entry, ...]
    columns: tuple[Column, ...]
    subjects: int
    cases: int  # that all entries have answered: the others are in no number
    standings: Mapping[tuple[Entry, str], Standing]
    flags: Mapping[str, tuple[str, ...]]  # column -> why it must not decide alone
    ranking: Ranking | None  # None with one entry, or without a metric to rank by
    rank_interval: Interval | None
    half_weighted: Ranking | None


def leaderboard(columns: Sequence[Column], entries: Sequence[Entry], blind: Collection[str] = ()) -> Leaderboard:
    """Compares entries on the cases that all of them answered, so that every difference is paired.

    Args:
        blind: methods that see no reference, as the base model: what they win says nothing about identity.

    Raises:
        BenchmarkError: no case that all entries have.
    """
    beside = [Entry(name, None) for name in CONTROLS if any(cell.method == name for cell in columns[0].values)]
    cases = set.intersection(*(_cases(columns[0], entry) for entry in entries)) if entries else set[Case]()
    if not cases:
        titles = ", ".join(entry.title for entry in entries)
        raise BenchmarkError(f"entries: {titles} have no case in common; nothing can be paired")
    units = sorted({unit for unit, _ in cases})
    values = {
        (e, c.name): per_unit(c, e, units, _shared(c, entries, cases)) for e in (*entries, *beside) for c in columns
    }
    standings = {}
    for column in columns:
        means = [_mean(values[entry, column.name]) * (1 if column.rising else -1) for entry in entries]
        best = entries[int(np.nanargmax(means))] if np.isfinite(means).any() else None
        for entry in (*entries, *beside):
            mine = values[entry, column.name]
            behind = _behind(mine, values[best, column.name]) if best and entry not in (best, *beside) else None
            standings[entry, column.name] = Standing(_interval(mine), behind, np.nan)
    standings = _with_corrected(standings)
    ranked = [column for column in columns if column.protocol.metric in RANKED]
    ranking, interval, half = _ranked(entries, ranked, values)
    flags = {column.name: found for column in columns if (found := _flags(column, entries, standings, blind))}
    return Leaderboard(
        tuple(entries),
        tuple(beside),
        tuple(columns),
        len(units),
        len(cases),
        standings,
        flags,
        ranking,
        interval,
        half,
    )


def headline_entries(columns: Sequence[Column], gamma: float) -> list[Entry]:
    """One entry a method: at the setting nearest to `gamma` where it has a dial. Chosen before anything is scored."""
    dials = dict[str, set[float | None]]()
    for cell in columns[0].values:
        if cell.method not in CONTROLS:
            dials.setdefault(cell.method, set()).add(cell.gamma)
    return [Entry(name, min(found, key=lambda g: -1 if g is None else abs(g - gamma))) for name, found in dials.items()]


def per_unit(
    column: Column, entry: Entry, units: Sequence[str], cases: Collection[Case]
) -> Float[np.ndarray, " subjects"]:
    """Mean over seeds, then over these prompts, within each unit; NaN where there is none."""
    seeds, prompts = dict[Case, list[float]](), dict[str, list[float]]()
    for cell, value in column.values.items():
        if entry.holds(cell) and (cell.unit, cell.number) in cases and np.isfinite(value):
            seeds.setdefault((cell.unit, cell.number), []).append(value)
    for (unit, _), values in seeds.items():
        prompts.setdefault(unit, []).append(float(np.mean(values)))
    return np.array([np.mean(prompts[unit]) if unit in prompts else np.nan for unit in units], dtype=np.float64)


def _cases(column: Column, entry: Entry) -> set[Case]:
    """Those in which the entry has a value."""
    return {(c.unit, c.number) for c, value in column.values.items() if entry.holds(c) and np.isfinite(value)}


def _shared(column: Column, entries: Sequence[Entry], cases: set[Case]) -> set[Case]:
    """The cases that this column knows of every entry; an entry of which it knows nothing takes none away."""
    return cases.intersection(*(known for entry in entries if (known := _cases(column, entry))))


def _behind(mine: Float[np.ndarray, " n"], best: Float[np.ndarray, " n"]) -> Difference | None:
    return paired_difference(mine, best) if np.isfinite(mine - best).any() else None


def _interval(values: Float[np.ndarray, " subjects"]) -> Interval:
    known = values[np.isfinite(values)]
    return bootstrap_mean(known) if len(known) else bootstrap_mean(np.array([np.nan]))


def _mean(values: Float[np.ndarray, " subjects"]) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else float("nan")


def _with_corrected(standings: Mapping[tuple[Entry, str], Standing]) -> dict[tuple[Entry, str], Standing]:
    """All comparisons of the board are one family of tests."""
    keys = [key for key, standing in standings.items() if standing.behind]
    adjusted = corrected(np.array([s.behind.p for key in keys if (s := standings[key]).behind], dtype=np.float64))
    fixed = dict(standings)
    for key, p in zip(keys, adjusted.tolist(), strict=True):
        fixed[key] = Standing(standings[key].interval, standings[key].behind, p)
    return fixed


def _ranked(
    entries: Sequence[Entry], columns: Sequence[Column], values: Mapping[tuple[Entry, str], np.ndarray]
) -> tuple[Ranking | None, Interval | None, Ranking | None]:
    table = np.array([[values[entry, column.name] for column in columns] for entry in entries])
    if len(entries) < 2 or not columns or not np.isfinite(table).all():
        return None, None, None
    names, means = [column.name for column in columns], table.mean(axis=2)
    rows = {entry.title: means[i].tolist() for i, entry in enumerate(entries)}
    halves = [0.5 if column.protocol.metric in HALVED else 1.0 for column in columns]
    return rank_methods(rows, names), rank_intervals(table), rank_methods(rows, names, halves)


def _flags(
    column: Column,
    entries: Sequence[Entry],
    standings: Mapping[tuple[Entry, str], Standing],
    blind: Collection[str],
) -> tuple[str, ...]:
    """Why a column alone proves nothing: a control does as well in it as the methods."""
    sign = 1 if column.rising else -1

    def best(of: Sequence[Entry]) -> float:
        found = [standings[entry, column.name] for entry in of if (entry, column.name) in standings]
        known = [sign * float(standing.interval.mean) for standing in found if np.isfinite(standing.interval.mean)]
        return max(known, default=float("nan"))

    copy, wrong = (best([Entry(name, None)]) for name in CONTROLS)
    seeing, unseeing = ([e for e in entries if (e.method in blind) is side] for side in (False, True))
    flags = []
    if copy >= best(entries):
        flags.append("copying the reference wins")
    if column.role == "identity" and wrong >= best(entries):
        flags.append("another subject's picture wins")
    if column.role in ("identity", "text") and best(unseeing) >= best(seeing):
        flags.append("a model without the reference wins")
    return tuple(flags)
