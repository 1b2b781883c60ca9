"""The report of an evaluation: one HTML file that loads nothing, and the same as JSON."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.resources import files
from typing import Any

import jinja2
import numpy as np

from evaluation.answers import Answer
from evaluation.benchmarks import Benchmark
from evaluation.calibration_check import Check
from evaluation.figures import curves_figure, plane_figure
from evaluation.gate_sweep import GateSweep
from evaluation.leaderboard import CONTROLS, Entry, Leaderboard, Standing
from evaluation.scoring import Column
from evaluation.statistics import Interval
from flexip.images import Rgb, encode_jpeg, pad_square, resize

TILE = 112  # [px] of a picture in the gallery
GALLERY_SUBJECTS, GALLERY_PROMPTS, WORST = 6, 2, 8
FEW_SUBJECTS = 10  # below this a percentile interval over subjects is known to be too narrow


@dataclass(frozen=True)
class Report:
    """All that the page shows."""

    title: str
    benchmark: Benchmark
    board: Leaderboard
    sweeps: Sequence[GateSweep]
    identity: Column  # the two metrics that the trade is shown in
    text: Column
    answers: Sequence[Answer]  # of methods, not of controls
    failures: Sequence[str] = ()  # a line each
    notes: Sequence[str] = ()  # e.g. what pooling left out
    remarks: Sequence[str] = ()  # what a reader must know before the numbers
    checks: Sequence[Check] = ()
    provenance: Mapping[str, str] = field(default_factory=dict)


def render(report: Report) -> str:
    """The page."""
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"number": number, "spread": spread}
    template = environment.from_string(files("evaluation").joinpath("report.html.j2").read_text("utf-8"))
    board = report.board
    return template.render(
        report=report,
        board=board,
        few=board.subjects < FEW_SUBJECTS,
        pictures=len(report.answers),
        columns=board.columns,
        rows=[_row(board, entry) for entry in board.entries],
        control_rows=[_row(board, entry) for entry in board.controls],
        plane=_plane(report),
        curves=curves_figure(report.sweeps) if report.sweeps else "",
        gallery=_gallery(report),
        worst=[(column, _worst(report, column)) for column in (report.identity, report.text)],
        protocols=[(column.protocol, column.protocol.id) for column in board.columns],
    )


def document(report: Report) -> dict[str, Any]:
    """The same as plain JSON values; what is unknown is null."""
    board = report.board
    return {
        "title": report.title,
        "benchmark": {
            "name": report.benchmark.name,
            "digest": report.benchmark.digest,
            "subjects": len(report.benchmark.units),
            "cases": len(report.benchmark.cases),
            "cases_compared": board.cases,
        },
        "pictures": len(report.answers),
        "failures": list(report.failures),
        "notes": list(report.notes),
        "remarks": list(report.remarks),
        "protocols": {c.name: {"id": c.protocol.id, **asdict(c.protocol)} for c in board.columns},
        "flags": {name: list(why) for name, why in board.flags.items()},
        "leaderboard": [_entry_document(board, entry) for entry in (*board.entries, *board.controls)],
        "mean_rank_pool": board.ranking.pool if board.ranking else None,
        "sweeps": [_sweep_document(sweep) for sweep in report.sweeps],
        "checks": [asdict(check) | {"passed": check.passed} for check in report.checks],
        "provenance": dict(report.provenance),
    }


def number(value: Any, digits: int = 3) -> str:
    """A number as the page has it, a dash where there is none."""
    value = float(value)
    return f"{value:.{digits}f}" if np.isfinite(value) else "–"


def spread(interval: Interval, digits: int = 3, place: int | tuple[()] = ()) -> str:
    """`[low, high]`, or nothing where there is no interval; of several numbers' intervals, the one at this place."""
    low, high = float(interval.low[place]), float(interval.high[place])
    return f"[{low:.{digits}f}, {high:.{digits}f}]" if np.isfinite(low) else ""


@dataclass(frozen=True)
class _Row:
    entry: Entry
    cells: list[Standing]
    rank: float | None
    rank_low: float
    rank_high: float
    half: float | None


def _row(board: Leaderboard, entry: Entry) -> _Row:
    cells = [board.standings[entry, column.name] for column in board.columns]
    if board.ranking is None or entry not in board.entries:
        return _Row(entry, cells, None, np.nan, np.nan, None)
    place, interval, half = board.entries.index(entry), board.rank_interval, board.half_weighted
    assert interval is not None
    assert half is not None
    low, high = float(interval.low[place]), float(interval.high[place])
    return _Row(entry, cells, float(board.ranking.mean[place]), low, high, float(half.mean[place]))


def _plane(report: Report) -> str:
    board, names = report.board, (report.identity.name, report.text.name)

    def point(entry: Entry) -> tuple[float, float]:
        left, right = (float(board.standings[entry, name].interval.mean) for name in names)
        return left, right

    swept = {sweep.method for sweep in report.sweeps}
    points = {entry.method: point(entry) for entry in board.entries if entry.method not in swept}
    return plane_figure(report.sweeps, points, {entry.title: point(entry) for entry in board.controls}, names)


