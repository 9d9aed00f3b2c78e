"""Small tables of texts: aligned for the terminal, or as Markdown."""

from __future__ import annotations

import dataclasses

from dis2_jax.evaluation.tables.layout import escape


@dataclasses.dataclass(frozen=True)
class Grid:
    """``rows`` of as many cells as ``heads``; the first ``left`` columns are names, the others numbers."""

    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    left: int = 1


def text_grid(grid: Grid, *, width: int = 100) -> str:
    """Align columns; those that do not fit into ``width`` go into further blocks, with the names repeated."""
    sizes = [max(len(r[i]) for r in (grid.heads, *grid.rows)) for i in range(len(grid.heads))]
    names = list(range(grid.left))
    room = width - sum(sizes[i] + 2 for i in names)
    blocks: list[list[int]] = [[]]
    used = 0
    for i in range(grid.left, len(grid.heads)):
        if blocks[-1] and used + sizes[i] + 2 > room:
            blocks.append([])
            used = 0
        blocks[-1].append(i)
        used += sizes[i] + 2
    return "\n\n".join(_block(grid, [*names, *columns], sizes) for columns in blocks)


def markdown_grid(grid: Grid) -> str:
    """Return a Markdown table."""
    lines = ["| " + " | ".join(escape(h) for h in grid.heads) + " |"]
    lines.append("|" + "".join(":--|" if i < grid.left else "--:|" for i in range(len(grid.heads))))
    lines += ["| " + " | ".join(escape(c) for c in row) + " |" for row in grid.rows]
    return "\n".join(lines)


def _block(grid: Grid, columns: list[int], sizes: list[int]) -> str:
    def line(cells: tuple[str, ...]) -> str:
        parts = [f"{cells[i]:<{sizes[i]}}" if i < grid.left else f"{cells[i]:>{sizes[i]}}" for i in columns]
        return "  ".join(parts).rstrip()

    head = line(grid.heads)
    return "\n".join([head, "-" * len(head), *(line(r) for r in grid.rows)])
