"""Random training geometry, drawn once per tile and applied to every modality and to the label.

Crops, flips and right-angle rotations change no pixel value (``Window``); as soon as scale jitter or free
rotation is on, everything happens in one resampling (``Affine``), so nothing is blurred twice.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from dis2_jax.config import DataConfig
from dis2_jax.data.resample import Positions, interpolated, nearest, turned
from dis2_jax.schema import Dis2Error


@dataclasses.dataclass(frozen=True)
class Turn:
    """One of the 8 symmetries of the grid: the output is the window transposed, then flipped."""

    transpose: bool = False
    flip_rows: bool = False
    flip_cols: bool = False


@dataclasses.dataclass(frozen=True)
class Window:
    """A rectangle of the tile (rows ``top`` .. ``top + height``), turned; no pixel value changes."""

    top: int
    left: int
    height: int
    width: int
    turn: Turn = Turn()

    def image(self, x: np.ndarray) -> np.ndarray:
        """Return ``[h, w, C]`` of a raster ``[H, W, C]``, in its dtype; may be a view."""
        x = x[self.top : self.top + self.height, self.left : self.left + self.width]
        t = self.turn
        return turned(x, transpose=t.transpose, flip_rows=t.flip_rows, flip_cols=t.flip_cols)

    def label(self, y: np.ndarray) -> np.ndarray:
        """Return ``[h, w]`` of a label ``[H, W]``; may be a view."""
        return self.image(y)

    @property
    def positions(self) -> Positions:
        """Where the output's pixels lie on the tile."""
        rows = np.arange(self.top, self.top + self.height, dtype=np.float32)
        cols = np.arange(self.left, self.left + self.width, dtype=np.float32)
        flip_i, flip_j = (-1 if f else 1 for f in (self.turn.flip_rows, self.turn.flip_cols))
        if self.turn.transpose:
            return Positions(np.zeros_like(cols), rows[::flip_j], cols[::flip_i], np.zeros_like(rows))
        return Positions(rows[::flip_i], np.zeros_like(cols), np.zeros_like(rows), cols[::flip_j])


@dataclasses.dataclass(frozen=True)
class Affine:
    """An output grid ``size`` laid over the tile ``tile``.

    Output pixel ``p`` shows the tile at ``centre + matrix @ (p - middle of the output)``, rows then columns,
    in units of pixels with pixel centres at whole numbers.
    """

    tile: tuple[int, int]
    size: tuple[int, int]
    centre: tuple[float, float]
    matrix: tuple[tuple[float, float], tuple[float, float]]

    def image(self, x: np.ndarray) -> np.ndarray:
        """Sample a raster ``[H, W, C]`` bilinearly, mirrored outside: see ``resample.interpolated``."""
        (a, b), (c, d) = self.matrix
        i, j = ((n - 1) / 2 for n in self.size)
        row, col = self.centre
        # Column before row.
        matrix = ((d, c, col - d * j - c * i), (b, a, row - b * j - a * i))
        return interpolated(x, matrix, self.size)

    def label(self, y: np.ndarray) -> np.ndarray:
        """Sample a label uint8 ``[H, W]`` at nearest pixels: ``[h, w]``; outside the tile ignored."""
        return nearest(y, self.positions)

    @property
    def positions(self) -> Positions:
        """Where the output's pixels lie on the tile."""
        u, v = (np.arange(n) - (n - 1) / 2 for n in self.size)
        (row, a, b), (col, c, d) = ((p, *m) for p, m in zip(self.centre, self.matrix, strict=True))
        found = (row + a * u, b * v, col + c * u, d * v)
        return Positions(*(p.astype(np.float32) for p in found))


Geometry = Window | Affine


