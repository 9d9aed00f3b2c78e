"""A drawn figure as SVG for the page (theme variables, hover texts), and as SVG and PNG files."""

from __future__ import annotations

import dataclasses
import html
import io
import re
from collections.abc import Mapping

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from dis2_jax.evaluation.report.drawing.style import THEME, drawing, printable

_PNG_DPI = 160
_PIXELS_PER_INCH = 96  # of CSS
_BEFORE_SVG = re.compile(r"^.*?(?=<svg)", re.DOTALL)
_METADATA = re.compile(r"<metadata>.*?</metadata>", re.DOTALL)
_NAMES = re.compile(r'(\bid="|url\(#|href="#)')
_COLORS = re.compile("|".join(map(re.escape, THEME)), re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class Rendered:
    """One figure. ``inline`` goes into the page, ``svg`` and ``png`` into files; ``width`` is in CSS pixels."""

    inline: str
    svg: str
    png: bytes
    width: int


def render(figure: Figure, *, name: str, hover: Mapping[str, str] | None = None) -> Rendered:
    """Draw a figure in every form.

    Args:
        figure: made within ``drawing()``.
        name: unique in the page: ids inside the SVG start with it.
        hover: gid of an artist -> text that a pointer over it shows.
    """
    with drawing(), matplotlib.rc_context({"svg.hashsalt": name}):
        text = io.StringIO()
        nothing = {"Date": None, "Creator": None, "Format": None, "Type": None}
        figure.savefig(text, format="svg", transparent=True, metadata=nothing)
        png = io.BytesIO()
        figure.savefig(png, format="png", dpi=_PNG_DPI, facecolor="white")
    svg = _METADATA.sub("", _BEFORE_SVG.sub("", text.getvalue(), count=1))
    svg = _with_hover(svg, hover or {})
    return Rendered(
        inline=_themed(_NAMES.sub(rf"\g<1>{name}-", svg)),
        svg=_with_background(svg),
        png=png.getvalue(),
        width=round(figure.get_figwidth() * _PIXELS_PER_INCH),
    )


def to_array(figure: Figure, *, dpi: int = 110) -> np.ndarray:
    """Draw a figure on white as uint8 ``[H, W, 3]``, for TensorBoard."""
    with drawing():
        figure.set(facecolor="white", dpi=dpi)
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _with_hover(svg: str, hover: Mapping[str, str]) -> str:
    """Put a ``<title>`` into the group of each gid."""

    def add(match: re.Match[str]) -> str:
        text = hover.get(match[1])
        return match[0] if text is None else f"{match[0]}<title>{html.escape(printable(text))}</title>"

    return re.sub(r'<g id="([^"]+)">', add, svg)


def _themed(svg: str) -> str:
    """Replace colours by the page's variables; without a size of its own, the style sheet rules it."""
    svg = _COLORS.sub(lambda m: f"var({THEME[m[0].lower()]})", svg)
    head, _, rest = svg.partition(">")
    return re.sub(r'\s(?:width|height|version|xmlns(?::xlink)?)="[^"]*"', "", head) + ">" + rest


def _with_background(svg: str) -> str:
    """Give the file white paper."""
    head, _, rest = svg.partition(">")
    return f'<?xml version="1.0" encoding="utf-8"?>\n{head}><rect width="100%" height="100%" fill="white"/>{rest}'
