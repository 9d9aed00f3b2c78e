"""The files of one scene, opened on the grid of one of them, with every disagreement told in one line."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dis2_jax.data.rasters import (
    GRID_TOLERANCE,
    RasterInfo,
    RasterReader,
    crs_name,
    grid_distance,
    nodata_mask,
    raster_info,
    stored_dtype,
)
from dis2_jax.data.warp import WarpedReader
from dis2_jax.inference.plausible import doubts
from dis2_jax.schema import DatasetCard, Dis2Error, Modality, nearest


@dataclasses.dataclass(frozen=True)
class ModalityFile:
    """One modality of a scene. ``bands`` (1-based) and ``nodata``: None or empty takes what fits, see ``bands_of``."""

    path: Path
    bands: tuple[int, ...] = ()
    nodata: float | None = None


class Pixels(NamedTuple):
    """Part of a modality: values ``[h, w, C]`` as the file has them, and where they are data, bool ``[h, w]``."""

    values: np.ndarray
    valid: np.ndarray


@dataclasses.dataclass(frozen=True)
class _Source:
    modality: Modality
    reader: RasterReader
    nodata: float | None

    @property
    def itemsize(self) -> int:
        return np.dtype(self.reader.info.dtype).itemsize


@dataclasses.dataclass(frozen=True)
class Scene:
    """Opened files, in the model's order. ``grid`` is the reference file's header: size, CRS and transform."""

    grid: RasterInfo
    sources: Mapping[str, _Source]
    notes: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The modalities that are there."""
        return tuple(self.sources)

    @property
    def bytes_per_pixel(self) -> int:
        """Of everything that ``read`` returns."""
        return sum(s.itemsize * s.modality.channels + 1 for s in self.sources.values())

    def read(self, rows: tuple[int, int], columns: tuple[int, int]) -> dict[str, Pixels]:
        """Read rows and columns [first, end) of every modality. ``Dis2Error`` names a damaged file."""
        window = (rows[0], columns[0], rows[1] - rows[0], columns[1] - columns[0])
        found = {}
        for name, source in self.sources.items():
            try:
                found[name] = Pixels(*source.reader.read_valid(window, nodata=source.nodata))
            except Dis2Error as e:
                raise Dis2Error(f"rows {rows[0]} to {rows[1]} of modality {name!r}: {e}") from e
        return found

    def thumbnail(self, name: str, *, side: int) -> Pixels:
        """One modality, thinned out to at most ``side`` pixels, in physical units; for pictures."""
        source = self.sources[name]
        x, valid = source.reader.read_small(side=side)
        return Pixels(physical(x, source.modality), valid & ~nodata_mask(x, source.nodata))


def physical(x: np.ndarray, modality: Modality) -> np.ndarray:
    """Numbers of a file in the units that the model was trained in (see ``schema.SourceFormat``)."""
    if not modality.source.rescaled:
        return x
    return (x.astype(np.float64) * modality.source.scale + modality.source.offset).astype(np.float32)


@contextlib.contextmanager
def open_scene(
    files: Mapping[str, ModalityFile], card: DatasetCard, *, reference: str | None = None
) -> Iterator[Scene]:
    """Open a scene's files on the grid of ``reference`` (default: the first one given).

    A file on another grid is resampled while it is read (``data.warp``).

    Raises:
        Dis2Error: an unknown modality or reference; a file that is missing, damaged, a palette image, complex,
            of another band count, or that cannot be brought onto the grid.
    """
    if not files:
        raise Dis2Error(f"no modality given; the model reads {', '.join(card.modality_names)}")
    for name in files:
        card.modality(name)
    reference = next(iter(files)) if reference is None else reference
    if reference not in files:
        raise Dis2Error(
            f"--reference {reference}: it is not among {', '.join(files)}{nearest(reference, files)}"
        )
    grid = raster_info(files[reference].path)
    notes: list[str] = []
    if grid.crs is None:
        notes.append(f"{grid.path} has no coordinate reference system: the map gets none")
    with contextlib.ExitStack() as stack:
        sources = {}
        for modality in card.modalities:
            if modality.name not in files:
                continue
            file = files[modality.name]
            nodata = modality.source.nodata if file.nodata is None else file.nodata
            bands = _chosen_bands(modality, file, notes)
            reader = stack.enter_context(_open(file.path, bands, grid, nodata, modality.name, notes))
            sources[modality.name] = _Source(modality, reader, nodata)
        scene = Scene(grid, sources, ())
        yield dataclasses.replace(scene, notes=(*notes, *doubts(scene, card, reference=reference)))


