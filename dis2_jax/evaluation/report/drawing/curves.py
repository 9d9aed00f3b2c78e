"""Lines over steps: small multiples with a scale each, and several series in one picture."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from dis2_jax.evaluation.report.drawing.style import (
    FONT,
    INK,
    MUTED,
    WIDTH,
    new_figure,
    series_color,
    series_dash,
    series_marker,
    short,
    soften,
)

_MOST_POINTS = 400
_SMOOTH_FROM = 60
"""Points from which a moving mean is drawn over the values."""


@dataclasses.dataclass(frozen=True, eq=False)
class Series:
    """Values over steps, both ``[N]``, without gaps."""

    name: str
    steps: np.ndarray
    values: np.ndarray


def draw_multiples(series: Sequence[Series], *, resumes: Sequence[int] = ()) -> Figure:
    """One small picture per series, two in a row; dotted lines where training was resumed."""
    columns = 2
    lines = math.ceil(len(series) / columns)
    figure = new_figure(WIDTH, 0.25 + 1.08 * lines)
    grid = figure.subplots(lines, columns, squeeze=False, sharex=True)
    for axes, one in zip(grid.flat, series, strict=False):
        steps, values = thin(one.steps, one.values)
        smooth = moving_mean(values)
        if smooth is None:
            axes.plot(steps, values, color=series_color(1), linewidth=1.2)
        else:
            axes.plot(steps, values, color=series_color(1), linewidth=0.6, alpha=0.45)
            axes.plot(steps, smooth, color=series_color(1), linewidth=1.4)
        axes.set_title(short(one.name, 26), loc="left", pad=2)
        axes.yaxis.set_major_locator(MaxNLocator(3))
        axes.yaxis.set_major_formatter(FuncFormatter(brief))
        axes.xaxis.set_major_locator(MaxNLocator(3, integer=True))
        axes.xaxis.set_major_formatter(FuncFormatter(brief))
        _mark_resumes(axes, resumes)
        soften(axes)
    for axes in grid.flat[len(series) :]:
        axes.set_visible(False)
    for j in range(columns):
        last = [i for i in range(lines) if i * columns + j < len(series)]
        if last:
            grid[last[-1], j].set_xlabel("step", labelpad=1)
            grid[last[-1], j].tick_params(labelbottom=True)
    return figure


def draw_scores_over_steps(series: Sequence[Series], *, best: int | None, resumes: Sequence[int]) -> Figure:
    """Validation mIoU of every scenario; the full one first. A vertical line at the best checkpoint."""
    figure = new_figure(WIDTH, 3.0 + 0.16 * math.ceil(len(series) / 2))
    axes = figure.subplots()
    for i, one in enumerate(series):
        axes.plot(
            one.steps,
            one.values,
            color=series_color(i),
            linestyle=series_dash(i),
            marker=series_marker(i),
            markersize=4 if len(one.steps) <= 40 else 0,
            label=short(one.name, 28),
        )
    if best is not None:
        axes.axvline(best, color=MUTED, linewidth=0.9)
        axes.annotate(
            "best",
            (best, 1.0),
            xycoords=("data", "axes fraction"),
            ha="center",
            va="bottom",
            fontsize=FONT - 0.5,
            color=INK,
        )
    _mark_resumes(axes, resumes)
    axes.set_xlabel("step")
    axes.set_ylabel("validation mIoU")
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(brief))
    soften(axes)
    figure.legend(loc="outside lower center", ncols=2, handlelength=2.8)
    return figure


def thin(steps: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """At most 400 points: means of equally many neighbours."""
    size = math.ceil(len(steps) / _MOST_POINTS)
    if size <= 1:
        return steps, values
    cuts = np.arange(0, len(steps), size)
    counts = np.diff(np.append(cuts, len(steps)))
    return np.add.reduceat(steps, cuts) / counts, np.add.reduceat(values, cuts) / counts


def moving_mean(values: np.ndarray) -> np.ndarray | None:
    """Mean over a window of a 15th of the curve (narrower at its ends); None for a short curve."""
    if len(values) < _SMOOTH_FROM:
        return None
    half = max(len(values) // 30, 1)
    total = np.concatenate([[0.0], np.cumsum(values)])
    i = np.arange(len(values))
    reach = np.minimum(half, np.minimum(i, len(values) - 1 - i))
    return (total[i + reach + 1] - total[i - reach]) / (2 * reach + 1)


def brief(value: float, _: object = None) -> str:
    """Write an axis number in few characters: 1500 -> 1.5k."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.3g}"


def _mark_resumes(axes: object, resumes: Sequence[int]) -> None:
    for step in resumes:
        axes.axvline(step, color=MUTED, linewidth=0.8, linestyle=(0, (1, 2)))  # type: ignore[attr-defined]
