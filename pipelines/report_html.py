"""`report.html`: what became of every input, to be looked at by a person; one file, which loads nothing.

It tells times and speeds too, which no two runs have in common: it lies beside the dataset and is no part of it, the
manifest does not list it.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipelines import samples
from pipelines.records import UNITS, StageCount
from pipelines.settings import CurationSettings
from pipelines.truth import GOALS, Quality

REPORT = "report.html"
PAIRS_SHOWN = 24  # of each dataset
BINS = 24
_MEANINGS = {  # of reasons; the words before a colon name the stage that failed
    "bad_kind": "the manifest names a kind of source that there is not",
    "bad_metadata": "what its manifest says of it cannot be read",
    "bad_name": "its name in the archive cannot be used",
    "bad_row": "the line of the manifest cannot be read",
    "blurred": "next to no edges: out of focus, empty or faded",
    "died": "the decoder crashed, three times over",
    "duplicate": "another file has the same bytes",
    "empty_file": "the file has no bytes",
    "featureless": "one even colour inside the mask: a piece of wall, sky or curtain",
    "identity_low": "the two crops may show different subjects",
    "near_duplicate": "it looks like another source, which was kept",
    "no_file": "the line of the manifest names no file",
    "no_consent": "faces, and nothing says that the people agreed",
    "no_licence": "faces, and nothing says how the file may be used",
    "no_subject": "nothing stands out in the frame",
    "no_video_stream": "sound only",
    "not_a_file": "the manifest names something that is no file",
    "not_a_video": "the bytes are of no known video format",
    "not_an_image": "the bytes are of no known image format",
    "over_limit": "the track has given its number of pairs already",
    "pairs": "making pairs failed",
    "password_in_url": "an address with a password in it is not followed",
    "pixels_apart": "the two crops have too little in common",
    "pixels_equal": "the two crops are nearly equal: the pair would teach copying",
    "scattered": "the mask covers little of its box: crumbs, a net or a frame",
    "subjects": "finding subjects failed",
    "timeout": "it took longer than its limit and was ended",
    "too_bright": "an almost white frame",
    "too_dark": "an almost black frame",
    "too_few_pixels": "the subject has too few pixels",
    "too_large": "the subject fills too much of the frame",
    "too_many_bytes": "the file is larger than is allowed",
    "too_many_pixels": "the picture has more pixels than are allowed",
    "too_small": "smaller than is allowed",
    "truncated": "the file ends in the middle",
    "undecodable": "the decoder gave up",
    "unknown_suffix": "nothing tells whether it is a video or a picture",
    "unreadable": "the storage did not give the file",
}
_STAGES = {
    "read": ("read and decode", "CPU: decoding"),
    "search": ("find subjects", "CPU: detection, masks, tracks, filters"),
    "embed": ("embed crops", "the encoder"),
    "pairs": ("make pairs", "CPU and disk: pictures encoded and written"),
}
_MEASURES = {  # name: (title, unit, setting whose limits are drawn)
    "area": ("area of the subject", "of the frame", ("area_min", "area_max")),
    "sharpness": ("sharpness of the frame", "variance of the Laplacian", ("sharpness_min",)),
    "identity_similarity": ("identity of variant pairs", "DINO cosine", ("identity_min",)),
    "pixel_similarity": ("pixels of variant pairs", "1 - mean difference", ("pixels_min", "pixels_max")),
    "duration": ("length of the clips", "s", ()),
    "time_gap": ("time between the frames of a pair", "s", ()),
}


@dataclass(frozen=True)
class StageTime:
    """How busy one stage was."""

    stage: str
    frames: int
    busy_s: float  # sum over its workers
    workers: int  # 0: tasks, as many as there is room for
    wall_s: float  # of the pass; 0: not all of it was done by this start

    @property
    def speed(self) -> float:
        """Frames per second and core."""
        return self.frames / self.busy_s if self.busy_s else 0.0

    @property
    def share(self) -> float:
        """Part of its workers' time in which they had work, 0..1; NaN where it cannot be told."""
        return self.busy_s / (self.wall_s * self.workers) if self.wall_s and self.workers else float("nan")


@dataclass(frozen=True)
class Facts:
    """What a report is about, beside the rows in the dataset's folder."""

    settings: CurationSettings
    counts: Mapping[str, StageCount]
    sizes: Mapping[str, Mapping[str, int]]  # dataset -> split -> pairs
    clusters: Mapping[str, int]  # split -> identity clusters
    times: Sequence[StageTime]
    quality: Quality | None
    inputs: int  # sources that were listed
    sampled: bool  # a dry run over some of them


def write_report(target: Path, dataset: Path, facts: Facts) -> Path:
    """Writes the report on the rows in a dataset's folder to `target`, whole or not at all."""
    partial = target.with_name(f"{target.name}.partial")
    partial.write_text(render(dataset, facts), encoding="utf-8")
    os.replace(partial, target)
    return target


