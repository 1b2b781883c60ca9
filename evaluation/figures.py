"""The plots of a report, drawn without any display or global state."""

import io

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from evaluation.summary import Curve, Summary

COLOURS = {"Identity (DINO)": "#1f5fa8", "Identity (CLIP)": "#6aa5d9", "Text alignment (CLIP)": "#c8571b"}


def gate_figure(summary: Summary) -> bytes:
    """PNG with two panels: every metric against gamma with its band, and the path identity takes against text."""
    figure = Figure(figsize=(11, 4.4), layout="constrained")
    against, trade = figure.subplots(1, 2, width_ratios=(3, 2))
    gammas = np.asarray(summary.protocol.gammas)
    for curve in summary.curves:
        _curve(against, gammas, curve)
    against.set(xlabel="γ   (0: the prompt alone, 1: the subject alone)", ylabel="cosine", title="What the dial does")
    against.legend(frameon=False, fontsize=9)
    _trade(trade, gammas, summary)
    for axes in (against, trade):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="#e6e8ec", linewidth=0.8)
        axes.set_axisbelow(True)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=160)
    return buffer.getvalue()


def _curve(axes: Axes, gammas: np.ndarray, curve: Curve) -> None:
    colour = COLOURS[curve.name]
    axes.plot(gammas, curve.interval.mean, marker="o", markersize=4, color=colour, label=curve.name)
    if np.all(np.isfinite(curve.interval.low)):
        axes.fill_between(gammas, curve.interval.low, curve.interval.high, color=colour, alpha=0.16, linewidth=0)
    if np.isfinite(curve.control):
        label = f"{curve.name}: {curve.control_name}"
        axes.axhline(curve.control, color=colour, linestyle=":", linewidth=1.2, label=label)


def _trade(axes: Axes, gammas: np.ndarray, summary: Summary) -> None:
    identity, text = summary.identity_dino.interval.mean, summary.text.interval.mean
    axes.plot(text, identity, color="#9aa1ac", linewidth=1)
    axes.scatter(text, identity, c=gammas, cmap="viridis", s=36, zorder=3)
    shown = {0, len(gammas) // 2, len(gammas) - 1}
    for i in sorted(shown):
        point = (float(text[i]), float(identity[i]))
        axes.annotate(f"γ = {gammas[i]:g}", point, xytext=(7, 4), textcoords="offset points", fontsize=9)
    axes.margins(0.16)
    axes.set(xlabel="text alignment (CLIP)", ylabel="identity (DINO)", title="The exchange: up and right is better")
