"""The compensation diagnostics as plain text and Markdown."""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Callable, Sequence

from dis2_jax.evaluation.diagnostics.results import (
    FILLS,
    LEAST_WAY,
    LEVELS,
    Diagnostics,
    Similarity,
)
from dis2_jax.evaluation.tables.grid import Grid, markdown_grid, text_grid
from dis2_jax.evaluation.tables.layout import number, percent
from dis2_jax.schema import Fill

FILL_NAMES: dict[Fill, str] = {
    "compensation": "compensation (as trained)",
    "zeros": "zeros",
    "specific": "real features",
}
_MEASURES: tuple[tuple[str, Callable[[Similarity], float | None]], ...] = (
    ("Linear CKA with the full branch (1: equal up to rotation and scale)", lambda s: s.cka),
    ("The same, debiased (0: unrelated, however few positions)", lambda s: s.cka_debiased),
    ("Relative L2 distance to the full branch (0: equal)", lambda s: s.relative_l2),
    ("1 - cosine to the full branch (0: same direction)", lambda s: s.cosine_distance),
)


@dataclasses.dataclass(frozen=True)
class _Part:
    title: str
    grid: Grid


def text_report(found: Diagnostics, *, width: int = 100) -> str:
    """Return every table as aligned text."""
    parts = [f"{p.title}\n{text_grid(p.grid, width=width)}" for p in _parts(found)]
    below = "\n".join(textwrap.fill(n, width, subsequent_indent="    ") for n in notes(found))
    return "\n\n".join([title(found), *parts, below]) + "\n"


def markdown_report(found: Diagnostics) -> str:
    """Return every table as Markdown, and links to the attention pictures."""
    lines = [f"# Compensation diagnostics: {title(found)}", ""]
    for part in _parts(found):
        lines += [f"## {part.title}", "", markdown_grid(part.grid), ""]
    lines += [f"- {n}" for n in notes(found)]
    lines += ["", "## Class attention", ""] if found.attention else []
    lines += [f"![{name}]({name})" for name in found.attention]
    return "\n".join(lines).rstrip() + "\n"


def title(found: Diagnostics) -> str:
    """Return one line: dataset, split, tiles, and which weights."""
    line = f"{found.dataset}, {found.split} split, {found.tiles} tiles with every modality"
    if found.step is not None:
        line += f"; step {found.step} ({found.checkpoint})"
    return line


def notes(found: Diagnostics) -> list[str]:
    """Sentences under the tables."""
    return [
        "Recovered: the share of the way from zeros to the full branch (or to the same student with the real"
        f" features) that the compensation features go; - where that way rises by less than {LEAST_WAY}.",
        "A student never saw real features in a missing slot while training: they bound the information, not"
        " always its score.",
        f"CKA: up to {found.positions_per_tile} positions of each map and tile, drawn with seed"
        f" {found.sample_seed}; distances: every position.",
    ]


def _parts(found: Diagnostics) -> list[_Part]:
    parts = [_Part("mIoU by what fills the missing slots", _scores(found))]
    parts += [
        _Part(name, _levels(found, value))
        for name, value in _MEASURES
        if any(value(s) is not None for s in found.similarities)
    ]
    return [*parts, _Part("IoU lost against the full branch, per class", _falls(found))]


def _scores(found: Diagnostics) -> Grid:
    rows = []
    for r in found.recoveries:
        values = [number(v) for v in (r.compensation, r.zeros, r.specific, r.full)]
        rows.append((r.scenario, *values, percent(r.of_full), percent(r.of_specific)))
    heads = ("student", "compensation", "zeros", "real", "full branch")
    return Grid((*heads, "recovered of full", "of real"), tuple(rows))


def _levels(found: Diagnostics, value: Callable[[Similarity], float | None]) -> Grid:
    rows = [
        (name, FILL_NAMES[fill], *(number(value(found.similarity(name, level, fill))) for level in LEVELS))
        for name in found.students
        for fill in FILLS
    ]
    return Grid(("student", "missing slots hold", *LEVELS), tuple(rows), left=2)


def _falls(found: Diagnostics) -> Grid:
    rows: list[Sequence[str]] = []
    for name in found.students:
        falls = [f for f in found.falls if f.scenario == name]
        known = [f.fall for f in falls if f.fall is not None]
        mean = sum(known) / len(known) if known else None
        rows.append(("+".join(falls[0].missing), name, *(number(f.fall) for f in falls), number(mean)))
    return Grid(("missing", "student", *found.classes, "mean"), tuple(tuple(r) for r in rows), left=2)