def render(dataset: Path, facts: Facts) -> str:
    """The report as HTML. Everything that comes from outside (names, captions, licences) is escaped."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    found = samples.read_samples(dataset, facts.settings.seed)
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    values = found.values | samples.pair_measures(dataset, facts.settings.seed)
    return environment.get_template("report.html.j2").render(
        facts=facts,
        title="Dry run" if facts.sampled else "Curation",
        verdict=verdict(facts),
        funnel=[_level(unit, facts.counts[unit]) for unit in UNITS],
        pairs=samples.read_pairs(dataset, facts.settings.seed, PAIRS_SHOWN),
        rejects=_rejects(facts, found),
        histograms=[_histogram(name, values[name], facts.settings) for name in _MEASURES if values.get(name)],
        stages=_stage_rows(facts.times),
        found=found,
        shares=samples.shares,
        goals=GOALS,
        input=facts.settings.input.path,
    )


def verdict(facts: Facts) -> str:
    """What came of it, in one or two sentences."""
    sources, pairs = facts.counts["source"], facts.counts["pair"]
    clusters = sum(facts.clusters.values())
    begin = f"{sources.total:,} of {facts.inputs:,} inputs were tried: " if facts.sampled else ""
    made = f"{begin}{sources.accepted:,} of {sources.total:,} sources could be used"
    if not pairs.accepted:
        return f"{made}, and not one pair came of them."
    text = f"{made}. They give {pairs.accepted:,} pairs of {clusters:,} identity clusters."
    worst = max(sources.rejected | sources.quarantined, key=lambda r: (_number(sources, r), r), default="")
    return f"{text} What was left out most: {worst.replace('_', ' ')} ({_number(sources, worst):,})." if worst else text


def meaning(reason: str) -> str:
    """One line about a reason."""
    stage, _, what = reason.partition(":")
    said = _MEANINGS.get(stage, "")
    return f"{said} ({what})" if said and what else said


def _number(count: StageCount, reason: str) -> int:
    return count.rejected.get(reason, 0) + count.quarantined.get(reason, 0)


def _level(unit: str, count: StageCount) -> dict[str, Any]:
    parts = {
        "accepted": count.accepted,
        "rejected": sum(count.rejected.values()),
        "quarantined": sum(count.quarantined.values()),
    }
    shares = {name: 100 * number / max(count.total, 1) for name, number in parts.items()}
    return {"unit": unit, "total": count.total, "parts": parts, "shares": shares}


def _rejects(facts: Facts, found: samples.Samples) -> list[dict[str, Any]]:
    """Every reason of every unit, the most frequent first within its unit, with pictures where there are some."""
    listed = []
    for unit in UNITS:
        count = facts.counts[unit]
        for status in ("rejected", "quarantined"):
            for reason, number in getattr(count, status).items():
                tiles = found.tiles.get((unit, status, reason), [])
                same = {"unit": unit, "status": status, "reason": reason, "number": number}
                listed.append({**same, "meaning": meaning(reason), "tiles": tiles})
    order = {unit: place for place, unit in enumerate(UNITS)}
    return sorted(listed, key=lambda r: (order[r["unit"]], -r["number"], r["reason"]))


def _histogram(name: str, values: Sequence[tuple[float, bool]], settings: CurationSettings) -> dict[str, Any]:
    """Bars of accepted and other values, as percentages of the drawing; the limits that the settings draw."""
    title, unit, limits = _MEASURES[name]
    numbers = np.array([value for value, _ in values])
    kept = np.array([accepted for _, accepted in values])
    drawn = [float(getattr(section, key)) for key in limits for section in _sections(settings) if hasattr(section, key)]
    low, high = float(numbers.min()), float(np.quantile(numbers, 0.99) if len(numbers) > 100 else numbers.max())
    low, high = min([low, *drawn[:1]]), max([high, low + 1e-6])
    edges = np.linspace(low, high, BINS + 1)
    clipped = np.clip(numbers, low, high)  # the last bar holds what is beyond
    yes, no = np.histogram(clipped[kept], edges)[0], np.histogram(clipped[~kept], edges)[0]
    top = max(int((yes + no).max()), 1)
    bars = [(100 * i / BINS, 100 * y / top, 100 * n / top) for i, (y, n) in enumerate(zip(yes, no, strict=True))]
    lines = [100 * (limit - low) / (high - low) for limit in drawn if low <= limit <= high]
    middle = float(np.median(numbers))
    same = {"title": title, "unit": unit, "low": _short(low), "high": _short(high), "median": _short(middle)}
    return {**same, "bars": bars, "lines": lines, "width": 100 / BINS, "number": len(numbers)}


def _sections(settings: CurationSettings) -> Sequence[Any]:
    return settings.filters, settings.pairs


def _stage_rows(times: Sequence[StageTime]) -> list[dict[str, Any]]:
    """Rows of the table of speeds; the busiest stage bounds the pass, the others wait for it."""
    shares = [time.share for time in times if time.share == time.share]
    busiest = max(shares, default=0.0)
    rows = []
    for time in times:
        name, bound = _STAGES.get(time.stage, (time.stage, "CPU"))
        known = time.share == time.share
        bounds = known and time.share == busiest
        rows.append(
            {
                "name": name,
                "workers": time.workers or "tasks",
                "busy": f"{time.busy_s:,.1f} s",
                "speed": f"{time.speed:,.1f}" if time.busy_s else "-",
                "share": f"{time.share:.0%}" if known else "-",
                "fill": 100 * min(time.share, 1.0) if known else 0,
                "bound": f"bounds the pass ({bound})" if bounds else "waits for the slowest stage" if known else bound,
            }
        )
    return rows


def _short(value: float) -> str:
    """Three digits, or all of a number that has more before its point."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
