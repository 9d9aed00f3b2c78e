"""Matrices with their values in the cells: scenario x class scores, confusion matrices."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from dis2_jax.evaluation.report.drawing.style import FONT, INK, MUTED, SCALE, WIDTH, ink_on, new_figure, short
from dis2_jax.evaluation.results import Evaluation, ScenarioResult

_LABEL = 30
"""Characters of a row's name."""
_MOST_WITH_VALUES = 16
"""Columns up to which values are printed."""


@dataclasses.dataclass(frozen=True)
class Matrix:
    """A figure and the texts that show over its cells, by gid (see ``render``)."""

    figure: Figure
    hover: Mapping[str, str]


def draw_scores(evaluation: Evaluation) -> Matrix:
    """IoU of every scenario (rows) and class, with mIoU on the right."""
    rows = evaluation.scenarios
    values = [[c.iou for c in s.metrics.classes] + [s.metrics.miou] for s in rows]
    columns = [*evaluation.classes, "mIoU"]
    names = [row_label(s) for s in rows]
    hover = {
        f"cell-{i}-{j}": f"{rows[i].name}, {columns[j]}: IoU {_number(v)}"
        for i, line in enumerate(values)
        for j, v in enumerate(line)
    }
    figure = _figure(columns, names)
    axes = figure.subplots()
    _cells(axes, values, names, columns, gap_before=len(columns) - 1)
    return Matrix(figure, hover)


def draw_confusion(result: ScenarioResult) -> Matrix:
    """Share of each reference class (rows) predicted as each class; empty rows: not in the reference."""
    counts = np.asarray(result.confusion, np.int64)
    total = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, total, out=np.full(counts.shape, np.nan), where=total > 0)
    values = [[None if np.isnan(v) else float(v) for v in line] for line in shares]
    names = list(result.classes)
    hover = {
        f"cell-{i}-{j}": f"{names[i]} predicted as {names[j]}: {counts[i, j]:,} of {total[i, 0]:,} px"
        for i in range(len(names))
        for j in range(len(names))
    }
    figure = _figure(names, names)
    axes = figure.subplots()
    _cells(axes, values, names, names, digits=2)
    axes.set_ylabel("reference")
    axes.set_xlabel("predicted")
    axes.xaxis.set_label_position("top")
    return Matrix(figure, hover)


def row_label(result: ScenarioResult) -> str:
    """Name a scenario in little room; baselines are the full model fed zeros."""
    name = "+".join(result.available)
    return f"{name}, zeros" if result.kind == "baseline" else name


def _figure(columns: Sequence[str], rows: Sequence[str]) -> Figure:
    left = 0.55 + 0.075 * max(len(short(r, _LABEL)) for r in rows)
    cell = 0.44 if len(columns) <= _MOST_WITH_VALUES else 0.24
    width = max(WIDTH, left + cell * len(columns))
    head = 0.3 + 0.06 * max(len(short(c)) for c in columns)
    return new_figure(width, head + (0.34 if cell > 0.3 else 0.22) * len(rows) + 0.15)


def _cells(
    axes: Axes,
    values: Sequence[Sequence[float | None]],
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    digits: int = 3,
    gap_before: int = -1,
) -> None:
    """Fill ``axes`` with cells of 0..1; None is an empty cell with a dash. A gap sets the last columns apart."""
    colors = matplotlib.colormaps[SCALE]
    shift = [j + (0.25 if 0 <= gap_before <= j else 0.0) for j in range(len(columns))]
    for i, line in enumerate(values):
        for j, value in enumerate(line):
            color = "none" if value is None else colors(min(max(value, 0.0), 1.0))
            cell = Rectangle((shift[j], i), 0.96, 0.94, facecolor=color, edgecolor="none")
            if value is None:
                cell.set(edgecolor=MUTED, linewidth=0.4, linestyle=(0, (2, 2)))
            cell.set_gid(f"cell-{i}-{j}")
            axes.add_patch(cell)
            if len(columns) <= _MOST_WITH_VALUES:
                ink = INK if value is None else ink_on(colors(value))
                text = "–" if value is None else f"{value:.{digits}f}".removeprefix("0")
                label = axes.text(shift[j] + 0.48, i + 0.47, text, ha="center", va="center", color=ink)
                label.set(fontsize=FONT - 0.5)
    axes.set(xlim=(0, shift[-1] + 1), ylim=(len(rows), 0))
    axes.set_xticks([s + 0.48 for s in shift], [short(c) for c in columns], rotation=38, ha="left")
    axes.set_yticks([i + 0.47 for i in range(len(rows))], [short(r, _LABEL) for r in rows])
    axes.xaxis.tick_top()
    axes.tick_params(length=0, pad=2)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _number(value: float | None) -> str:
    return "not defined" if value is None else f"{value:.3f}"
