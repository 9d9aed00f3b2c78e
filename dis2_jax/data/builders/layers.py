"""Scenes made of one file per modality and a label, read window by window into tiles.

Numbers stay as they are where the stored dtype can hold them; ``scale`` and ``offset`` make float32. Where a tile is
nodata all over, the modality is absent in it; elsewhere nodata takes the tile's mean and the label is ignored. Tiles
at the edge are padded: images by mirroring, labels with ignore. Neither nodata nor padding counts in the statistics.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np

from dis2_jax.data.builders.cutting import Rect
from dis2_jax.data.builders.scene_jobs import Dropped
from dis2_jax.data.builders.tiles import Tile
from dis2_jax.data.places import Place
from dis2_jax.data.rasters import RasterReader, Window, check_finite, nodata_mask, to_stored
from dis2_jax.schema import IGNORE

NO_LABEL = Dropped("every label in them is ignored")
NO_MODALITY = Dropped("no modality has data there")

ReadLabel = Callable[[RasterReader, Window], np.ndarray]
"""Reads a window of a label file as uint8 class numbers ``[h, w]``, 255 = ignored."""


@dataclasses.dataclass(frozen=True)
class Layer:
    """A modality's file in a scene. Stored value = ``scale`` * number + ``offset``, as ``dtype``.

    ``bands`` are 1-based (empty: all). ``nodata`` None: what the file says; ``gaps``: so are NaN and inf. The
    scene's pixel (0, 0) is the file's pixel ``corner``; where the file ends some pixels early its last row or
    column is repeated.
    """

    name: str
    path: Path
    dtype: str
    bands: tuple[int, ...] = ()
    scale: float = 1.0
    offset: float = 0.0
    nodata: float | None = None
    gaps: bool = False
    corner: tuple[int, int] = (0, 0)

    @property
    def rescaled(self) -> bool:
        """Whether values change between file and dataset."""
        return (self.scale, self.offset) != (1.0, 0.0)


@dataclasses.dataclass(frozen=True)
class LayeredScene:
    """A scene of ``size`` (height, width) pixels; the label's pixel of the scene's (0, 0) is ``label_corner``."""

    id: str
    size: tuple[int, int]
    layers: tuple[Layer, ...]
    label: Path
    label_bands: tuple[int, ...] = ()
    label_corner: tuple[int, int] = (0, 0)


def cut_scene(
    scene: LayeredScene, parts: Iterable[Rect], *, tile: tuple[int, int], read_label: ReadLabel
) -> Iterator[Tile | Dropped]:
    """Yield a tile per part, or why it was dropped.

    Raises ``Dis2Error`` naming a file that is damaged or holds NaN or inf outside its nodata.
    """
    with contextlib.ExitStack() as stack:
        readers = [(x, stack.enter_context(RasterReader(x.path, bands=x.bands))) for x in scene.layers]
        label = stack.enter_context(RasterReader(scene.label, bands=scene.label_bands))
        for part in parts:
            classes = _label_part(label, scene, part, read_label)
            windows = {x.name: w for x, reader in readers if (w := read_layer(reader, x, part))}
            for w in windows.values():
                classes[~w.data] = IGNORE
            if not windows:
                yield NO_MODALITY
            elif (classes == IGNORE).all():
                yield NO_LABEL
            else:
                yield Tile(
                    tile_id=f"{scene.id}_y{part.row:05d}_x{part.col:05d}",
                    images={name: _pad(w.values, tile) for name, w in windows.items()},
                    label=_pad_with(classes, tile, IGNORE),
                    valid={name: _pad_with(w.data & w.inside, tile, False) for name, w in windows.items()},
                    place=Place(scene.id, *part.window),
                )


@dataclasses.dataclass(frozen=True)
class LayerWindow:
    """``values`` ``[h, w, C]`` as stored; bool ``[h, w]``: ``data`` not nodata, ``inside`` the file's extent."""

    values: np.ndarray
    data: np.ndarray
    inside: np.ndarray


def read_layer(reader: RasterReader, layer: Layer, part: Rect) -> LayerWindow | None:
    """Read a part of a scene from a layer's open file, nodata filled; None where all of it is nodata."""
    raw, inside = _read_overhanging(reader, part, layer.corner, read=reader.read)
    data = ~nodata_mask(raw, reader.info.nodata if layer.nodata is None else layer.nodata)
    if layer.gaps and raw.dtype.kind == "f":
        data &= np.isfinite(raw).all(-1)
    if not data.any():
        return None
    check_finite(raw, reader.path, valid=data, origin=(part.row, part.col))
    if layer.rescaled:
        raw = raw.astype(np.float64) * layer.scale + layer.offset
    if not data.all():
        mean = raw[data].mean(0, dtype=np.float64)
        raw = raw.copy()
        raw[~data] = mean if raw.dtype.kind == "f" else np.rint(mean).astype(raw.dtype)
    return LayerWindow(to_stored(raw, layer.dtype, reader.path), data, inside)


def _label_part(reader: RasterReader, scene: LayeredScene, part: Rect, read_label: ReadLabel) -> np.ndarray:
    classes, inside = _read_overhanging(
        reader, part, scene.label_corner, read=lambda window: read_label(reader, window)
    )
    return np.where(inside, classes, IGNORE).astype(np.uint8)


def _read_overhanging(
    reader: RasterReader, part: Rect, corner: tuple[int, int], *, read: Callable[[Window], np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Read a window that may stick out of the file; rows and columns outside repeat the nearest inside."""
    rows = part.row + corner[0] + np.arange(part.height)
    cols = part.col + corner[1] + np.arange(part.width)
    near_rows, near_cols = rows.clip(0, reader.info.height - 1), cols.clip(0, reader.info.width - 1)
    top, left = int(near_rows[0]), int(near_cols[0])
    x = read((top, left, int(near_rows[-1]) - top + 1, int(near_cols[-1]) - left + 1))
    inside = (rows == near_rows)[:, None] & (cols == near_cols)
    return (x if inside.all() else x[np.ix_(near_rows - top, near_cols - left)]), inside


def _pad(x: np.ndarray, tile: tuple[int, int]) -> np.ndarray:
    """Mirror an image ``[h, w, C]`` at its lower and right edge up to the tile's size."""
    if x.shape[:2] == tile:
        return x
    return np.pad(x, [(0, tile[0] - x.shape[0]), (0, tile[1] - x.shape[1]), (0, 0)], mode="symmetric")


def _pad_with(x: np.ndarray, tile: tuple[int, int], value: int | bool) -> np.ndarray:
    if x.shape == tile:
        return x
    return np.pad(x, [(0, tile[0] - x.shape[0]), (0, tile[1] - x.shape[1])], constant_values=value)
