"""Prediction panels: inputs, reference, every scenario's map and its errors. No pyplot, no global state."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from dis2_jax.data.true_color import shown_bands
from dis2_jax.evaluation.pictures.examples import Example
from dis2_jax.evaluation.pictures.render import (
    CORRECT,
    WRONG,
    render_classes,
    render_errors,
    render_modality,
)
from dis2_jax.schema import IGNORE, DatasetCard, Dis2Error, Modality

FONT = 8
_LINE = 0.16
"""Inches per line of text."""
_GAP = 0.08


@dataclasses.dataclass(frozen=True)
class _Layout:
    """All lengths in inches, so that no text meets another whatever the tile size."""

    cell: tuple[float, float]
    """Width, height."""
    title_lines: tuple[int, int]
    """Of the upper and the lower pictures."""
    left_columns: int
    """Inputs and reference fill these, two lines each."""
    scenarios: int
    tiles: int
    legend_lines: int
    margin: float = 0.3

    @property
    def block(self) -> float:
        """Height of one tile: maps, errors and their titles."""
        return 2 * self.cell[1] + sum(self.title_lines) * _LINE + 5 * _GAP

    @property
    def width(self) -> float:
        columns = self.left_columns + self.scenarios
        return columns * (self.cell[0] + _GAP) + 2 * self.margin + 2 * _GAP

    @property
    def height(self) -> float:
        return self.tiles * self.block + (self.legend_lines + 0.5) * 1.35 * _LINE + 2 * _GAP

    def rectangle(self, tile: int, column: int, line: int) -> tuple[float, float, float, float]:
        """Figure fractions (left, bottom, width, height) of one picture."""
        left = self.margin + column * (self.cell[0] + _GAP)
        left += 2 * _GAP if column >= self.left_columns else 0
        top = tile * self.block + 2 * _GAP + self.title_lines[0] * _LINE
        top += line * (self.cell[1] + self.title_lines[1] * _LINE + 1.5 * _GAP)
        bottom = self.height - top - self.cell[1]
        return (
            left / self.width,
            bottom / self.height,
            self.cell[0] / self.width,
            self.cell[1] / self.height,
        )


def draw_panels(examples: Sequence[Example], card: DatasetCard, *, dpi: int = 140) -> Figure:
    """Draw a block per tile: inputs and reference on the left, then each scenario's map above its errors."""
    legend = _legend(examples, card)
    layout = _layout(examples, card, legend, dpi=dpi)
    figure = Figure(figsize=(layout.width, layout.height), dpi=dpi, facecolor="white")
    FigureCanvasAgg(figure)
    for t, example in enumerate(examples):
        for i, (picture, parts) in enumerate(_left_pictures(example, card)):
            _place(figure, layout.rectangle(t, i // 2, i % 2), picture, _fold(parts, layout.cell[0]))
        for j, (name, prediction) in enumerate(example.predictions.items()):
            column = layout.left_columns + j
            upper, lower = layout.rectangle(t, column, 0), layout.rectangle(t, column, 1)
            title = _fold(_scenario_title(name, full=j == 0), layout.cell[0])
            _place(figure, upper, _map(prediction, card), title)
            _place(figure, lower, _errors(prediction, example), _error_title(prediction, example))
        left, bottom, _, _ = layout.rectangle(t, 0, 1)
        middle = bottom + (layout.cell[1] + _LINE / 2) / layout.height
        figure.text(left / 2, middle, example.title, rotation=90, va="center", ha="center", fontsize=FONT)
    figure.legend(
        handles=legend,
        loc="lower center",
        ncols=math.ceil(len(legend) / layout.legend_lines),
        fontsize=FONT,
        frameon=False,
        handlelength=1.2,
        columnspacing=1.4,
        borderaxespad=0.2,
    )
    return figure


def panel_array(examples: Sequence[Example], card: DatasetCard, *, dpi: int = 90) -> np.ndarray:
    """Return the same picture as uint8 ``[H, W, 3]``, for TensorBoard."""
    canvas = draw_panels(examples, card, dpi=dpi).canvas
    assert isinstance(canvas, FigureCanvasAgg)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def save_panels(
    examples: Sequence[Example], card: DatasetCard, folder: str | Path, *, stem: str, per_sheet: int = 4
) -> list[Path]:
    """Write ``<folder>/<stem>-<n>.png``, a few tiles per sheet, in place of older ones; return the paths."""
    folder = Path(folder)
    paths = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.glob(f"{stem}-*.png"):
            if old.stem.removeprefix(f"{stem}-").isdigit():
                old.unlink()
        for start in range(0, len(examples), per_sheet):
            paths.append(folder / f"{stem}-{start // per_sheet + 1}.png")
            draw_panels(examples[start : start + per_sheet], card).savefig(paths[-1])
    except OSError as e:
        raise Dis2Error(f"{folder} cannot be written: {e.strerror}") from e
    return paths


def _layout(examples: Sequence[Example], card: DatasetCard, legend: Sequence[Patch], *, dpi: int) -> _Layout:
    height, width = examples[0].reference.shape
    # Between 1.4 and 2.6 inches for the longer side, so that titles fit and pixels can be seen.
    scale = min(max(max(height, width) / dpi, 1.4), 2.6) / max(height, width)
    cell = (max(width * scale, 1.0), max(height * scale, 1.0))
    names = list(examples[0].predictions)
    left = [[title for _, title in _left_pictures(e, card)] for e in examples]
    upper = [t for titles in left for t in titles[::2]]
    upper += [_scenario_title(n, full=i == 0) for i, n in enumerate(names)]
    lower = [t for titles in left for t in titles[1::2]]
    layout = _Layout(
        cell=cell,
        title_lines=(_most_lines(upper, cell[0]), _most_lines(lower, cell[0])),
        left_columns=math.ceil((len(card.modalities) + 1) / 2),
        scenarios=len(names),
        tiles=len(examples),
        legend_lines=1,
    )
    entry = 0.45 + max(len(str(p.get_label())) for p in legend) * 0.065
    per_line = max(1, int((layout.width - 0.2) / entry))
    return dataclasses.replace(layout, legend_lines=math.ceil(len(legend) / per_line))


def _left_pictures(example: Example, card: DatasetCard) -> list[tuple[np.ndarray | None, list[str]]]:
    pictures: list[tuple[np.ndarray | None, list[str]]] = []
    for m in card.modalities:
        x = example.images.get(m.name)
        pictures.append((None, [m.name]) if x is None else (render_modality(x, m), _input_title(x, m)))
    return [*pictures, (render_classes(example.reference, card.legend), ["reference"])]


def _map(prediction: np.ndarray | None, card: DatasetCard) -> np.ndarray | None:
    return None if prediction is None else render_classes(prediction, card.legend)


def _errors(prediction: np.ndarray | None, example: Example) -> np.ndarray | None:
    return None if prediction is None else render_errors(prediction, example.reference)


def _place(
    figure: Figure, rectangle: tuple[float, float, float, float], picture: np.ndarray | None, title: str
) -> None:
    axes: Axes = figure.add_axes(rectangle)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_title(title, fontsize=FONT, pad=2.5, linespacing=1.05)
    for spine in axes.spines.values():
        spine.set(color="0.6", linewidth=0.5)
    if picture is None:
        axes.set_facecolor("0.96")
        axes.text(0.5, 0.5, "absent\nin this tile", ha="center", va="center", fontsize=FONT, color="0.4")
    else:
        axes.imshow(picture, interpolation="nearest", aspect="auto")


def _input_title(x: np.ndarray, modality: Modality) -> list[str]:
    """Name, which bands are drawn if it has others, and for one band the range of values."""
    bands = shown_bands(modality)
    parts = [modality.name]
    if len(bands) < modality.channels:
        if len(modality.bands) == modality.channels:
            parts.append(f" ({', '.join(modality.bands[b] for b in bands)})")
        else:
            plural = "s" if len(bands) > 1 else ""
            parts.append(f" (band{plural} {', '.join(str(b + 1) for b in bands)})")
    if len(bands) == 1:
        values = x[..., bands[0]]
        unit = f" {modality.unit}" if modality.unit else ""
        parts.append(f", {_short(float(values.min()))} to {_short(float(values.max()))}{unit}")
    return parts


def _short(value: float) -> str:
    """Three digits or one decimal. Normalising and back leaves -1e-6 for 0: no sign, no decimal then."""
    rounded = round(value, 0 if abs(value) >= 100 else 1)
    return f"{rounded:z.0f}" if rounded.is_integer() else f"{rounded:.1f}"


def _scenario_title(name: str, *, full: bool) -> list[str]:
    first, *others = name.split("+")
    return ["full: " if full else "from ", first, *(f"+{o}" for o in others)]


def _fold(parts: Sequence[str], inches: float) -> str:
    """Join the parts of a title, with a line break before each that does not fit any more."""
    room = max(int(inches * 72 / (FONT * 0.58)), 8)
    lines = [""]
    for part in parts:
        if lines[-1] and len(lines[-1]) + len(part) > room:
            lines.append("")
            part = part.lstrip(", ")
        lines[-1] += part if len(part) <= room else part[: room - 1] + "…"
    return "\n".join(lines)


def _most_lines(titles: Sequence[Sequence[str]], inches: float) -> int:
    return max((_fold(t, inches).count("\n") + 1 for t in titles), default=1)


def _error_title(prediction: np.ndarray | None, example: Example) -> str:
    counted = example.reference != IGNORE
    if prediction is None:
        return ""
    if not counted.any():
        return "no reference"
    return f"{(prediction != example.reference)[counted].mean():.1%} wrong"


def _legend(examples: Sequence[Example], card: DatasetCard) -> list[Patch]:
    """Entries for what occurs in the pictures, so that long legends stay readable."""
    found: set[int] = set()
    for e in examples:
        for values in (e.reference, *(p for p in e.predictions.values() if p is not None)):
            found |= set(np.unique(values).tolist())

    def patch(name: str, color: tuple[int, int, int], pattern: str = "") -> Patch:
        face = "#{:02x}{:02x}{:02x}".format(*color)
        edge = "0.45" if pattern else "0.3"
        return Patch(facecolor=face, edgecolor=edge, linewidth=0.5, hatch=pattern, label=name)

    legend = card.legend
    patches = [patch(legend.names[k], legend.colors[k]) for k in range(len(legend)) if k in found]
    if IGNORE in found:
        patches.append(patch("ignored", (205, 205, 205), "/////"))
    return [*patches, patch("correct", CORRECT), patch("wrong", WRONG)]
