"""The pixel work of augmentation: turns and resampling, through OpenCV, which lets other threads run meanwhile."""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np

from dis2_jax.schema import IGNORE

# The pipeline runs one thread or process per core; OpenCV's own threads would fight with them for the cores.
cv2.setNumThreads(0)

_ROUNDED = (np.uint8, np.uint16)
_STRIP = 64
"""Rows of positions made at a time: they stay in the processor's cache."""


@dataclasses.dataclass(frozen=True)
class Positions:
    """Where output pixel ``(i, j)`` lies on the tile: ``row[i] + row_along[j]``, ``col[i] + col_along[j]``.

    float32 pixels, pixel centres at whole numbers; ``row`` and ``col`` are ``[h]``, the others ``[w]``. The sums are
    float32 too: the accelerator (``training/augment.py``) has the same ones, and takes the same pixels of labels.
    """

    row: np.ndarray
    row_along: np.ndarray
    col: np.ndarray
    col_along: np.ndarray


Matrix = tuple[tuple[float, float, float], tuple[float, float, float]]
"""2 x 3: a linear map and a shift."""


def interpolated(x: np.ndarray, matrix: Matrix, size: tuple[int, int]) -> np.ndarray:
    """Sample a raster ``[H, W, C]`` bilinearly, mirrored at the outermost pixels: ``[h, w, C]``.

    Output pixel (column, row) shows the tile at ``matrix @ (column, row, 1)``, ``matrix`` being 2 x 3. Unsigned
    whole numbers of 8 and 16 bits are rounded to their dtype; everything else becomes float32. Positions are exact to
    float32, thousands of pixels outside the tile less and less so.
    """
    if x.dtype not in _ROUNDED:
        x = x.astype(np.float32, copy=False)
    parts = [_warp(np.ascontiguousarray(x[..., part]), matrix, size) for part in _channel_groups(x.shape[-1])]
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=-1)


def nearest(y: np.ndarray, positions: Positions) -> np.ndarray:
    """Sample a label uint8 ``[H, W]`` at the nearest pixels (of two, the even one): ``[h, w]``; outside ignored."""
    p = positions
    out = np.empty((len(p.row), len(p.row_along)), np.uint8)
    for top in range(0, len(out), _STRIP):
        part = slice(top, top + _STRIP)
        out[part] = cv2.remap(
            y,
            p.col[part, None] + p.col_along,
            p.row[part, None] + p.row_along,
            cv2.INTER_NEAREST,
            borderMode=cv2.BORDER_CONSTANT,
            borderValue=IGNORE,
        )
    return out


def turned(x: np.ndarray, *, transpose: bool, flip_rows: bool, flip_cols: bool) -> np.ndarray:
    """Transpose, then flip, a raster ``[H, W, C]`` or label ``[H, W]``; the result may be a view of it."""
    code = {(True, True): -1, (True, False): 0, (False, True): 1}.get((flip_rows, flip_cols))
    if not transpose and code is None:
        return x
    if x.dtype.itemsize > 4 or (x.ndim == 3 and x.shape[-1] > 4):
        x = x.swapaxes(0, 1) if transpose else x
        return x[:: -1 if flip_rows else 1, :: -1 if flip_cols else 1]
    out = cv2.transpose(x) if transpose else x
    out = cv2.flip(out, code) if code is not None else out
    return np.asarray(out).reshape(*out.shape[:2], *x.shape[2:])


def _warp(x: np.ndarray, matrix: Matrix, size: tuple[int, int]) -> np.ndarray:
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    x, matrix = _mirrored(x, matrix, size)
    # OpenCV 5 takes nearly twice as long for 3 channels as for 4, with the same result.
    widened = x.shape[-1] == 3
    x4 = cv2.cvtColor(x, cv2.COLOR_RGB2RGBA) if widened else x
    out = cv2.warpAffine(x4, np.array(matrix), size[::-1], flags=flags, borderMode=cv2.BORDER_REFLECT_101)
    out = cv2.cvtColor(out, cv2.COLOR_RGBA2RGB) if widened else out
    return np.asarray(out).reshape(*size, x.shape[-1])


def _mirrored(x: np.ndarray, matrix: Matrix, size: tuple[int, int]) -> tuple[np.ndarray, Matrix]:
    """Widen a raster by what the output shows of its mirror images, and move the matrix along.

    OpenCV itself takes several times as long for pixels beside a raster as for those on it. Outputs that reach
    beyond the first mirror images are left to it.
    """
    height, width = x.shape[:2]
    (a, b, c), (d, e, f) = matrix
    corners = [(col, row) for col in (0, size[1] - 1) for row in (0, size[0] - 1)]
    cols = [a * col + b * row + c for col, row in corners]
    rows = [d * col + e * row + f for col, row in corners]
    # Each pixel is mixed with the next one; one more for rounding.
    lack = (1 - min(rows), max(rows) + 3 - height, 1 - min(cols), max(cols) + 3 - width)
    top, bottom, left, right = (max(0, int(n)) for n in lack)
    if not (top or bottom or left or right) or max(top, bottom) >= height or max(left, right) >= width:
        return x, matrix
    wide = cv2.copyMakeBorder(x, top, bottom, left, right, cv2.BORDER_REFLECT_101)
    return np.asarray(wide).reshape(*wide.shape[:2], x.shape[-1]), ((a, b, c + left), (d, e, f + top))


def _channel_groups(channels: int) -> list[slice]:
    """Groups of 4, 3 or 1: for other numbers OpenCV rounds positions to 1/32 pixel."""
    groups, start = [], 0
    while start < channels:
        left = channels - start
        size = min(left, 4) if left != 2 else 1
        groups.append(slice(start, start + size))
        start += size
    return groups
