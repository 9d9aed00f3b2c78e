"""Rows and columns as aligned text and as Markdown; knows nothing of what is in them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

NONE = "-"
"""Stands for a number that is not defined: the class is absent, or the scenario had no tile."""


@dataclasses.dataclass(frozen=True)
class Column:
    """A head and one cell per row."""

    head: str
    cells: tuple[str, ...]

    @property
    def width(self) -> int:
        """Characters."""
        return max(len(c) for c in (self.head, *self.cells))

    def shorten(self, limit: int) -> Column:
        """Cut a long head, with a full stop to say so."""
        head = self.head if len(self.head) <= limit else self.head[: limit - 1] + "."
        return dataclasses.replace(self, head=head)


@dataclasses.dataclass(frozen=True)
class Rows:
    """Names of the rows, and per row the heading of the group that it belongs to."""

    names: tuple[str, ...]
    groups: tuple[str, ...] = ()

    @property
    def width(self) -> int:
        """Characters of the longest name."""
        return max((len(n) for n in self.names), default=0)


def text_blocks(
    corner: str, rows: Rows, columns: Sequence[Column], *, width: int, together: int = 0
) -> list[str]:
    """Lines of one table, or of several where the columns do not fit into ``width``, an empty line after each.

    Long heads are cut first. The last ``together`` columns stay in one block.
    """
    lines = []
    left = max(rows.width, len(corner))
    for block in _fit(columns, room=max(width - left, 40), together=together):
        lines += [*_block(corner, rows, block, left=left), ""]
    return lines


def markdown_block(corner: str, names: Sequence[str], columns: Sequence[Column]) -> list[str]:
    """Lines of one Markdown table."""
    heads = [escape(c.head) for c in columns]
    lines = [f"| {corner} | " + " | ".join(heads) + " |", "|:--|" + "--:|" * len(columns)]
    for i, name in enumerate(names):
        lines.append(f"| {escape(name)} | " + " | ".join(escape(c.cells[i]) for c in columns) + " |")
    return lines


def number(value: float | None, *, digits: int = 3) -> str:
    """Fixed digits, or ``NONE``."""
    return NONE if value is None else f"{value:.{digits}f}"


def span(ends: tuple[float, float] | None, *, digits: int = 3) -> str:
    """An interval, such as ``0.512..0.547`` (negative numbers stay readable), or ``NONE``."""
    return NONE if ends is None else f"{ends[0]:.{digits}f}..{ends[1]:.{digits}f}"


def short_name(scenario: str) -> str:
    """Say a baseline in few words: ``rgb (full model, ndsm zero-filled)`` becomes ``rgb, ndsm zero``."""
    return scenario.replace(" (full model, ", ", ").replace(" zero-filled)", " zero")


def percent(value: float | None) -> str:
    """A share, or ``NONE``."""
    return NONE if value is None else f"{value:.0%}"


def escape(text: str) -> str:
    """Keep a cell of a Markdown table in its cell."""
    return text.replace("|", "\\|")


def _fit(columns: Sequence[Column], *, room: int, together: int) -> list[list[Column]]:
    """One block if cutting heads (down to 7 characters, still distinct) allows it, else several."""
    for limit in (99, 12, 10, 8, 7):
        short = [c.shorten(limit) for c in columns]
        distinct = len({c.head for c in short}) == len({c.head for c in columns})
        if distinct and sum(c.width + 2 for c in short) <= room:
            return [short]
    return _split(columns, room=room, together=together)


def _split(columns: Sequence[Column], *, room: int, together: int) -> list[list[Column]]:
    """Cut into blocks no wider than ``room``; the last ``together`` columns stay together."""
    blocks: list[list[Column]] = [[]]
    used = 0
    for i, column in enumerate(columns):
        rest = columns[i:] if i == len(columns) - together else [column]
        if blocks[-1] and used + sum(c.width + 2 for c in rest) > room:
            blocks.append([])
            used = 0
        blocks[-1].append(column)
        used += column.width + 2
    return blocks


def _block(corner: str, rows: Rows, columns: Sequence[Column], *, left: int) -> list[str]:
    lines = [f"{corner:<{left}}" + "".join(f"  {c.head:>{c.width}}" for c in columns)]
    lines.append("-" * len(lines[0]))
    group = ""
    for i, name in enumerate(rows.names):
        if rows.groups and rows.groups[i] != group:
            group = rows.groups[i]
            lines.append(group)
        lines.append(f"{name:<{left}}" + "".join(f"  {c.cells[i]:>{c.width}}" for c in columns))
    return lines
