"""What degraded inputs do: mIoU against severity."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from dis2_jax.evaluation.degrade.results import Degraded
from dis2_jax.evaluation.report.drawing.style import (
    DASHES,
    MARKERS,
    MUTED,
    WIDTH,
    new_figure,
    series_color,
    short,
    soften,
)


def draw_severity(degraded: Degraded, kind: str, modality: str) -> Figure:
    """One degradation of one modality: a line per branch, and the clean student that ignores the modality."""
    branches = [b for k, m, b in degraded.curves if (k, m) == (kind, modality)]
    fallbacks = {f.branch: f for b in branches if (f := degraded.fallback(modality, b)) is not None}
    figure = new_figure(WIDTH * 0.8, 2.5 + 0.19 * (len(branches) + len(fallbacks)))
    axes = figure.subplots()
    for i, branch in enumerate(branches):
        rows = degraded.curve(kind, modality, branch)
        known = [(r.severity, m) for r in rows if (m := r.metrics.miou) is not None]
        axes.plot(
            [s for s, _ in known],
            [m for _, m in known],
            color=series_color(i),
            linestyle=DASHES[i % len(DASHES)],
            marker=MARKERS[i % len(MARKERS)],
            markersize=4,
            label=f"{short(branch, 24)}, degraded",
        )
    _levels(axes, [(f"{short(b, 24)}, without {modality}", f.metrics.miou) for b, f in fallbacks.items()])
    axes.set_xlabel(f"severity ({degraded.units.get(kind, '')})")
    axes.set_ylabel("mIoU")
    axes.set_ylim(bottom=0)
    soften(axes)
    figure.legend(loc="outside lower center", ncols=1, handlelength=2.8)
    return figure


def _levels(axes: object, levels: Sequence[tuple[str, float | None]]) -> None:
    """Horizontal lines of what does not depend on the severity."""
    for j, (name, level) in enumerate(levels):
        if level is not None:
            dash = DASHES[(j + 4) % len(DASHES)]
            axes.axhline(level, color=MUTED, linewidth=1.3, linestyle=dash, label=name)  # type: ignore[attr-defined]
