"""Colours, fonts and labels of the figures. Readable without colour: every series also has a mark or a hatch."""

from __future__ import annotations

import contextlib
import unicodedata
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

INK, MUTED, GRID, PAPER = "#16181d", "#5a6069", "#d7dae0", "#fefefe"
SERIES = ("#16181e", "#0072b2", "#d55e00", "#00795a", "#a64d84", "#8a6d00", "#4b6bd6", "#7a4a21")
"""The full branch first. From Okabe and Ito's palette, darkened to 3:1 on white and more."""
THEME = {
    INK: "--ink",
    MUTED: "--muted",
    GRID: "--grid",
    PAPER: "--paper",
    **{color: f"--s{i}" for i, color in enumerate(SERIES)},
}
"""Drawn colour -> the page's variable that stands for it (``templates/style.css``)."""
MARKERS = "osD^vPX*"
DASHES: tuple[tuple[float, tuple[float, ...]], ...] = (
    (0, ()),
    (0, (5, 2)),
    (0, (2, 1.5)),
    (0, (6, 2, 1.5, 2)),
    (0, (1, 1.2)),
    (0, (8, 2)),
    (0, (3, 1, 1, 1, 1, 1)),
    (0, (10, 3, 2, 3)),
)
SCALE = "cividis"
"""For values in cells: even in brightness, and the same to colour-blind people."""
FONT = 9.0
WIDTH = 4.4
"""Inches: at this width text stays readable on a phone."""

_SETTINGS: Any = {
    "font.family": "sans-serif",
    "font.size": FONT,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.titlesize": FONT,
    "axes.titlecolor": INK,
    "axes.labelsize": FONT,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": False,
    "axes.formatter.use_mathtext": False,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "hatch.linewidth": 0.7,
    "legend.frameon": False,
    "legend.fontsize": FONT - 0.5,
    "lines.linewidth": 1.5,
    "svg.fonttype": "none",
    "text.color": INK,
    "text.parse_math": False,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": FONT - 0.5,
    "ytick.labelsize": FONT - 0.5,
}


@contextlib.contextmanager
def drawing() -> Iterator[None]:
    """Matplotlib settings of a report, for as long as it draws; names in any script pass without a warning."""
    with matplotlib.rc_context(_SETTINGS), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        yield


def new_figure(width: float = WIDTH, height: float = 3.0) -> Figure:
    """Make a figure (inches) without pyplot."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def printable(text: str) -> str:
    """Replace control characters, which SVG forbids, and join lines."""
    return "".join(
        " " if c in "\n\r\t" else "\ufffd" if unicodedata.category(c) in ("Cc", "Cs") else c for c in text
    )


def short(text: str, most: int = 16) -> str:
    """Cut a label in the middle: its ends tell names apart."""
    text = printable(text)
    if len(text) <= most:
        return text
    tail = (most - 1) // 3
    return f"{text[: most - 1 - tail]}…{text[len(text) - tail :]}"


def ink_on(color: Sequence[float]) -> str:
    """Black or white text, whichever is easier to read on an RGB(A) colour of 0..1 (WCAG luminance)."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in color[:3]]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return "#000000" if luminance > 0.179 else "#ffffff"


def color_slot(index: int) -> int:
    """Which of ``SERIES`` a scenario has by its place in the evaluation; only the full one, at 0, has the first."""
    return 1 + (index - 1) % (len(SERIES) - 1) if index else 0


def series_color(index: int) -> str:
    """Colour of a scenario by its place in the evaluation."""
    return SERIES[color_slot(index)]


def series_dash(index: int) -> tuple[float, tuple[float, ...]]:
    """Line style; scenarios of one colour have different ones."""
    return DASHES[(index + index // len(DASHES)) % len(DASHES)]


def series_marker(index: int) -> str:
    """Marker, likewise."""
    return MARKERS[(index + index // len(MARKERS)) % len(MARKERS)]


def soften(axes: Axes, *, grid: str = "y") -> None:
    """Thin grid lines behind the data, short ticks."""
    axes.grid(visible=True, axis=grid)  # type: ignore[arg-type]
    axes.set_axisbelow(True)
    axes.tick_params(length=2.5, width=0.6)