def crop_size(data: DataConfig, tile: tuple[int, int]) -> tuple[int, int]:
    """Return height and width of a training sample of this tile size.

    Raises ``Dis2Error`` when ``data.crop`` does not fit into the tile or the sides are no multiples of 16.
    """
    size = (data.crop[0] or tile[0], data.crop[1] or tile[1])
    shape = f"{tile[0]} x {tile[1]}"
    if size[0] > tile[0] or size[1] > tile[1]:
        raise Dis2Error(
            f"config data.crop = {data.crop} is larger than the dataset's {shape} tiles: "
            "lower it, or prepare larger tiles"
        )
    if size[0] % 16 or size[1] % 16:
        near = tuple(n - n % 16 for n in size)
        raise Dis2Error(
            f"training on whole {shape} tiles needs sides that are multiples of 16: "
            f"set data.crop, such as {near}, or prepare other tiles"
        )
    return size


def resamples(data: DataConfig) -> bool:
    """Whether samples lie between the tile's pixels: then every geometry is an ``Affine``."""
    return data.scale != (1.0, 1.0) or data.rotate_degrees != 0.0


def draw_geometry(tile: tuple[int, int], data: DataConfig, rng: np.random.Generator) -> Geometry:
    """Draw how one training sample lies on a tile of ``tile`` = (height, width) pixels.

    A crop that is not square turns by 90 degrees only where its turned window fits into the tile. With scale
    jitter or free rotation the sample lies inside the tile where it fits; where it does not, it covers the
    tile.
    """
    size = crop_size(data, tile)
    free = resamples(data)
    turning, *rest = rng.random(7).tolist()
    flips, place = (rest[0] < 0.5, rest[1] < 0.5), rest[2:]
    turn = _turn(data, turning, flips, quarter=free or (size[1] <= tile[0] and size[0] <= tile[1]))
    if free:
        return _affine(tile, size, turn, data, place)
    height, width = size[::-1] if turn.transpose else size
    top, left = int(place[0] * (tile[0] - height + 1)), int(place[1] * (tile[1] - width + 1))
    return Window(top=top, left=left, height=height, width=width, turn=turn)


def _turn(data: DataConfig, turning: float, flips: tuple[bool, bool], *, quarter: bool) -> Turn:
    """Quarter turns first, then flips. ``turning`` lies in 0..1. ``quarter`` False: only half turns fit."""
    turns = int(4 * turning) if data.rotate90 else 0
    turns = turns if quarter else turns // 2 * 2
    flip_rows, flip_cols = flips if data.flip else (False, False)
    return Turn(
        transpose=turns % 2 == 1,
        flip_rows=flip_rows ^ (turns in (1, 2)),
        flip_cols=flip_cols ^ (turns in (2, 3)),
    )


def _affine(
    tile: tuple[int, int], size: tuple[int, int], turn: Turn, data: DataConfig, place: Sequence[float]
) -> Affine:
    """``place``: what decides on zoom, angle, row and column, in 0..1."""
    # In plain numbers: as arrays of two it takes ten times as long.
    zooming, turning, *where = place
    low, high = (math.log(v) for v in data.scale)
    zoom = math.exp(low + zooming * (high - low))
    angle = math.radians((2 * turning - 1) * data.rotate_degrees)
    cos, sin = math.cos(angle) / zoom, math.sin(angle) / zoom
    i, j = (-1 if flip else 1 for flip in (turn.flip_rows, turn.flip_cols))
    upright, lying = ((cos * i, -sin * j), (sin * i, cos * j)), ((-sin * i, cos * j), (cos * i, sin * j))
    matrix = lying if turn.transpose else upright
    centre = []
    for (a, b), side, u in zip(matrix, tile, where, strict=True):
        # Half the side of the box around the sample, on the tile.
        reach = (abs(a) * (size[0] - 1) + abs(b) * (size[1] - 1)) / 2
        ends = (reach, side - 1 - reach)
        centre.append(min(ends) + u * (max(ends) - min(ends)))
    return Affine(tile=tile, size=size, centre=(centre[0], centre[1]), matrix=matrix)
