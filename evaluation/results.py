"""The comparison in numbers and words: tables, and whether what was hoped for came out."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from evaluation.comparison import Grid, Scores, dial_quality, dominated, dominated_ratio
from evaluation.pocket import Truth
from evaluation.statistics import Interval, crossed_bootstrap
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
    ours, lines = contenders[0], []
    for one in contenders:
        points = np.nanmean(one.scores.points, axis=(0, 1))
        ratio = "1" if one is ours else interval(dominated_ratio(ours.scores, one.scores, corner))
        cells = [
            one.title,
            f"{one.guidance:g}",
            f"{one.parameters / 1e6:.2f} M",
            _ends(points[:, 0]),
            _ends(points[:, 1]),
            interval(dominated(one.scores, corner)),
            ratio,
            *(_ends(np.nanmean(one.cosines[kind], axis=(0, 1, 2, 3))) for kind in ("dino", "clip", "text")),
        ]
        lines.append(_row(cells))
    head = [
        "method", "guidance", "trained", "identity kept", "edit obeyed", "area", "FlexIP's area over it",
        "DINO", "CLIP-I", "CLIP-T",
    ]  # fmt: skip
    return [_row(head), _rule(head), *lines]


def control_table(controls: Sequence[Control]) -> list[str]:
    """What the scores of no method at all are."""
    head = ["pictures", "identity kept", "edit obeyed", "DINO", "CLIP-I", "CLIP-T"]
    lines = []
    for one in controls:
        numbers = (one.identity, one.edit, *(one.cosines.get(kind) for kind in ("dino", "clip", "text")))
        lines.append(_row([one.title, *(_number(number) for number in numbers)]))
    return [_row(head), _rule(head), *lines]


def dial_table(contenders: Sequence[Contender]) -> list[str]:
    """Order and evenness of every method's dial."""
    head = [
        "method", "tau, identity", "tau, edit", "largest step, means", "single pictures",
        "single pictures, dial relabelled",
    ]  # fmt: skip
    lines = []
    for one in contenders:
        found = dial_quality(one.scores)
        quality = (found.tau_identity, found.tau_edit, found.step, found.step_each, found.step_calibrated)
        lines.append(_row([one.title, *(interval(value) for value in quality)]))
    return [_row(head), _rule(head), *lines]


def ablation_table(whole: Contender, ablations: Sequence[Contender], corner: tuple[float, float]) -> list[str]:
    """A line for each part taken away: what the whole has more of, with intervals over creatures (one training)."""
    head = ["FlexIP", "area", "the whole's area over it", "identity at gamma 1", "edit at gamma 0", "tau, identity"]
    lines = []
    for one in (whole, *ablations):
        ratio = "1" if one is whole else interval(dominated_ratio(whole.scores, one.scores, corner))
        points = one.scores.points
        ends = [interval(crossed_bootstrap(_mean, points[:, :, k, axis])) for k, axis in ((-1, 0), (0, 1))]
        quality = dial_quality(one.scores)
        cells = [one.title, interval(dominated(one.scores, corner)), ratio, *ends, interval(quality.tau_identity)]
        lines.append(_row(cells))
    return [_row(head), _rule(head), *lines]


def verdicts(contenders: Sequence[Contender], corner: tuple[float, float]) -> list[str]:
    """What was hoped for before anything was measured, and whether it came out."""
    ours, by_name = contenders[0], {one.name: one for one in contenders}
    quality = dial_quality(ours.scores)
    plus = dominated_ratio(ours.scores, by_name["ip-adapter-plus"].scores, corner)
    matched = dominated_ratio(ours.scores, by_name["plus-dino-by-dataset"].scores, corner)
    return [
        _verdict(
            f"Kendall's tau of gamma at least {HOPED_TAU} against identity and at most -{HOPED_TAU} against the edit",
            bool(quality.tau_identity.mean >= HOPED_TAU and quality.tau_edit.mean <= -HOPED_TAU),
            f"{interval(quality.tau_identity)} and {interval(quality.tau_edit)}",
        ),
        _verdict(
            f"largest step of the mean identity at most {HOPED_STEP} of its range",
            bool(quality.step.mean <= HOPED_STEP),
            interval(quality.step),
        ),
        _verdict(
            f"area at least {HOPED_RATIO} times that of (b), by an interval above 1",
            bool(plus.mean >= HOPED_RATIO and plus.low > 1),
            interval(plus),
        ),
        _verdict(
            "area above that of (d), by an interval above 1: only this would say that decoupling helps",
            bool(matched.low > 1),
            interval(matched),
        ),
    ]


def interval(value: Interval) -> str:
    """`mean [low, high]`."""
    return f"{float(value.mean):.3f} [{float(value.low):.3f}, {float(value.high):.3f}]"


def _verdict(hoped: str, reached: bool, found: str) -> str:
    return f"* {hoped}: **{'reached' if reached else 'not reached'}**, {found}"


def _ends(values: Float[np.ndarray, " settings"]) -> str:
    return f"{values[0]:.3f} → {values[-1]:.3f}"


def _number(value: float | None) -> str:
    return "–" if value is None or not np.isfinite(value) else f"{value:.3f}"


def _mean(values: np.ndarray) -> float:
    return float(np.nanmean(values))


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _rule(head: Sequence[str]) -> str:
    return "|" + "---|" * len(head)
