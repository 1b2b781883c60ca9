"""The plots of a report, drawn without any display or global state."""

import io

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from evaluation.summary import Curve, Summary

COLOURS = ("#1f5fa8", "#4c9bd6", "#c8571b")  # of Summary.curves


def gate_figure(summary: Summary) -> bytes:
    """PNG of four panels: each metric against gamma with its band, and the path that identity takes against text."""
    figure = Figure(figsize=(11, 7), layout="constrained")
    panels = list(figure.subplots(2, 2).flat)
    gammas = np.asarray(summary.protocol.gammas)
    for axes, curve, colour in zip(panels, summary.curves, COLOURS, strict=False):
        _curve(axes, gammas, curve, colour)
    _trade(panels[-1], gammas, summary)
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="#e6e8ec", linewidth=0.8)
        axes.set_axisbelow(True)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=160)
    return buffer.getvalue()


def _curve(axes: Axes, gammas: np.ndarray, curve: Curve, colour: str) -> None:
    interval = curve.interval
    for values in curve.per_subject:
        axes.plot(gammas, values, color=colour, alpha=0.22, linewidth=0.8)
    if np.all(np.isfinite(interval.low)):
        label = f"{interval.confidence:.0%} over {interval.subjects} subjects"
        axes.fill_between(gammas, interval.low, interval.high, color=colour, alpha=0.16, linewidth=0, label=label)
    axes.plot(gammas, interval.mean, marker="o", markersize=4, color=colour, label="mean")
    if np.isfinite(curve.control):
        axes.axhline(curve.control, color="#6e737c", linestyle=":", linewidth=1.4, label=curve.control_name)
    axes.set(title=curve.name, xlabel="γ   (0: the prompt alone, 1: the subject alone)", ylabel="cosine")
    axes.legend(frameon=False, fontsize=9)


def _trade(axes: Axes, gammas: np.ndarray, summary: Summary) -> None:
    identity, text = summary.identity_dino.interval.mean, summary.text.interval.mean
    axes.plot(text, identity, color="#9aa1ac", linewidth=1)
    axes.scatter(text, identity, c=gammas, cmap="viridis", s=36, zorder=3)
    for i in sorted({0, len(gammas) // 2, len(gammas) - 1}):
        point = (float(text[i]), float(identity[i]))
        axes.annotate(f"γ = {gammas[i]:g}", point, xytext=(7, 4), textcoords="offset points", fontsize=9)
    axes.margins(0.16)
    axes.set(xlabel="text alignment (CLIP)", ylabel="identity (DINO)", title="The exchange: up and right is better")
