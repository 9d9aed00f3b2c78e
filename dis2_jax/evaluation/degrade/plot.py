"""Curves against severity: mIoU of every branch with the students to switch to, and IoU per class."""

from __future__ import annotations

import io
from typing import Any, Literal

import matplotlib
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from dis2_jax.evaluation.degrade.results import Degraded, Switch
from dis2_jax.schema import ClassLegend

# Okabe and Ito's colours, which people with any colour vision can tell apart.
_COLORS = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C510A")
_MARKERS = "osD^vP*X"
_PANEL = (2.6, 2.1)
_FONT = 8


def plot_curves(found: Degraded) -> Figure:
    """Draw a panel per degraded modality (rows) and kind (columns): mIoU against severity.

    Solid: branches that read the degraded modality. Dashed: what the student scores to which the branch of
    the same colour could switch. A ring marks where they cross.
    """
    figure, panels = _panels(found)
    branches = list(dict.fromkeys(b for _, _, b in found.curves))
    for switch in found.switches:
        axes = panels[switch.modality, switch.kind]
        i = branches.index(switch.branch)
        style: dict[str, Any] = {"color": _COLORS[i % len(_COLORS)], "linewidth": 1.4}
        rows = found.curve(switch.kind, switch.modality, switch.branch)
        points = [(r.severity, m) for r in rows if (m := r.metrics.miou) is not None]
        axes.plot(*zip(*points, strict=True), marker=_MARKERS[i % len(_MARKERS)], markersize=3.5, **style)
        _draw_fallback(axes, switch, style)
    handles = [
        Line2D(
            [],
            [],
            color=_COLORS[i % len(_COLORS)],
            marker=_MARKERS[i % len(_MARKERS)],
            label=_label(found, b),
        )
        for i, b in enumerate(branches)
    ]
    handles += [
        Line2D([], [], color="0.4", linestyle="--", label="student that ignores the degraded modality"),
        Line2D([], [], color="0.4", marker="o", fillstyle="none", linestyle="", label="switch here"),
    ]
    return _finished(figure, handles, "mIoU")


def plot_classes(found: Degraded, legend: ClassLegend) -> Figure:
    """Draw the same panels with the IoU of every class of the full branch, in the legend's colours."""
    figure, panels = _panels(found)
    full = "+".join(found.modalities)
    outline = [patheffects.Stroke(linewidth=2.4, foreground="0.25"), patheffects.Normal()]
    for (modality, kind), axes in panels.items():
        axes.set_facecolor("0.93")
        if (kind, modality, full) not in found.curves:
            continue
        rows = found.curve(kind, modality, full)
        for k in range(len(legend)):
            points = [(r.severity, v) for r in rows if (v := r.metrics.classes[k].iou) is not None]
            if points:
                axes.plot(
                    *zip(*points, strict=True),
                    color=_hex(legend.colors[k]),
                    marker=_MARKERS[k % len(_MARKERS)],
                    markersize=4,
                    markeredgecolor="0.25",
                    markeredgewidth=0.5,
                    linewidth=1.4,
                    path_effects=outline,
                )
    handles = [
        Line2D(
            [],
            [],
            color=_hex(legend.colors[k]),
            marker=_MARKERS[k % len(_MARKERS)],
            markeredgecolor="0.25",
            path_effects=outline,
            label=name,
        )
        for k, name in enumerate(legend.names)
    ]
    return _finished(figure, handles, "IoU, full branch")


def save_bytes(figure: Figure, kind: Literal["png", "svg"], *, dpi: int = 130) -> bytes:
    """Return the picture as a file's content, the same for the same figure."""
    out = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "dis2", "svg.fonttype": "path"}):
        figure.savefig(out, format=kind, dpi=dpi, metadata={"Date": None} if kind == "svg" else None)
    return out.getvalue()


def _panels(found: Degraded) -> tuple[Figure, dict[tuple[str, str], Axes]]:
    """Make empty panels for the (modality, kind) that were measured."""
    kinds = list(dict.fromkeys(k for k, _, _ in found.curves))
    modalities = [m for m in found.modalities if any(m == n for _, n, _ in found.curves)]
    there = {(m, k) for k, m, _ in found.curves}
    size = (max(_PANEL[0] * len(kinds), 5) + 0.4, _PANEL[1] * len(modalities) + 0.9)
    figure = Figure(figsize=size, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    panels: dict[tuple[str, str], Axes] = {}
    grid = figure.subplots(len(modalities), len(kinds), squeeze=False, sharey=True)
    for i, m in enumerate(modalities):
        for j, k in enumerate(kinds):
            axes: Axes = grid[i][j]
            if (m, k) not in there:
                axes.set_axis_off()
                continue
            axes.set_title(f"{k} on {m}", fontsize=_FONT)
            axes.set_xlabel(found.units[k], fontsize=_FONT - 1)
            axes.tick_params(labelsize=_FONT - 1, labelleft=True)
            axes.grid(visible=True, color="0.85", linewidth=0.5)
            axes.set_ylim(0, 1)
            panels[m, k] = axes
    return figure, panels


def _draw_fallback(axes: Axes, switch: Switch, style: dict[str, Any]) -> None:
    if switch.fallback_miou is None:
        return
    axes.axhline(switch.fallback_miou, linestyle="--", alpha=0.8, **style)
    axes.annotate(
        str(switch.fallback),
        (0.99, switch.fallback_miou),
        xycoords=("axes fraction", "data"),
        ha="right",
        va="center",
        bbox={"boxstyle": "square,pad=0.15", "facecolor": "white", "edgecolor": "none", "alpha": 0.85},
        fontsize=_FONT - 2,
        color=str(style["color"]),
    )
    if switch.severity is not None:
        point = ([switch.severity], [switch.fallback_miou])
        axes.plot(*point, "o", markersize=9, fillstyle="none", color=str(style["color"]))


def _finished(figure: Figure, handles: list[Line2D], label: str) -> Figure:
    figure.supylabel(label, fontsize=_FONT)
    longest = max(len(str(h.get_label())) for h in handles)
    fit = int(figure.get_figwidth() / (longest * 0.06 + 0.6))  # inches per letter, and per line sample
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=max(1, min(len(handles), fit)),
        fontsize=_FONT - 1,
        frameon=False,
    )
    return figure


def _label(found: Degraded, branch: str) -> str:
    return "full branch" if branch == "+".join(found.modalities) else branch


def _hex(color: tuple[int, int, int]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*color)
