"""How near students come to the full branch, level by level."""

from __future__ import annotations

import math
from collections.abc import Sequence

from matplotlib.figure import Figure

from dis2_jax.evaluation.diagnostics.results import FILLS, LEVELS, Diagnostics, Similarity
from dis2_jax.evaluation.report.drawing.style import (
    DASHES,
    MARKERS,
    WIDTH,
    new_figure,
    series_color,
    short,
    soften,
)

FILL_NAMES = {"compensation": "compensation", "zeros": "zeros instead", "specific": "the real features"}
MEASURES = {"cka": "linear CKA", "relative_l2": "relative distance"}


def draw_similarity(diagnostics: Diagnostics, *, measure: str) -> Figure:
    """One picture per student, one line per filling of the missing slots; ``measure`` is in ``MEASURES``."""
    students = diagnostics.students
    lines = math.ceil(len(students) / 2)
    figure = new_figure(WIDTH, 0.75 + 1.75 * lines)
    grid = figure.subplots(lines, 2, squeeze=False, sharey=True)
    for axes, name in zip(grid.flat, students, strict=False):
        for i, fill in enumerate(FILLS):
            mine = {s.level: s for s in diagnostics.similarities if (s.scenario, s.fill) == (name, fill)}
            points = _points(mine, measure)
            axes.plot(
                [p[0] for p in points],
                [p[1] for p in points],
                color=series_color(i + 1),
                linestyle=DASHES[i],
                marker=MARKERS[i],
                markersize=4,
                label=FILL_NAMES[fill],
            )
        axes.set_title(f"student {short(name, 20)}", loc="left", pad=3)
        axes.set_xticks(range(len(LEVELS)), [*LEVELS[:-1], "last"])
        axes.set_ylim(bottom=0, top=1.02 if measure == "cka" else None)
        soften(axes)
    for axes in grid.flat[len(students) :]:
        axes.set_visible(False)
    for row in grid:
        row[0].set_ylabel(MEASURES[measure])
    handles, labels = grid.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, columnspacing=1.0)
    return figure


def _points(found: dict[str, Similarity], measure: str) -> Sequence[tuple[int, float]]:
    values = ((i, getattr(found[level], measure)) for i, level in enumerate(LEVELS) if level in found)
    return [(i, v) for i, v in values if v is not None]
