"""Rasters of one scene that were published with a row or column too few, too many, or a pixel aside."""

from __future__ import annotations

import math
from typing import Literal

from dis2_jax.data.rasters import RasterInfo, to_pixel, to_world
from dis2_jax.schema import Dis2Error

Align = Literal["georeference", "corner"]

MOST = 8
"""Two files whose edges are further apart than this, in pixels, do not show the same scene."""


def corner_in(scene: RasterInfo, other: RasterInfo, *, by: Align = "georeference") -> tuple[int, int]:
    """Return the (row, column) in ``other`` of ``scene``'s first pixel: (0, 0) where one has no georeference.

    Raises ``Dis2Error`` when a pixel has another size, or an edge lies more than ``MOST`` pixels from the scene's.
    """
    row, col = 0, 0
    if by == "georeference" and scene.transform is not None and other.transform is not None:
        x, y = to_pixel(other.transform, *to_world(scene.transform, 0, 0))
        row, col = _whole(y), _whole(x)
    corner = row, col
    if max(map(abs, _lacking(scene, other, corner).values())) > MOST or not _same_pixel(scene, other):
        raise Dis2Error(
            f"{other.path} ({other.height} x {other.width} pixels) does not lie on {scene.path} "
            f"({scene.height} x {scene.width}): it has {misfit(scene, other, corner) or 'other pixel sizes'}; "
            "copy both files again, or trust their upper left corners alone (--align corner)"
        )
    return corner


def misfit(scene: RasterInfo, other: RasterInfo, corner: tuple[int, int]) -> str:
    """Say how ``other`` does not lie on ``scene``'s grid; empty when it does."""
    texts = []
    for edge, n in _lacking(scene, other, corner).items():
        if n:
            what = ("row" if edge in ("top", "bottom") else "column") + ("s" if abs(n) > 1 else "")
            texts.append(f"{abs(n)} {what} {'fewer' if n > 0 else 'more'} at the {edge}")
    return ", ".join(texts)


def _lacking(scene: RasterInfo, other: RasterInfo, corner: tuple[int, int]) -> dict[str, int]:
    """Rows and columns of the scene that ``other`` ends short of; negative: that it has beyond."""
    return {
        "top": -corner[0],
        "left": -corner[1],
        "bottom": corner[0] + scene.height - other.height,
        "right": corner[1] + scene.width - other.width,
    }


def _whole(pixels: float) -> int:
    """Cut to whole pixels: less than three quarters are two habits of writing a world file, not a shift."""
    return int(math.copysign(math.floor(abs(pixels) + 0.25), pixels))


def _same_pixel(a: RasterInfo, b: RasterInfo) -> bool:
    if a.transform is None or b.transform is None:
        return True
    steps = ((a.transform[i], b.transform[i]) for i in (0, 1, 3, 4))
    size = abs(a.transform[0]) + abs(a.transform[1])
    return all(abs(x - y) * max(a.size) < size for x, y in steps)
