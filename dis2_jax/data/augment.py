"""Random training geometry and photometric noise, numpy only.

A geometry is drawn once per tile and applied to every modality and to the label. Crops, flips and right-angle
rotations are plain array views (``Window``); as soon as scale jitter or free rotation is on, everything
happens in one resampling (``Affine``), so nothing is blurred twice.
"""

from __future__ import annotations

import dataclasses
import functools
import math

import numpy as np

from dis2_jax.config import DataConfig
from dis2_jax.data.normalize import statistics
from dis2_jax.schema import IGNORE, Dis2Error, Modality


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
        """Return the view ``[h, w, C]`` of a raster ``[H, W, C]``, in its dtype."""
        x = x[self.top : self.top + self.height, self.left : self.left + self.width]
        x = x.swapaxes(0, 1) if self.turn.transpose else x
        return x[:: -1 if self.turn.flip_rows else 1, :: -1 if self.turn.flip_cols else 1]

    def label(self, y: np.ndarray) -> np.ndarray:
        """Return the view ``[h, w]`` of a label ``[H, W]``."""
        return self.image(y)


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
        """Sample a raster ``[H, W, C]`` bilinearly: float32 ``[h, w, C]``; mirrored outside the tile."""
        flat = x.reshape(-1, x.shape[-1])
        out = np.zeros((self.size[0] * self.size[1], x.shape[-1]), np.float32)
        for index, weight in self._corners:
            # `take` with `clip` is twice as fast as indexing here; no index is outside.
            corner = np.take(flat, index, axis=0, mode="clip").astype(np.float32)
            corner *= weight[:, None]
            out += corner
        return out.reshape(*self.size, -1)

    def label(self, y: np.ndarray) -> np.ndarray:
        """Sample a label ``[H, W]`` at nearest pixels: ``[h, w]``, same dtype; outside the tile ignored."""
        rows, cols = (np.floor(p + np.float32(0.5)).astype(np.int32) for p in self._points)
        height, width = self.tile
        inside = (rows >= 0) & (rows < height) & (cols >= 0) & (cols < width)
        index = rows.clip(0, height - 1) * width + cols.clip(0, width - 1)
        return np.where(inside, y.reshape(-1)[index], y.dtype.type(IGNORE)).reshape(self.size)

    @functools.cached_property
    def _points(self) -> tuple[np.ndarray, np.ndarray]:
        """Row and column in the tile of every output pixel, float32 ``[h * w]`` each."""
        u, v = (np.arange(n, dtype=np.float32) - np.float32((n - 1) / 2) for n in self.size)
        rows, cols = (
            (np.float32(c) + np.float32(a) * u[:, None] + np.float32(b) * v[None, :]).reshape(-1)
            for c, (a, b) in zip(self.centre, self.matrix, strict=True)
        )
        return rows, cols

    @functools.cached_property
    def _corners(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """The four neighbours of every output pixel: flat tile index and weight, ``[h * w]`` each."""
        (r0, r1, fr), (c0, c1, fc) = (_neighbours(p, n) for p, n in zip(self._points, self.tile, strict=True))
        width = self.tile[1]
        return [
            (r0 * width + c0, (1 - fr) * (1 - fc)),
            (r0 * width + c1, (1 - fr) * fc),
            (r1 * width + c0, fr * (1 - fc)),
            (r1 * width + c1, fr * fc),
        ]


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


def draw_geometry(tile: tuple[int, int], data: DataConfig, rng: np.random.Generator) -> Geometry:
    """Draw how one training sample lies on a tile of ``tile`` = (height, width) pixels.

    A crop that is not square turns by 90 degrees only where its turned window fits into the tile. With scale
    jitter or free rotation the sample lies inside the tile where it fits; where it does not, it covers the
    tile.
    """
    size = crop_size(data, tile)
    free = data.scale != (1.0, 1.0) or data.rotate_degrees != 0.0
    turn = _draw_turn(data, rng, quarter=free or (size[1] <= tile[0] and size[0] <= tile[1]))
    if free:
        return _draw_affine(tile, size, turn, data, rng)
    height, width = size[::-1] if turn.transpose else size
    top = int(rng.integers(tile[0] - height + 1))
    left = int(rng.integers(tile[1] - width + 1))
    return Window(top=top, left=left, height=height, width=width, turn=turn)


def photometric(
    x: np.ndarray, modality: Modality, strength: float, rng: np.random.Generator, *, dtype: np.dtype
) -> np.ndarray:
    """Change brightness, contrast and the channels' gains of an optical raster ``[H, W, C]``; float32.

    In units of the modality's statistics, ``z = (x - mean) / std``: ``z * exp(s (u + v_c / 2)) + s (b + d_c /
    2)`` with ``u``, ``b`` and per channel ``v_c``, ``d_c`` uniform in -1..1 and ``s = strength``. ``dtype``
    is the stored one (resampling gives floats): values stay inside the range of a whole-number dtype, as a
    sensor's do.
    """
    mean, std = statistics(modality)
    u, b = rng.uniform(-1, 1, 2)
    v, d = rng.uniform(-1, 1, (2, modality.channels))
    gain = np.exp(strength * (u + v / 2)).astype(np.float32)
    offset = (mean * (1 - gain) + strength * (b + d / 2) * std).astype(np.float32)
    out = x * gain
    out += offset
    if np.issubdtype(dtype, np.integer):
        limits = np.iinfo(dtype)
        np.clip(out, limits.min, limits.max, out=out)
    return out


def _draw_turn(data: DataConfig, rng: np.random.Generator, *, quarter: bool) -> Turn:
    """Quarter turns first, then flips. ``quarter`` False: only half turns fit."""
    turns = int(rng.integers(4)) if data.rotate90 else 0
    turns = turns if quarter else turns // 2 * 2
    flip_rows, flip_cols = rng.integers(2, size=2).astype(bool) if data.flip else (False, False)
    return Turn(
        transpose=turns % 2 == 1,
        flip_rows=bool(flip_rows ^ (turns in (1, 2))),
        flip_cols=bool(flip_cols ^ (turns in (2, 3))),
    )


def _draw_affine(
    tile: tuple[int, int], size: tuple[int, int], turn: Turn, data: DataConfig, rng: np.random.Generator
) -> Affine:
    zoom = math.exp(rng.uniform(math.log(data.scale[0]), math.log(data.scale[1])))
    angle = math.radians(rng.uniform(-1, 1) * data.rotate_degrees)
    rotation = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]) / zoom
    flips = np.diag([-1.0 if turn.flip_rows else 1.0, -1.0 if turn.flip_cols else 1.0])
    matrix = rotation @ (flips[::-1] if turn.transpose else flips)
    # Half the sides of the box around the sample, on the tile.
    reach = np.abs(matrix) @ ((np.array(size) - 1) / 2)
    sides = np.array(tile) - 1
    centre = rng.uniform(np.minimum(reach, sides - reach), np.maximum(reach, sides - reach))
    (a, b), (c, d) = matrix.tolist()
    return Affine(tile=tile, size=size, centre=(float(centre[0]), float(centre[1])), matrix=((a, b), (c, d)))


def _neighbours(p: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Lower and upper neighbour (int32), weight of the upper one, after mirroring at the outermost pixels."""
    last = n - 1
    if last == 0:
        zero = np.zeros(p.shape, np.int32)
        return zero, zero, np.zeros(p.shape, np.float32)
    if p.min() < 0 or p.max() > last:
        p = last - np.abs(np.mod(p, np.float32(2 * last)) - last)
    low = np.minimum(np.floor(p).astype(np.int32), last - 1)
    return low, low + 1, p - low.astype(np.float32)
