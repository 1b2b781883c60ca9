"""The comparison in numbers and words: tables, and whether what was hoped for came out."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from evaluation.comparison import Grid, Scores, single_steps
from evaluation.gate_sweep import GateSweep, area_ratio
from evaluation.pocket import Truth
from evaluation.statistics import Interval
from flexip.pocket.oracle import ATTRIBUTES

HOPED_TAU, HOPED_STEP, HOPED_RATIO = 0.95, 0.2, 1.2


@dataclass(frozen=True)
class Contender:
    """One method in the comparison: all its trainings on the same creatures."""

    name: str
    title: str
    guidance: float
    scores: Scores  # by the oracles
    cosines: dict[str, Grid]  # "dino", "clip" against the reference; "text" against the prompt
    agreement: float  # share of attributes that both oracles read alike
    parameters: int  # trained
    minutes: float  # of one training

    def sweep(self, corner: tuple[float, float]) -> GateSweep:
        """Its dial; areas count from the corner."""
        return self.scores.sweep(self.title, corner)


@dataclass(frozen=True)
class Control:
    """Pictures that no method drew, or that are read against the wrong truth: what the scores are worth."""

    title: str
    identity: float
    edit: float
    cosines: dict[str, float]


def chance(truth: Truth) -> tuple[float, float]:
    """Identity and edit that guessing every attribute evenly would get: the corner that areas are measured from."""
    shown = {name: array.mean() for name, array in truth.visible.items()}
    kept = sum(share / len(ATTRIBUTES[name]) for name, share in shown.items()) / sum(shown.values())
    obeyed = [
        np.mean([1 / len(ATTRIBUTES[name]) for name, asked in truth.stated.items() if asked[edit] >= 0])
        for edit in range(len(next(iter(truth.stated.values()))))
    ]
    return float(kept), float(np.mean(obeyed))


def comparison_table(contenders: Sequence[Contender], corner: tuple[float, float]) -> list[str]:
    """A line for each method: where its dial begins and ends, the area it dominates, and ours over it."""
    ours, lines = contenders[0].sweep(corner), []
    for number, one in enumerate(contenders):
        sweep = one.sweep(corner)
        cells = [
            one.title,
            f"{one.guidance:g}",
            f"{one.parameters / 1e6:.2f} M",
            _ends(sweep.points[:, 0]),
            _ends(sweep.points[:, 1]),
            interval(sweep.area),
            interval(area_ratio(ours, sweep)) if number else "1",
            *(_ends(np.nanmean(one.cosines[kind], axis=(0, 1, 2, 3))) for kind in ("dino", "clip", "text")),
        ]
        lines.append(table_row(cells))
    head = [
        "method", "guidance", "trained", "identity kept", "edit obeyed", "area", "FlexIP's area over it",
        "DINO", "CLIP-I", "CLIP-T",
    ]  # fmt: skip
    return [table_row(head), table_rule(head), *lines]


def control_table(controls: Sequence[Control]) -> list[str]:
    """What the scores of no method at all are."""
    head = ["pictures", "identity kept", "edit obeyed", "DINO", "CLIP-I", "CLIP-T"]
    lines = []
    for one in controls:
        numbers = (one.identity, one.edit, *(one.cosines.get(kind) for kind in ("dino", "clip", "text")))
        lines.append(table_row([one.title, *(_number(number) for number in numbers)]))
    return [table_row(head), table_rule(head), *lines]


def dial_table(contenders: Sequence[Contender], corner: tuple[float, float]) -> list[str]:
    """Order and evenness of every method's dial."""
    head = [
        "method", "tau, identity", "tau, edit", "largest step, means", "single pictures",
        "single pictures, dial relabelled",
    ]  # fmt: skip
    lines = []
    for one in contenders:
        sweep = one.sweep(corner)
        quality = (sweep.tau_identity, sweep.tau_text, sweep.step, *single_steps(one.scores))
        lines.append(table_row([one.title, *(interval(value) for value in quality)]))
    return [table_row(head), table_rule(head), *lines]


def ablation_table(whole: Contender, ablations: Sequence[Contender], corner: tuple[float, float]) -> list[str]:
    """A line for each part taken away: what the whole has more of, with intervals over creatures (one training)."""
    head = ["FlexIP", "area", "the whole's area over it", "identity at gamma 1", "edit at gamma 0", "tau, identity"]
    lines, all_of_it = [], whole.sweep(corner)
    for one in (whole, *ablations):
        sweep = one.sweep(corner)
        kept, obeyed = sweep.curves
        cells = [
            one.title,
            interval(sweep.area),
            "1" if one is whole else interval(area_ratio(all_of_it, sweep)),
            interval(kept, -1),
            interval(obeyed, 0),
            interval(sweep.tau_identity),
        ]
        lines.append(table_row(cells))
    return [table_row(head), table_rule(head), *lines]


def verdicts(contenders: Sequence[Contender], corner: tuple[float, float]) -> list[str]:
    """What was hoped for before anything was measured, and whether it came out."""
    ours, by_name = contenders[0].sweep(corner), {one.name: one.sweep(corner) for one in contenders}
    plus, matched = (area_ratio(ours, by_name[name]) for name in ("ip-adapter-plus", "plus-dino-by-dataset"))
    return [
        verdict(
            f"Kendall's tau of gamma at least {HOPED_TAU} against identity and at most -{HOPED_TAU} against the edit",
            bool(ours.tau_identity.mean >= HOPED_TAU and ours.tau_text.mean <= -HOPED_TAU),
            f"{interval(ours.tau_identity)} and {interval(ours.tau_text)}",
        ),
        verdict(
            f"largest step of the mean identity at most {HOPED_STEP} of its range",
            bool(ours.step.mean <= HOPED_STEP),
            interval(ours.step),
        ),
        verdict(
            f"area at least {HOPED_RATIO} times that of (b), by an interval above 1",
            bool(plus.mean >= HOPED_RATIO and plus.low > 1),
            interval(plus),
        ),
        verdict(
            "area above that of (d), by an interval above 1: only this would say that decoupling helps",
            bool(matched.low > 1),
            interval(matched),
        ),
    ]


def interval(value: Interval, place: int | tuple[()] = ()) -> str:
    """`mean [low, high]`; of an interval of several numbers, the one at this place."""
    mean, low, high = (float(numbers[place]) for numbers in (value.mean, value.low, value.high))
    return f"{mean:.3f} [{low:.3f}, {high:.3f}]"


def verdict(hoped: str, reached: bool, found: str) -> str:
    """A line: what was hoped for, whether it came, and what was found."""
    return f"* {hoped}: **{'reached' if reached else 'not reached'}**, {found}"


def _ends(values: Float[np.ndarray, " settings"]) -> str:
    return f"{values[0]:.3f} → {values[-1]:.3f}"


def _number(value: float | None) -> str:
    return "–" if value is None or not np.isfinite(value) else f"{value:.3f}"


def table_row(cells: Sequence[str]) -> str:
    """Of a Markdown table."""
    return "| " + " | ".join(cells) + " |"


def table_rule(head: Sequence[str]) -> str:
    """What stands below the head of a table."""
    return "|" + "---|" * len(head)
