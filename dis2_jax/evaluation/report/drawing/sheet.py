"""Small pictures on one sheet, for the files; the page itself lays them out as HTML."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from PIL import Image

from dis2_jax.evaluation.report.blocks import PictureRow
from dis2_jax.evaluation.report.drawing.style import FONT, INK, MUTED, new_figure, short
from dis2_jax.schema import ClassLegend


def draw_sheet(rows: Sequence[PictureRow], legend: ClassLegend) -> Figure:
    """Every row of pictures under its title, and the colours of the classes at the foot."""
    columns = max(len(r.pictures) for r in rows)
    width = 1.45 * columns + 0.1
    per_line = max(1, int(width / 1.45))
    foot = 0.15 + 0.2 * math.ceil(len(legend) / per_line)
    heights = [*(1.9 for _ in rows), foot]
    figure = new_figure(width, sum(heights))
    *parts, last = figure.subfigures(len(heights), 1, squeeze=False, height_ratios=heights).flat
    for part, row in zip(parts, rows, strict=True):
        part.suptitle(row.title, x=0.01, ha="left", fontsize=FONT, color=INK, fontweight="bold")
        grid = part.subplots(1, columns, squeeze=False)
        for axes, picture in zip(grid.flat, row.pictures, strict=False):
            image = Image.open(io.BytesIO(picture.data)).convert("RGB")
            axes.imshow(np.asarray(image), interpolation="nearest")
            note = f"\n{short(picture.note, 22)}" if picture.note else ""
            axes.set_title(f"{short(picture.title, 22)}{note}", fontsize=FONT - 2, pad=2)
            axes.set(xticks=[], yticks=[])
            for spine in axes.spines.values():
                spine.set(visible=True, color=MUTED, linewidth=0.5)
        for axes in grid.flat[len(row.pictures) :]:
            axes.set_axis_off()
    handles = [
        Patch(
            facecolor="#{:02x}{:02x}{:02x}".format(*color),
            edgecolor=MUTED,
            linewidth=0.5,
            label=short(name, 20),
        )
        for name, color in zip(legend.names, legend.colors, strict=True)
    ]
    last.legend(handles=handles, loc="center left", ncols=per_line, fontsize=FONT - 2, handlelength=1.2)
    return figure
