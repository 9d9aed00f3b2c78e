"""Where CFLM's class queries look: per tile a sheet of scenarios x classes, drawn over the input."""

from __future__ import annotations

import io

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from dis2_jax.evaluation.diagnostics.compare import AttentionExample
from dis2_jax.evaluation.pictures.render import render_classes, render_modality
from dis2_jax.schema import IGNORE, DatasetCard

FONT = 7.5
_CELL, _GAP, _LINE = 1.45, 0.08, 0.13
_HEAD, _TITLE = 0.58, 0.32
"""Inches: side of a picture, between pictures, of a line of text, above the first row, above a picture."""


def attention_sheet(example: AttentionExample, card: DatasetCard, *, dpi: int = 130) -> bytes:
    """Draw one tile as PNG: a row per scenario with its input, its class map, and one picture per class.

    The input is darkened and grey; the class's colour lies over it as strongly as the class query attends
    there, relative to its own strongest place. Titles give that place's attention in multiples of an even
    spread, and the share of attention on the class's reference pixels with, after the slash, the share of the
    tile that they cover: equal shares mean that the query does not find the class.
    """
    classes = len(card.legend)
    rows, columns = len(example.attention) + 1, classes + 2
    names = [_fold(name, full=k == 0) for k, name in enumerate(example.attention)]
    left = _LINE * (max(n.count("\n") for n in names) + 1) + 0.15
    width = left + columns * (_CELL + _GAP) + _GAP
    height = _HEAD + rows * (_CELL + _TITLE) + _GAP
    figure = Figure(figsize=(width, height), dpi=dpi, facecolor="white")
    FigureCanvasAgg(figure)
    told = "peak: strongest place, in multiples of an even spread; on: share of attention / of pixels on the class"
    for text, below, size in ((f"class attention, tile {example.index}", 0.14, 9), (told, 0.34, FONT)):
        figure.text(0.5, 1 - below / height, text, ha="center", va="center", fontsize=size, wrap=True)

    def axes(row: int, column: int, title: str) -> Axes:
        bottom = height - _HEAD - (row + 1) * (_CELL + _TITLE) + _GAP
        start = left + column * (_CELL + _GAP)
        found: Axes = figure.add_axes((start / width, bottom / height, _CELL / width, _CELL / height))
        found.set_xticks([])
        found.set_yticks([])
        found.set_title(title, fontsize=FONT, pad=2, linespacing=1.05)
        for spine in found.spines.values():
            spine.set(color="0.6", linewidth=0.5)
        return found

    def name_row(row: int, name: str) -> None:
        middle = height - _HEAD - row * (_CELL + _TITLE) - _TITLE - _CELL / 2 + _GAP
        figure.text(
            left / 2 / width, middle / height, name, rotation=90, ha="center", va="center", fontsize=FONT
        )

    for k, (name, attention) in enumerate(example.attention.items()):
        shown = _background_name(name, card)
        picture = render_modality(example.images[shown], card.modality(shown))
        name_row(k, names[k])
        _show(axes(k, 0, f"{shown}"), picture)
        _show(axes(k, 1, "prediction"), render_classes(example.predictions[name], card.legend))
        for c in range(classes):
            title = (
                f"{card.legend.names[c]}\n{_told(attention[c], example.reference == c, example.reference)}"
            )
            _show(axes(k, c + 2, title), overlay(picture, attention[c], card.legend.colors[c]))
    name_row(rows - 1, "reference")
    _show(axes(rows - 1, 1, "reference"), render_classes(example.reference, card.legend))
    for c in range(classes):
        pixels = int((example.reference == c).sum())
        mask = np.where((example.reference == c)[..., None], card.legend.colors[c], (40, 40, 40))
        _show(axes(rows - 1, c + 2, f"{pixels} px"), mask.astype(np.uint8))
    out = io.BytesIO()
    figure.savefig(out, format="png")
    return out.getvalue()


def overlay(picture: np.ndarray, attention: np.ndarray, color: tuple[int, int, int]) -> np.ndarray:
    """Blend a class's colour over a darkened grey picture.

    ``picture`` uint8 ``[H, W, 3]``; ``attention`` ``[h, w]``, not negative, where h and w divide H and W.
    Opacity is 0.9 at the strongest place and falls in proportion. Returns uint8 ``[H, W, 3]``.
    """
    top = float(attention.max())
    strength = attention / top if top > 0 else np.zeros_like(attention)
    factors = (picture.shape[0] // attention.shape[0], picture.shape[1] // attention.shape[1])
    alpha = 0.9 * np.kron(strength, np.ones(factors))[..., None]
    grey = 0.5 * picture.astype(np.float64).mean(-1, keepdims=True)
    return np.rint(grey * (1 - alpha) + np.asarray(color) * alpha).astype(np.uint8)


def attention_on(attention: np.ndarray, mask: np.ndarray) -> float:
    """Share of a class's attention ``[h, w]`` on the pixels of ``mask`` ``[H, W]``; it spreads evenly in cells."""
    cells = mask.reshape(
        attention.shape[0],
        mask.shape[0] // attention.shape[0],
        attention.shape[1],
        mask.shape[1] // attention.shape[1],
    ).mean((1, 3))
    return float((attention * cells).sum() / attention.sum())


def _told(attention: np.ndarray, mask: np.ndarray, reference: np.ndarray) -> str:
    peak = f"peak x{attention.max() * attention.size:.1f}"
    if not mask.any():
        return f"{peak}, absent"
    return f"{peak}, on {attention_on(attention, mask):.0%} / {mask[reference != IGNORE].mean():.0%}"


def _fold(scenario: str, *, full: bool) -> str:
    """Break a row's name before a ``+`` where it would be longer than its picture."""
    room = int(_CELL * 72 / (FONT * 0.6))
    lines = ["full: " if full else "from "]
    for i, part in enumerate(scenario.split("+")):
        text = f"+{part}" if i else part
        if len(lines[-1]) + len(text) > room:
            lines.append("")
        lines[-1] += text
    return "\n".join(lines)


def _background_name(scenario: str, card: DatasetCard) -> str:
    """Pick the input that people read best: the first optical one that the scenario has, else its first."""
    there = [card.modality(m) for m in scenario.split("+")]
    return next((m for m in there if m.kind == "optical"), there[0]).name


def _show(axes: Axes, picture: np.ndarray) -> None:
    axes.imshow(picture, interpolation="nearest", aspect="auto")
