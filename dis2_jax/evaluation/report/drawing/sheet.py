"""Small pictures on one sheet, for the files; the page itself lays them out as HTML."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from dis2_jax.evaluation.report.blocks import PictureRow
from dis2_jax.evaluation.report.drawing.style import FONT, INK, new_figure, short


def draw_sheet(rows: Sequence[PictureRow]) -> Figure:
    """Every row of pictures under its title."""
    columns = max(len(r.pictures) for r in rows)
    figure = new_figure(1.45 * columns + 0.1, 1.95 * len(rows) + 0.1)
    for part, row in zip(figure.subfigures(len(rows), 1, squeeze=False).flat, rows, strict=True):
        part.suptitle(row.title, x=0.01, ha="left", fontsize=FONT, color=INK, fontweight="bold")
        for axes, picture in zip(part.subplots(1, columns, squeeze=False).flat, row.pictures, strict=False):
            axes.imshow(
                np.asarray(Image.open(io.BytesIO(picture.data)).convert("RGB")), interpolation="nearest"
            )
            note = f"\n{short(picture.note, 22)}" if picture.note else ""
            axes.set_title(f"{short(picture.title, 22)}{note}", fontsize=FONT - 2, pad=2)
        for axes in part.axes:
            axes.set_axis_off()
    return figure
