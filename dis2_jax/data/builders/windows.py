"""One window of a scene's file as a tile stores it: nodata filled, rescaled, padded to the tile's size."""

from __future__ import annotations

import numpy as np

from dis2_jax.data.builders.cutting import Rect
from dis2_jax.data.builders.folder_card import FolderModality
from dis2_jax.data.rasters import RasterReader, check_finite, nodata_mask, to_stored
from dis2_jax.data.warp import WarpedReader


def read_window(
    reader: RasterReader, m: FolderModality, dtype: str, part: Rect
) -> tuple[np.ndarray, np.ndarray]:
    """Return a modality's window ``[h, w, C]`` as stored, nodata filled, and its valid mask ``[h, w]``.

    Nodata are pixels with the nodata value (see ``nodata_mask``), that the file's mask or alpha band leaves out, or
    that a resampled file does not cover.
    """
    if isinstance(reader, WarpedReader):
        raw, good = reader.read_valid(part.window)
    else:
        raw = reader.read(part.window)
        good = reader.unmasked(part.window)
        good &= ~nodata_mask(raw, reader.info.nodata if m.nodata is None else m.nodata)
        check_finite(raw, reader.path, valid=good, origin=(part.row, part.col))
    if m.rescaled:
        raw = raw.astype(np.float64) * m.scale + m.offset
    if good.any() and not good.all():
        mean = raw[good].mean(0, dtype=np.float64)
        raw = raw.copy()
        raw[~good] = mean if raw.dtype.kind == "f" else np.rint(mean).astype(raw.dtype)
    return (to_stored(raw, dtype, reader.path) if good.any() else np.zeros(raw.shape, dtype)), good


def pad_image(x: np.ndarray, tile: tuple[int, int]) -> np.ndarray:
    """Mirror an image ``[h, w, C]`` at its lower and right edge up to the tile's size."""
    if x.shape[:2] == tile:
        return x
    return np.pad(x, [(0, tile[0] - x.shape[0]), (0, tile[1] - x.shape[1]), (0, 0)], mode="symmetric")


def pad_flat(x: np.ndarray, tile: tuple[int, int], value: int | bool) -> np.ndarray:
    """Fill a label or mask ``[h, w]`` up to the tile's size with ``value``."""
    if x.shape == tile:
        return x
    return np.pad(x, [(0, tile[0] - x.shape[0]), (0, tile[1] - x.shape[1])], constant_values=value)
