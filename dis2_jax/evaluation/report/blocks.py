"""What sections are made of. Plain data: ``page.py`` writes it as HTML, which is where text is escaped."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from dis2_jax.evaluation.report.drawing.render import Rendered


@dataclasses.dataclass(frozen=True)
class FigureBlock:
    """A drawn figure. ``name`` is also that of its files; ``alt`` says in words what the picture shows."""

    kind: ClassVar[str] = "figure"
    name: str
    title: str
    alt: str
    drawn: Rendered
    caption: str = ""


@dataclasses.dataclass(frozen=True)
class TableBlock:
    """``head`` names the columns; the first cell of a row is its header, the others align right if ``numeric``,
    but for those at the positions ``text``.

    ``marked``: positions of rows to point out, with what ``mark`` says.
    """

    kind: ClassVar[str] = "table"
    caption: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numeric: bool = True
    text: tuple[int, ...] = ()
    marked: tuple[int, ...] = ()
    mark: str = ""
    folded: bool = False
    """Closed until somebody opens it; open on paper."""


@dataclasses.dataclass(frozen=True)
class FactsBlock:
    """Pairs of a name and a value."""

    kind: ClassVar[str] = "facts"
    items: tuple[tuple[str, str], ...]


@dataclasses.dataclass(frozen=True)
class Stat:
    """One number of the headline; ``share`` of 0..1 is drawn as a bar."""

    label: str
    value: str
    note: str = ""
    share: float | None = None
    interval: tuple[float, float] | None = None
    slot: int = 0
    """Of its colour."""


@dataclasses.dataclass(frozen=True)
class StatsBlock:
    """Numbers to see first."""

    kind: ClassVar[str] = "stats"
    items: tuple[Stat, ...]


@dataclasses.dataclass(frozen=True)
class NoteBlock:
    """A sentence."""

    kind: ClassVar[str] = "note"
    text: str


@dataclasses.dataclass(frozen=True)
class MissingBlock:
    """One line instead of what is not there, and the command that makes it."""

    kind: ClassVar[str] = "missing"
    text: str
    command: str = ""


@dataclasses.dataclass(frozen=True)
class Picture:
    """A small raster picture: the bytes of a PNG or JPEG with its size."""

    title: str
    alt: str
    data: bytes
    size: tuple[int, int]
    """Height, width."""
    note: str = ""
    mime: str = "image/png"


@dataclasses.dataclass(frozen=True)
class PictureRow:
    """Pictures that belong together."""

    title: str
    pictures: tuple[Picture, ...]
    small: bool = False


@dataclasses.dataclass(frozen=True)
class TileBlock:
    """One tile in pictures; ``name`` is that of its sheet among the files, ``sheet`` the sheet."""

    kind: ClassVar[str] = "tile"
    name: str
    title: str
    alt: str
    rows: tuple[PictureRow, ...]
    sheet: Rendered | None = None


@dataclasses.dataclass(frozen=True)
class LegendBlock:
    """Class colours: name and ``#rrggbb``."""

    kind: ClassVar[str] = "legend"
    items: tuple[tuple[str, str], ...]


Block = (
    FigureBlock | TableBlock | FactsBlock | StatsBlock | NoteBlock | MissingBlock | TileBlock | LegendBlock
)


@dataclasses.dataclass(frozen=True)
class Section:
    """A heading with its blocks."""

    id: str
    title: str
    blocks: tuple[Block, ...]
    intro: str = ""
