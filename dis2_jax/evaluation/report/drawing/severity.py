"""What degraded inputs do: mIoU against severity."""

from __future__ import annotations

import textwrap

from matplotlib.figure import Figure

from dis2_jax.evaluation.degrade.results import Degraded
from dis2_jax.evaluation.report.drawing.style import (
    DASHES,
    WIDTH,
    new_figure,
    series_color,
    series_dash,
    series_marker,
    short,
    soften,
)


def draw_severity(degraded: Degraded, kind: str, modality: str) -> Figure:
    """One degradation of one modality: a line per branch, and the clean student that ignores the modality."""
    branches = [b for k, m, b in degraded.curves if (k, m) == (kind, modality)]
    fallbacks = {f.branch: f for b in branches if (f := degraded.fallback(modality, b)) is not None}
    figure = new_figure(WIDTH * 0.8, 2.5 + 0.19 * (len(branches) + len(fallbacks)))
    axes = figure.subplots()
    place = {branch: i for i, branch in enumerate(degraded.clean)}
    for branch in branches:
        i = place[branch]
        rows = degraded.curve(kind, modality, branch)
        known = [(r.severity, m) for r in rows if (m := r.metrics.miou) is not None]
        axes.plot(
            [s for s, _ in known],
            [m for _, m in known],
            color=series_color(i),
            linestyle=series_dash(i),
            marker=series_marker(i),
            markersize=4,
            label=f"{short(branch, 24)}, degraded",
        )
    for row in {f.branch: f for f in fallbacks.values()}.values():
        if row.metrics.miou is not None:
            axes.axhline(
                row.metrics.miou,
                label=f"{short(row.branch, 24)}, without {modality}",
                color=series_color(place[row.branch]),
                linewidth=1.1,
                linestyle=DASHES[4],
            )
    axes.set_xlabel(textwrap.fill(f"severity ({degraded.units.get(kind, '')})", 44))
    axes.set_ylabel("mIoU")
    axes.set_ylim(bottom=0)
    soften(axes)
    figure.legend(loc="outside lower center", ncols=1, handlelength=2.8)
    return figure
