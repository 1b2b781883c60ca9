"""The plots of dials, as SVG that a page can carry: paths in the plane, and curves over the dial."""

import io
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from evaluation.gate_sweep import GateSweep

COLOURS = ("#c8571b", "#1f5fa8", "#2f8f6b", "#8a5aa8", "#b0892a", "#4c9bd6")
INK, FAINT, RULE = "#22242a", "#6f747c", "#e6e4de"
Point = tuple[float, float]


def plane_figure(
    sweeps: Sequence[GateSweep],
    points: Mapping[str, Point],
    controls: Mapping[str, Point],
    names: tuple[str, str] | None = None,
) -> str:
    """Every dial's path in the plane of identity and text, its front filled; methods without a dial, and controls.

    names: of the two axes; none: those of the first sweep.
    """
    figure = Figure(figsize=(6.4, 5.4), layout="constrained")
    axes = figure.subplots()
    for sweep, colour in zip(sweeps, _colours(len(sweeps)), strict=True):
        path, front = sweep.points, sweep.front
        axes.plot(path[:, 0], path[:, 1], color=colour, linewidth=1.8, marker="o", markersize=4, mfc="white", zorder=3)
        axes.plot(front[:, 0], front[:, 1], "o", color=colour, markersize=5, label=sweep.method, zorder=4)
        for index in {0, len(sweep.settings) - 1}:
            _label(axes, f"{sweep.settings[index]:g}", (path[index, 0], path[index, 1]), colour)
    for (name, point), colour in zip(points.items(), _colours(len(points), len(sweeps)), strict=True):
        axes.plot(*point, "s", color=colour, markersize=7, label=name, zorder=4)
    for name, point in controls.items():
        if np.isfinite(point).all():
            axes.plot(*point, "x", color=FAINT, markersize=7, markeredgewidth=1.6, zorder=2)
            _label(axes, name, point, FAINT)
    if sweeps:
        corner = sweeps[0].corner
        axes.axvline(corner[0], color=FAINT, linewidth=0.8, linestyle=":")
        axes.axhline(corner[1], color=FAINT, linewidth=0.8, linestyle=":")
    axes.margins(0.12)
    kept, said = names or (sweeps[0].identity_name, sweeps[0].text_name)
    _dress(axes, f"identity: {kept}", f"prompt: {said}")
    axes.legend(frameon=False, fontsize=9, loc="best")
    return _svg(figure)


def curves_figure(sweeps: Sequence[GateSweep]) -> str:
    """Identity and text against the setting, the mean with its band."""
    figure = Figure(figsize=(5.4, 5.4), layout="constrained")
    panels = figure.subplots(2, 1, sharex=True)
    for sweep, colour in zip(sweeps, _colours(len(sweeps)), strict=True):
        for axes, curve in zip(panels, sweep.curves, strict=True):
            axes.plot(
                sweep.settings, curve.mean, color=colour, linewidth=2, marker="o", markersize=3.5, label=sweep.method
            )
            if np.isfinite(curve.low).all():
                axes.fill_between(sweep.settings, curve.low, curve.high, color=colour, alpha=0.16, linewidth=0)
    for axes, name in zip(panels, (sweeps[0].identity_name, sweeps[0].text_name), strict=True):
        _dress(axes, "", name)
    panels[1].set_xlabel("γ, or the method's scale", color=INK, fontsize=9.5)
    panels[0].legend(frameon=False, fontsize=9)
    return _svg(figure)


def _colours(count: int, start: int = 0) -> list[str]:
    return [COLOURS[(start + i) % len(COLOURS)] for i in range(count)]


def _label(axes: Axes, text: str, point: Point, colour: str) -> None:
    axes.annotate(text, point, (6, 6), textcoords="offset points", fontsize=8.5, color=colour)


def _dress(axes: Axes, x: str, y: str) -> None:
    axes.set_xlabel(x, color=INK, fontsize=9.5)
    axes.set_ylabel(y, color=INK, fontsize=9.5)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(FAINT)
    axes.tick_params(colors=FAINT, labelsize=8.5)
    axes.grid(color=RULE, linewidth=0.8)
    axes.set_axisbelow(True)


def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    with rc_context({"svg.fonttype": "path", "svg.hashsalt": "flexip"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]