@dataclass(frozen=True)
class _Strip:
    method: str
    tiles: list[tuple[str, str]]  # label and picture


def _gallery(report: Report) -> list[dict[str, Any]]:
    """Subject by subject and prompt by prompt: the reference, then each method at every setting, first seed."""
    by_case: dict[tuple[str, int], dict[str, list[Answer]]] = {}
    for answer in report.answers:
        cell = answer.cell
        by_case.setdefault((cell.unit, cell.number), {}).setdefault(cell.method, []).append(answer)
    shown = []
    for case in report.benchmark.cases:
        units = {entry["unit"] for entry in shown}
        if case.number >= GALLERY_PROMPTS or (case.unit not in units and len(units) >= GALLERY_SUBJECTS):
            continue
        strips = []
        for method, answers in by_case.get((case.unit, case.number), {}).items():
            seed = min(answer.cell.seed for answer in answers)
            first = [answer for answer in answers if answer.cell.seed == seed]
            first.sort(key=lambda answer: -1 if answer.cell.gamma is None else answer.cell.gamma)
            strips.append(_Strip(method, [(_dial(answer), tile(answer.image)) for answer in first]))
        references = [tile(report.benchmark.subject(name).reference.image) for name in case.subjects]
        if strips:
            shown.append({"unit": case.unit, "prompt": case.prompt, "references": references, "strips": strips})
    return shown


def _worst(report: Report, column: Column) -> list[dict[str, Any]]:
    """The answers of the leaderboard's entries that score lowest, each beside its reference.

    A dial's other settings are left out: that gamma 0 keeps no identity is what it is for.
    """
    shown = [answer for answer in report.answers if any(entry.holds(answer.cell) for entry in report.board.entries)]
    scored = [(column.values.get(answer.cell, np.nan), answer) for answer in shown]
    known = sorted((pair for pair in scored if np.isfinite(pair[0])), key=lambda pair: pair[0])
    prompts = {(case.unit, case.number): case for case in report.benchmark.cases}
    found = []
    for value, answer in known[:WORST]:
        case = prompts[answer.cell.unit, answer.cell.number]
        found.append(
            {
                "value": value,
                "title": f"{answer.cell.method} {_dial(answer)}".strip(),
                "prompt": case.prompt,
                "picture": tile(answer.image),
                "reference": tile(report.benchmark.subject(case.subjects[0]).reference.image),
            }
        )
    return found


def _dial(answer: Answer) -> str:
    return "" if answer.cell.gamma is None else f"γ {answer.cell.gamma:g}"


def tile(image: Rgb, side: int = TILE) -> str:
    """The picture as a data URI; small ones are enlarged by whole pixels, so that they show what they are."""
    square = pad_square(image)
    factor = 2 * side // len(square)
    square = square.repeat(factor, 0).repeat(factor, 1) if factor >= 2 else resize(square, (2 * side, 2 * side))
    return "data:image/jpeg;base64," + base64.b64encode(encode_jpeg(square, quality=82)).decode()


def _entry_document(board: Leaderboard, entry: Entry) -> dict[str, Any]:
    row = _row(board, entry)
    metrics = {}
    for column, standing in zip(board.columns, row.cells, strict=True):
        behind = standing.behind
        metrics[column.name] = _interval(standing.interval) | {
            "first_or_tie": standing.first and entry in board.entries,
            "difference_from_best": _interval(behind.interval) if behind else None,
            "verdict": behind.verdict if behind else None,
            "p_holm": _finite(standing.p),
            "detectable_difference": _finite(behind.detectable) if behind else None,
        }
    return {
        "method": entry.method,
        "gamma": entry.gamma,
        "control": entry.method in CONTROLS,
        "mean_rank": row.rank,
        "mean_rank_interval": [_finite(row.rank_low), _finite(row.rank_high)],
        "mean_rank_half_weighted": row.half,
        "metrics": metrics,
    }


def _sweep_document(sweep: GateSweep) -> dict[str, Any]:
    kept, said = sweep.curves
    return {
        "method": sweep.method,
        "identity": sweep.identity_name,
        "text": sweep.text_name,
        "settings": sweep.settings.tolist(),
        "identity_curve": _interval(kept),
        "text_curve": _interval(said),
        "front": sweep.front.tolist(),
        "corner": sweep.corner.tolist(),
        "area": _interval(sweep.area),
        "kendall_tau_identity": _interval(sweep.tau_identity),
        "kendall_tau_text": _interval(sweep.tau_text),
        "largest_step": _interval(sweep.step),
    }


def _interval(interval: Interval) -> dict[str, Any]:
    values = {name: _plain(getattr(interval, name)) for name in ("mean", "low", "high")}
    return values | {"n": interval.subjects, "confidence": interval.confidence}


def _plain(values: np.ndarray) -> Any:
    return _finite(float(values)) if np.ndim(values) == 0 else [_finite(float(value)) for value in values]


def _finite(value: float) -> float | None:
    return round(value, 6) if np.isfinite(value) else None
