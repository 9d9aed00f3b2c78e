"""A scene's files, open on the grid of one of them; windows are read as tiles."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from dis2_jax.data.builders.cutting import Rect
from dis2_jax.data.builders.folder_card import FolderLabel, FolderModality
from dis2_jax.data.builders.label_codes import LabelCoder
from dis2_jax.data.builders.layers import Layer, pad_flat, pad_image, read_layer
from dis2_jax.data.builders.tiles import Tile
from dis2_jax.data.places import Place
from dis2_jax.data.rasters import (
    FilePath,
    RasterInfo,
    RasterReader,
    Window,
    check_same_grid,
    nodata_mask,
)
from dis2_jax.data.warp import WarpedReader
from dis2_jax.schema import IGNORE, Dis2Error

LABEL = "label"
_MIB = 2**20
_GDAL: dict[str, Any] = {
    "GDAL_CACHEMAX": 128 * _MIB,  # blocks kept per process; by default a twentieth of the machine's memory
    "GDAL_HTTP_TIMEOUT": 60,  # seconds; a dead connection is an error, not a hang
    "GDAL_HTTP_CONNECTTIMEOUT": 20,
    "GDAL_HTTP_MAX_RETRY": 3,
    "GDAL_HTTP_RETRY_DELAY": 1,
}


@dataclasses.dataclass(frozen=True)
class Reading:
    """How the files of every scene are read; ``reference`` is a modality's name or ``label``."""

    modalities: tuple[FolderModality, ...]
    label: FolderLabel
    reference: str
    tile: tuple[int, int]


@dataclasses.dataclass(frozen=True)
class SceneFiles:
    """Paths of a scene: its label and the modalities that it has."""

    id: str
    label: FilePath
    images: Mapping[str, FilePath]


