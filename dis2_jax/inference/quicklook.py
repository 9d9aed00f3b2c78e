"""A picture of a predicted scene for people: what was seen, the map, a legend with shares. No pyplot."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from dis2_jax.data.rasters import RasterReader
from dis2_jax.evaluation.pictures.render import hatch, render_classes, render_modality
from dis2_jax.inference.inputs import Scene
from dis2_jax.inference.products import scenario_colors
from dis2_jax.schema import IGNORE, ClassLegend, DatasetCard, Scenario

if TYPE_CHECKING:
    from dis2_jax.inference.scene import SceneResult

SIDE = 900
"""Longer side of each picture, in pixels of the scene thinned out."""
DPI = 150
_FONT = 8
_LINE = 0.17
_GAP = 0.12
_COLUMNS = 3


class _Picture(NamedTuple):
    title: str
    pixels: np.ndarray


def draw_quicklook(
    card: DatasetCard,
    scenarios: Sequence[Scenario],
    scene: Scene,
    made: Mapping[str, Path],
    result: SceneResult,
) -> None:
    """Draw inputs, map and, where they were made, confidence and scenarios to ``made['quicklook']``, a PNG."""
    pictures = [_input(card, scene, name) for name in scene.names]
    classes = _labels(made["map"])
    pictures.append(_Picture("classes", render_classes(classes, card.legend)))
    handles = _handles(card.legend, result.class_pixels)
    if "confidence" in made:
        pictures.append(_Picture("confidence: black 0, white 1", _confidence(made["confidence"])))
    if "scenarios" in made:
        colors = scenario_colors(len(scenarios))
        legend = ClassLegend(names=tuple(str(s) for s in scenarios), colors=colors)
        pictures.append(_Picture("answered from", render_classes(_labels(made["scenarios"]), legend)))
        handles += _handles(legend, result.scenario_pixels, used_only=True)
    if (classes == IGNORE).any():
        handles.append(Patch(facecolor="#cdcdcd", edgecolor="#8c8c8c", hatch="////", label="nodata"))
    figure = _draw(
        pictures, handles, title=f"{scene.grid.path.name}, {result.size[0]} x {result.size[1]} pixels"
    )
    figure.savefig(made["quicklook"], dpi=DPI, facecolor="white")


def _draw(pictures: Sequence[_Picture], handles: Sequence[Patch], *, title: str) -> Figure:
    """All lengths in inches, so that no text meets another whatever the scene's shape."""
    columns = min(_COLUMNS, len(pictures))
    rows = math.ceil(len(pictures) / columns)
    height, width = pictures[0].pixels.shape[:2]
    scale = 3.0 / max(height, width)
    cell = (max(1.8, width * scale), max(0.6, height * scale))
    longest = max(len(str(h.get_label())) for h in handles)
    total_width = columns * (cell[0] + _GAP) + _GAP
    across = max(1, int(total_width / (0.45 + 0.072 * longest)))
    legend_height = (math.ceil(len(handles) / across) + 0.6) * 1.25 * _LINE
    total_height = 2 * _LINE + rows * (cell[1] + _LINE + _GAP) + legend_height
    figure = Figure(figsize=(total_width, total_height), dpi=DPI)
    FigureCanvasAgg(figure)
    figure.text(0.5, 1 - _LINE / total_height, title, ha="center", va="center", fontsize=_FONT + 1)
    for i, picture in enumerate(pictures):
        left = _GAP + (i % columns) * (cell[0] + _GAP)
        top = 2 * _LINE + (i // columns) * (cell[1] + _LINE + _GAP) + _LINE
        place = (left / total_width, 1 - (top + cell[1]) / total_height)
        axes = figure.add_axes((*place, cell[0] / total_width, cell[1] / total_height))
        axes.imshow(picture.pixels)
        axes.set_axis_off()
        axes.set_title(picture.title, fontsize=_FONT, pad=2)
    figure.legend(
        handles=list(handles),
        loc="lower center",
        ncols=across,
        fontsize=_FONT,
        frameon=False,
        borderaxespad=0.2,
    )
    return figure


def _input(card: DatasetCard, scene: Scene, name: str) -> _Picture:
    x, valid = scene.thumbnail(name, side=SIDE)
    values = np.where(
        valid[..., None], x, np.nan if x.dtype.kind == "f" else x[valid].mean() if valid.any() else 0
    )
    picture = render_modality(values.astype(np.float32), card.modality(name))
    return _Picture(name, np.where(valid[..., None], picture, hatch(valid.shape)))


def _labels(path: Path) -> np.ndarray:
    with RasterReader(path) as reader:
        return reader.read_small(side=SIDE)[0][..., 0].astype(np.int32)


def _confidence(path: Path) -> np.ndarray:
    with RasterReader(path) as reader:
        x, valid = reader.read_small(side=SIDE)
    grey = matplotlib.colormaps["gray"](np.nan_to_num(x[..., 0]))[..., :3]
    picture = (grey * 255).round().astype(np.uint8)
    return np.where(valid[..., None], picture, hatch(valid.shape))


def _handles(legend: ClassLegend, pixels: Mapping[str, int], *, used_only: bool = False) -> list[Patch]:
    total = max(1, sum(pixels.values()))
    return [
        Patch(
            facecolor=(color[0] / 255, color[1] / 255, color[2] / 255),
            edgecolor="#555555",
            linewidth=0.5,
            label=f"{name} {100 * pixels[name] / total:.1f} %",
        )
        for name, color in zip(legend.names, legend.colors, strict=True)
        if pixels[name] or not used_only
    ]
