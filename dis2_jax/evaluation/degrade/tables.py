"""Curves of degraded inputs as plain text and Markdown."""

from __future__ import annotations

import textwrap

from dis2_jax.evaluation.degrade.results import Degraded, Switch
from dis2_jax.evaluation.tables.grid import Grid, markdown_grid, text_grid
from dis2_jax.evaluation.tables.layout import NONE, number


def text_report(found: Degraded, *, width: int = 100) -> str:
    """Return one table per kind, mIoU by severity, and from where on another student is better."""
    parts = [title(found)]
    parts += [
        f"mIoU, {heading(found, kind)}\n{text_grid(_table(found, kind), width=width)}"
        for kind in _kinds(found)
    ]
    below = "\n".join(textwrap.fill(n, width, subsequent_indent="    ") for n in notes(found))
    return "\n\n".join([*parts, below]) + "\n"


def markdown_report(found: Degraded, *, figures: tuple[str, ...] = ()) -> str:
    """Return the same as Markdown, with per-class IoU of the full branch and the figures."""
    lines = [f"# Degraded inputs: {title(found)}", ""]
    lines += [line for name in figures for line in (f"![{name}]({name})", "")]
    for kind in _kinds(found):
        lines += [f"## {heading(found, kind)}", "", "mIoU", "", markdown_grid(_table(found, kind)), ""]
        lines += ["IoU per class, full branch", "", markdown_grid(_classes(found, kind)), ""]
    return "\n".join([*lines, *(f"- {n}" for n in notes(found))]) + "\n"


def title(found: Degraded) -> str:
    """Return one line: dataset, split, tiles, and which weights."""
    line = f"{found.dataset}, {found.split} split, {found.tiles} tiles with every modality"
    if found.step is not None:
        line += f"; step {found.step} ({found.checkpoint})"
    return line


def heading(found: Degraded, kind: str) -> str:
    """Name a kind with what its severity counts."""
    return f"{kind} ({found.units[kind]})"


def notes(found: Degraded) -> list[str]:
    """Sentences under the tables."""
    return [
        "Switch: from this severity on, the student that ignores the degraded modality has the higher mIoU"
        " (linear between measured points; 0: from the start; never: not up to the highest one measured).",
        f"All rows count the same tiles; randomness from seed {found.sample_seed}, tile, kind, modality and"
        " severity.",
    ]


def when(switch: Switch) -> str:
    """Say from which severity on to switch."""
    if switch.fallback is None:
        return NONE
    return "never" if switch.severity is None else f"{switch.severity:.2g}"


def _kinds(found: Degraded) -> tuple[str, ...]:
    return tuple(dict.fromkeys(kind for kind, _, _ in found.curves))


def _table(found: Degraded, kind: str) -> Grid:
    levels = sorted({r.severity for r in found.rows if r.kind == kind})
    rows = []
    for switch in found.switches:
        if switch.kind != kind:
            continue
        curve = {r.severity: r for r in found.curve(kind, switch.modality, switch.branch)}
        values = [number(curve[s].metrics.miou) if s in curve else NONE for s in (0.0, *levels)]
        instead = NONE if switch.fallback is None else f"{switch.fallback} {number(switch.fallback_miou)}"
        branch = "full" if switch.branch == "+".join(found.modalities) else switch.branch
        rows.append((switch.modality, branch, *values, instead, when(switch)))
    heads = ("degraded", "branch", *(f"{s:g}" for s in (0.0, *levels)), "instead", "switch")
    return Grid(heads, tuple(rows), left=2)


def _classes(found: Degraded, kind: str) -> Grid:
    full = "+".join(found.modalities)
    rows = []
    for k, m, branch in found.curves:
        if k == kind and branch == full:
            for r in found.curve(kind, m, branch):
                rows.append((m, f"{r.severity:g}", *(number(c.iou) for c in r.metrics.classes)))
    return Grid(("degraded", "severity", *found.classes), tuple(rows), left=2)