class OpenScene:
    """Open files of a scene, for one thread at a time; close it.

    A file that lies pixel by pixel on the reference's grid is read as it is, any other resampled to it window by
    window: images bilinear, labels nearest.

    Raises ``Dis2Error`` naming the file: missing, unreadable, without a coordinate reference system where one is
    needed, or not overlapping.
    """

    def __init__(self, reading: Reading, files: SceneFiles) -> None:
        self.files = files
        self._reading = reading
        self._coder = LabelCoder.of(reading.label)
        with gdal(), contextlib.ExitStack() as stack:
            self._readers = _open_files(reading, files, stack)
            self._stack = stack.pop_all()

    @property
    def grid(self) -> RasterInfo:
        """Header of the reference file."""
        return self._readers[self._reading.reference].info

    @property
    def resampled(self) -> tuple[str, ...]:
        """Names of the files that do not lie on the grid."""
        return tuple(n for n, r in self._readers.items() if isinstance(r, WarpedReader))

    @property
    def count(self) -> int:
        """Files held open."""
        return len(self._readers)

    @property
    def headers(self) -> dict[str, RasterInfo]:
        """Header of every open file as it lies there, by modality, and ``label``'s."""
        return {n: r.source_info if isinstance(r, WarpedReader) else r.info for n, r in self._readers.items()}

    def tile(self, part: Rect, dtypes: Mapping[str, str]) -> Tile:
        """Read a window, padded to a tile; modalities without a valid pixel in it are left out."""
        size = self._reading.tile
        with gdal():
            label = self._label(part)
            images: dict[str, np.ndarray] = {}
            valid: dict[str, np.ndarray] = {}
            for m in self._reading.modalities:
                if m.name not in self.files.images:
                    continue
                found = read_layer(self._readers[m.name], self._layer(m, dtypes[m.name]), part)
                if found is not None:
                    label = np.where(found.data, label, IGNORE).astype(np.uint8)
                    images[m.name] = pad_image(found.values, size)
                    valid[m.name] = pad_flat(found.data, size, False)
        tile_id = f"{self.files.id}_y{part.row:05d}_x{part.col:05d}"
        place = Place(self.files.id, *part.window)
        return Tile(tile_id, images, pad_flat(label, size, IGNORE), valid, place)

    def valid_points(self, window: Window, *, size: tuple[int, int]) -> np.ndarray:
        """Look at ``size`` points spread over a window: bool, True where a tile would hold labelled data.

        Of the modalities only those that need no resampling are asked: thinning out a resampled file would read
        all of it.
        """
        with gdal():
            reader = self._readers[LABEL]
            x, valid = reader.read_thin(window, size=size)
            valid &= ~self._coder.ignored(self._coder.pack(np.where(valid[..., None], x, 0), reader))
            seen = []
            for m in self._reading.modalities:
                image = self._readers.get(m.name)
                if image is not None and not isinstance(image, WarpedReader):
                    values, there = image.read_thin(window, size=size)
                    seen.append(there & ~nodata_mask(values, m.nodata))
        return valid & np.logical_or.reduce(seen) if seen else valid

    def close(self) -> None:
        """Close the files."""
        self._stack.close()

    def _layer(self, m: FolderModality, dtype: str) -> Layer:
        path = self.files.images[m.name]
        return Layer(m.name, path, dtype, bands=m.bands, scale=m.scale, offset=m.offset, nodata=m.nodata)

    def _label(self, part: Rect) -> np.ndarray:
        """Class numbers uint8 ``[h, w]``; codes outside the legend are refused unless the card ignores them."""
        reader = self._readers[LABEL]
        if isinstance(reader, WarpedReader):
            x, covered = reader.read_valid(part.window)
            codes = self._coder.pack(np.where(covered[..., None], x, 0), reader)
            label = np.where(covered, self._coder.encode(codes), IGNORE).astype(np.uint8)
            doubtful = codes[covered & (label == IGNORE)]
        else:
            codes = self._coder.read(reader, part.window)
            label = self._coder.encode(codes)
            doubtful = codes[label == IGNORE]
        odd = self._coder.unknown(doubtful, nodata=reader.info.nodata)
        if odd and self._reading.label.unknown == "refuse":
            raise Dis2Error(
                f"{reader.path} holds codes outside the legend in the window at row {part.row}, column "
                f'{part.col}: {self._coder.listing(odd)}; give them a [[class]], or unknown = "ignore"'
            )
        return label


@contextlib.contextmanager
def gdal() -> Iterator[None]:
    """GDAL's settings for reading scenes, in this thread."""
    import rasterio

    with rasterio.Env(**_GDAL):
        yield


def _open_files(reading: Reading, files: SceneFiles, stack: contextlib.ExitStack) -> dict[str, RasterReader]:
    """Open the reference first, then everything else on its grid."""
    used = {m.name: m for m in reading.modalities if m.name in files.images}
    first = reading.reference
    paths = {n: p for n, p in files.images.items() if n in used or n == first} | {LABEL: files.label}
    if first not in paths:
        raise Dis2Error(
            f"scene {files.id!r} ({files.label}) has no {first} file, whose grid is the reference: add it, or "
            "choose another `reference` in the card"
        )
    bands = {name: m.bands for name, m in used.items()}
    readers = {first: stack.enter_context(RasterReader(paths.pop(first), bands=bands.get(first, ())))}
    grid = readers[first].info
    for name, path in paths.items():
        if name == LABEL:
            reader = _open_on(path, grid, resampling="nearest")
        else:
            reader = _open_on(path, grid, bands=used[name].bands, nodata=used[name].nodata)
        readers[name] = stack.enter_context(reader)
    return readers


def _open_on(
    path: FilePath, grid: RasterInfo, *, bands: tuple[int, ...] = (), **warping: Any
) -> RasterReader:
    """Open a file as it is where it lies on the grid, resampled (``warping``: how) where it does not."""
    reader = RasterReader(path, bands=bands)
    with contextlib.suppress(Dis2Error):
        check_same_grid(grid, reader.info)
        return reader
    reader.close()
    return WarpedReader(path, onto=grid, bands=bands, **warping)
