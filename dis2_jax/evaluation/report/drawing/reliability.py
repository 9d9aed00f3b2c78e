"""Reliability diagrams: accuracy against confidence, and how many pixels there are of each."""

from __future__ import annotations

from matplotlib.figure import Figure

from dis2_jax.evaluation.report.drawing.style import (
    DASHES,
    FONT,
    MUTED,
    WIDTH,
    new_figure,
    series_color,
    soften,
)
from dis2_jax.evaluation.scoring.measures import Calibration


def draw_reliability(calibration: Calibration, *, series: int) -> Figure:
    """Dots at (mean confidence, accuracy) of each bin on the diagonal's picture; below, the share of pixels."""
    figure = new_figure(WIDTH * 0.72, 3.5)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3.4, 1))
    color = series_color(series)
    known = [b for b in calibration.bins if b.confidence is not None and b.accuracy is not None]
    x = [b.confidence for b in known]
    upper.plot([0, 1], [0, 1], color=MUTED, linewidth=0.9, linestyle=DASHES[1], label="perfect")
    upper.plot(x, [b.accuracy for b in known], color=color, marker="o", markersize=4, label="this model")
    for b in known:
        upper.plot([b.confidence] * 2, [b.confidence, b.accuracy], color=color, linewidth=0.7, alpha=0.6)
    upper.set(xlim=(0, 1), ylim=(0, 1), ylabel="accuracy")
    upper.legend(loc="upper left", fontsize=FONT - 0.5, handlelength=2.2)
    total = sum(b.count for b in calibration.bins) or 1
    for b in calibration.bins:
        lower.bar(
            (b.lower + b.upper) / 2,
            b.count / total,
            width=0.9 * (b.upper - b.lower),
            facecolor="none",
            edgecolor=color,
            hatch="////",
            linewidth=0.8,
        )
    lower.set(ylabel="pixels", xlabel="confidence", ylim=(0, None))
    lower.yaxis.set_major_formatter(lambda v, _: f"{v:.0%}")
    for axes in (upper, lower):
        soften(axes)
    return figure
