"""The pixel work of augmentation: turns and resampling, through OpenCV, which lets other threads run meanwhile.

Positions are whole numbers: images are sampled on a grid of 1/32 pixel, labels at the nearest pixel. Both
follow from integers alone, so that the accelerator (``training/augment.py``) takes the same places to the last
bit.
"""

from __future__ import annotations

import dataclasses
import functools

import cv2
import numpy as np

from dis2_jax.schema import IGNORE

# The pipeline runs one thread or process per core; OpenCV's own threads would fight with them for the cores.
cv2.setNumThreads(0)

UNIT = 4096
"""Positions count in 1/4096 pixel ..."""
STEPS = 32
"""... and are rounded to 1/32 pixel, OpenCV's finest for prepared maps, to interpolate."""

_UNIT_BITS, _STEP_BITS = 12, 5
_NO_FRACTION = np.empty(0, np.uint16)
_FAST = (np.uint8, np.uint16, np.int16, np.float32)
_REACH = 2**15 - 2
"""OpenCV holds whole pixel positions in int16."""


@dataclasses.dataclass(frozen=True)
class Positions:
    """Where output pixel ``(i, j)`` lies on the tile: ``row[i] + row_along[j]``, ``col[i] + col_along[j]``.

    int32, in 1/4096 pixel; ``row`` and ``col`` are ``[h]``, ``row_along`` and ``col_along`` ``[w]``.
    """

    row: np.ndarray
    row_along: np.ndarray
    col: np.ndarray
    col_along: np.ndarray


class Sampler:
    """Takes all rasters of one tile of ``tile`` = (height, width) pixels at the same ``positions``."""

    def __init__(self, tile: tuple[int, int], positions: Positions) -> None:
        self._tile = tile
        self._positions = positions

    def image(self, x: np.ndarray) -> np.ndarray:
        """Sample a raster ``[H, W, C]`` bilinearly, mirrored at the outermost pixels: ``[h, w, C]``.

        In its dtype, rounded, for up to 4 channels of 8 or 16 bits; otherwise float32.
        """
        if x.dtype not in _FAST or x.shape[-1] > 4:
            x = x.astype(np.float32)
        whole, fraction = self._linear
        out = cv2.remap(x, whole, fraction, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
        return np.asarray(out).reshape(*whole.shape[:2], x.shape[-1])

    def label(self, y: np.ndarray) -> np.ndarray:
        """Sample a label uint8 ``[H, W]`` at the nearest pixels: ``[h, w]``; outside the tile ignored."""
        rows, cols = self._points
        whole = np.empty((*rows.shape, 2), np.int16)  # column, row
        for k, p in enumerate((cols, rows)):
            p = (p + UNIT // 2) >> _UNIT_BITS
            whole[..., k] = p.clip(-_REACH, _REACH) if self._far else p
        out = cv2.remap(
            y,
            whole,
            _NO_FRACTION,
            cv2.INTER_NEAREST,
            borderMode=cv2.BORDER_CONSTANT,
            borderValue=IGNORE,
        )
        return np.asarray(out)

    @functools.cached_property
    def _points(self) -> tuple[np.ndarray, np.ndarray]:
        """Row and column of every output pixel, int32 ``[h, w]``, in 1/4096 pixel."""
        p = self._positions
        return p.row[:, None] + p.row_along, p.col[:, None] + p.col_along

    @functools.cached_property
    def _far(self) -> bool:
        """Whether some position is beyond OpenCV's int16: zoomed out a hundredfold or so."""
        p = self._positions
        pairs = ((p.row, p.row_along), (p.col, p.col_along))
        reach = max(max(-int(a.min() + b.min()), int(a.max() + b.max())) for a, b in pairs)
        return reach >> _UNIT_BITS >= _REACH

    @functools.cached_property
    def _linear(self) -> tuple[np.ndarray, np.ndarray]:
        """Whole positions int16 ``[h, w, 2]`` (column, row), and fractions as OpenCV packs them."""
        rows, cols = ((p + UNIT // STEPS // 2) >> _UNIT_BITS - _STEP_BITS for p in self._points)
        if self._far:  # mirroring repeats itself
            rows, cols = (p % (2 * (n - 1) * STEPS) for p, n in zip((rows, cols), self._tile, strict=True))
        whole = np.empty((*rows.shape, 2), np.int16)
        whole[..., 0] = cols >> _STEP_BITS
        whole[..., 1] = rows >> _STEP_BITS
        return whole, ((rows & STEPS - 1) * STEPS + (cols & STEPS - 1)).astype(np.uint16)


def turned(x: np.ndarray, *, transpose: bool, flip_rows: bool, flip_cols: bool) -> np.ndarray:
    """Transpose, then flip, a raster ``[H, W, C]`` or label ``[H, W]``; the result may be a view of it."""
    code = {(True, True): -1, (True, False): 0, (False, True): 1}.get((flip_rows, flip_cols))
    if not transpose and code is None:
        return x
    if x.dtype not in _FAST or (x.ndim == 3 and x.shape[-1] > 4):
        x = x.swapaxes(0, 1) if transpose else x
        return x[:: -1 if flip_rows else 1, :: -1 if flip_cols else 1]
    out = cv2.transpose(x) if transpose else x
    out = cv2.flip(out, code) if code is not None else out
    return np.asarray(out).reshape(*out.shape[:2], *x.shape[2:])
