"""The comparison in pictures: curves over the dial, the plane of identity against edit, and strips of pictures."""

import io
from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image, ImageDraw

from evaluation.comparison import curve
from evaluation.results import Contender, Control
from evaluation.sheet import label_font
from evaluation.statistics import pareto_front

COLOURS = ("#c8571b", "#9aa5b1", "#4c9bd6", "#1f5fa8", "#2f8f6b")  # of the contenders, in their order


def curves_figure(contenders: Sequence[Contender]) -> bytes:
    """PNG: identity kept and edit obeyed against the dial, from its one end to the other, with bands."""
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    for one, colour in zip(contenders, COLOURS, strict=False):
        place = np.linspace(0, 1, len(one.scores.settings))
        for axes, found in zip((left, right), curve(one.scores), strict=True):
            axes.plot(place, found.mean, color=colour, label=one.title, linewidth=2 if one is contenders[0] else 1.4)
            axes.fill_between(place, found.low, found.high, color=colour, alpha=0.15, linewidth=0)
    for axes, name in ((left, "identity kept"), (right, "edit obeyed")):
        _dress(axes, "dial, from one end to the other (gamma 0 to 1; scale 0 to 1.5)", name)
    left.legend(frameon=False, fontsize=8.5)
    return _png(figure)


def plane_figure(contenders: Sequence[Contender], controls: Sequence[Control], corner: tuple[float, float]) -> bytes:
    """PNG: each method's path in the plane of identity and edit, its Pareto front filled, and the controls."""
    figure = Figure(figsize=(7.4, 6), layout="constrained")
    axes = figure.subplots()
    for one, colour in zip(contenders, COLOURS, strict=False):
        points = np.nanmean(one.scores.points, axis=(0, 1))
        front = pareto_front(points)
        axes.plot(points[:, 0], points[:, 1], color=colour, marker="o", markersize=3.5, linewidth=1.4, label=one.title)
        axes.plot(front[:, 0], front[:, 1], color=colour, linestyle="none", marker="o", markersize=6, alpha=0.5)
    for control in controls:
        axes.plot(control.identity, control.edit, color="#555b63", marker="x", markersize=6)
        axes.annotate(control.title, (control.identity, control.edit), (5, 5), textcoords="offset points", fontsize=8)
    axes.axvline(corner[0], color="#b9bec6", linewidth=0.8, linestyle=":")
    axes.axhline(corner[1], color="#b9bec6", linewidth=0.8, linestyle=":")
    _dress(axes, "identity kept", "edit obeyed")
    axes.legend(frameon=False, fontsize=8.5, loc="lower left")
    return _png(figure)


def strips_figure(strips: Sequence[tuple[str, UInt8[np.ndarray, "H W 3"]]], side: int) -> UInt8[np.ndarray, "Hs Ws 3"]:
    """One picture in which, subject by subject, every method's row stands under the one before.

    strips: title and its rows of `side` px tiles, one row a subject, the reference first.
    """
    columns, subjects = strips[0][1].shape[1] // side, strips[0][1].shape[0] // side
    margin, gap, line = 168, 14, side + 2
    sheet = Image.new("RGB", (margin + columns * side + gap, subjects * (len(strips) * line + gap)), "white")
    draw, font = ImageDraw.Draw(sheet), label_font(12)
    for subject in range(subjects):
        for number, (title, picture) in enumerate(strips):
            top = subject * (len(strips) * line + gap) + number * line
            row = picture[subject * side : (subject + 1) * side]
            sheet.paste(Image.fromarray(np.ascontiguousarray(row[:, :side])), (margin, top))
            sheet.paste(Image.fromarray(np.ascontiguousarray(row[:, side:])), (margin + side + gap, top))
            draw.text((8, top + side // 2), title, font=font, fill="#1c1e22", anchor="lm")
    return np.asarray(sheet)


def _dress(axes: Axes, x: str, y: str) -> None:
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#e6e8ec", linewidth=0.8)
    axes.set_axisbelow(True)


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    return buffer.getvalue()