def bands_of(modality: Modality, info: RasterInfo, *, alpha: int) -> tuple[int, ...]:
    """Bands of a file to read where the user names none; empty: the file does not tell.

    Those that the training data were read with, if the file has them; else all, if they are as many as the
    modality has channels; else all but the alpha band.
    """
    trained = modality.source.bands
    if trained and max(trained) <= info.bands:
        return trained
    everything = tuple(range(1, info.bands + 1))
    colors = tuple(b for b in everything if b != alpha)
    return next((b for b in (everything, colors) if len(b) == modality.channels), ())


def _chosen_bands(modality: Modality, file: ModalityFile, notes: list[str]) -> tuple[int, ...]:
    name, path = modality.name, file.path
    with RasterReader(path, bands=file.bands) as reader:
        info, alpha = reader.info, reader.alpha
    if info.palette:
        raise Dis2Error(f"{path} is a palette image: convert it to grey or RGB (gdal_translate -expand rgb)")
    stored_dtype(info.dtype, path)  # refuses complex numbers
    bands = file.bands or bands_of(modality, info, alpha=alpha)
    if len(bands) != modality.channels:
        given = f"--bands {name} names {len(file.bands)}" if file.bands else f"{path} has {info.bands}"
        example = ",".join(str(b + 1) for b in range(modality.channels))
        way_out = f"choose {modality.channels} with --bands {name}={example}"
        if info.bands < modality.channels:
            way_out = f"give a file that has them, or leave {name} out"
        raise Dis2Error(
            f"{given} bands but {name} has {modality.channels} channels"
            f"{f' ({chr(44).join(modality.bands)})' if modality.bands else ''}:"
            f" {way_out}"
        )
    if not file.bands and bands != tuple(range(1, info.bands + 1)):
        notes.append(f"{name}: bands {','.join(map(str, bands))} of {path}")
    return bands


def _open(
    path: Path, bands: tuple[int, ...], grid: RasterInfo, nodata: float | None, name: str, notes: list[str]
) -> RasterReader:
    """Open a file as it is where it lies on the grid, resampled where it does not."""
    info = raster_info(path)
    if on_grid(info, grid):
        return RasterReader(path, bands=bands)
    reader = WarpedReader(path, onto=grid, bands=bands, nodata=nodata)
    how = f"{name}: {path} is resampled (bilinear) to the grid of {grid.path}"
    if info.crs != grid.crs:
        how += f", from {crs_name(info.crs)} to {crs_name(grid.crs)}"
    if reader.coverage < 0.999:
        how += f"; it covers {100 * reader.coverage:.3g} % of it"
    notes.append(how)
    return reader


def on_grid(info: RasterInfo, grid: RasterInfo) -> bool:
    """Whether a file can be read pixel by pixel.

    Raises ``Dis2Error`` when neither has a coordinate reference system and they do not agree: there is no way
    to tell how they lie to each other.
    """
    same = info.size == grid.size
    if same and info.transform is not None and grid.transform is not None:
        same = grid_distance(grid, info) <= GRID_TOLERANCE
    if info.crs is None and grid.crs is None and not same:
        raise Dis2Error(
            f"{info.path} ({info.height} x {info.width} pixels) does not lie on the grid of {grid.path}"
            f" ({grid.height} x {grid.width}) and neither has a coordinate reference system:"
            " bring them to one grid"
        )
    return same and (info.crs is None) == (grid.crs is None) and (info.crs is None or info.crs == grid.crs)


def file_identity(file: ModalityFile) -> list[object]:
    """What tells a file from another version of it: path, size, time of change, and how it is read."""
    status = os.stat(file.path)
    nodata = None if file.nodata is None else repr(file.nodata)
    return [str(file.path.resolve()), status.st_size, status.st_mtime_ns, list(file.bands), nodata]
