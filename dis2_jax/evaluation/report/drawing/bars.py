"""What every missing modality costs, as bars."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from dis2_jax.evaluation.report.drawing.style import (
    FONT,
    INK,
    MUTED,
    WIDTH,
    new_figure,
    series_color,
    short,
    soften,
)
from dis2_jax.evaluation.results import Evaluation, ScenarioResult


def gap_pairs(evaluation: Evaluation) -> tuple[tuple[ScenarioResult, ScenarioResult | None], ...]:
    """Every student with the zero-filled full model that has the same modalities, where it was measured."""
    baselines = {s.available: s for s in evaluation.scenarios if s.kind == "baseline"}
    students = [s for s in evaluation.scenarios if s.kind == "student" and evaluation.gap(s) is not None]
    return tuple((s, baselines.get(s.available)) for s in students)


def draw_gaps(evaluation: Evaluation) -> Figure:
    """MIoU lost against the full scenario: students solid, the full model fed zeros hatched below them."""
    pairs = gap_pairs(evaluation)
    figure = new_figure(WIDTH, 0.75 + 0.62 * max(len(pairs), 1))
    axes = figure.subplots()
    for i, (student, baseline) in enumerate(pairs):
        color = series_color(1 + i)
        gaps = [evaluation.gap(student), None if baseline is None else evaluation.gap(baseline)]
        for k, gap in enumerate(gaps):
            if gap is None:
                continue
            y = i + 0.37 * k
            axes.barh(
                y,
                gap,
                height=0.33,
                facecolor=color if k == 0 else "none",
                edgecolor=color,
                hatch="////" if k else "",
                linewidth=0.9,
            )
            word = "" if k == 0 else "  zeros instead"
            axes.annotate(
                f"{gap:.3f}{word}",
                (max(gap, 0), y),
                xytext=(4, 0),
                textcoords="offset points",
                va="center",
                fontsize=FONT - 0.5,
                color=INK,
            )
    axes.set_yticks([i + 0.18 for i in range(len(pairs))], [short(s.name, 30) for s, _ in pairs])
    axes.set_ylim(len(pairs) - 0.35, -0.35)
    low, high = axes.get_xlim()
    axes.set_xlim(min(low, 0), high + 0.35 * (high - min(low, 0)))  # room for the words
    axes.axvline(0, color=MUTED, linewidth=0.8)
    axes.set_xlabel("mIoU below the full scenario")
    axes.tick_params(axis="y", length=0)
    soften(axes, grid="x")
    return figure


def draw_class_falls(rows: Sequence[tuple[str, Sequence[float | None]]], classes: Sequence[str]) -> Figure:
    """IoU that each class loses (columns of bars per student); ``rows``: student -> fall per class."""
    figure = new_figure(WIDTH, 0.7 + (0.16 * len(rows) + 0.16) * len(classes))
    axes = figure.subplots()
    step = 0.8 / max(len(rows), 1)
    hatches = ("", "////", "....", "\\\\\\\\", "xxxx", "----", "oo", "++")
    for i, (name, falls) in enumerate(rows):
        places = [k + (i + 0.5) * step for k, f in enumerate(falls) if f is not None]
        lengths = [f for f in falls if f is not None]
        bars = axes.barh(places, lengths, height=0.9 * step, label=f"without {short(name, 24)}")
        color = series_color(1 + i)
        for bar in bars:
            bar.set(facecolor=color if i == 0 else "none", edgecolor=color, hatch=hatches[i % len(hatches)])
    axes.set_yticks([k + 0.4 for k in range(len(classes))], [short(c) for c in classes])
    axes.set_ylim(len(classes), -0.1)
    axes.axvline(0, color=MUTED, linewidth=0.8)
    axes.set_xlabel("IoU lost without the modality")
    axes.tick_params(axis="y", length=0)
    soften(axes, grid="x")
    figure.legend(loc="outside lower center", ncols=min(len(rows), 2))
    return figure
