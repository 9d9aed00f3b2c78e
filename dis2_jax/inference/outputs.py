"""Join finished strips into cloud-optimised GeoTIFFs through a virtual mosaic, and put them in place when whole."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np

from dis2_jax.data.rasters import RasterInfo, gdal_errors, georeference_optional
from dis2_jax.inference.beside import SIDECARS
from dis2_jax.inference.journal import write_error
from dis2_jax.inference.products import Product

_TYPES = {"uint8": "Byte", "float32": "Float32"}
COG_BLOCK = 512


def strip_bytes(x: np.ndarray, product: Product) -> bytes:
    """A strip ``[n, w, bands]`` as the bytes of a GeoTIFF, made in memory: the disk is Python's to write."""
    from rasterio.io import MemoryFile

    height, width, count = x.shape
    profile: dict[str, Any] = {"driver": "GTiff", "height": height, "width": width, "count": count}
    profile |= {"dtype": product.dtype, "compress": "deflate", "zlevel": 1, "interleave": "band"}
    with georeference_optional(), MemoryFile() as memory:
        with memory.open(**profile) as f:
            f.write(np.moveaxis(x, -1, 0))
        return bytes(memory.getbuffer())


def write_cog(
    product: Product,
    strips: Mapping[Path, tuple[int, int, int, int]],
    grid: RasterInfo,
    tags: Mapping[str, str],
    target: Path,
) -> None:
    """Write the mosaic of ``strips`` (file -> row, column, height, width) to ``target`` as a COG and read it back.

    Tiled, deflated, with overviews inside; class names in the tags of the file and, for GIS legends, in
    ``<target>.aux.xml``. Raises ``OSError`` when it cannot be written.
    """
    from rasterio.shutil import copy

    mosaic = target.with_suffix(".vrt")
    mosaic.write_text(_mosaic(product, strips, grid, product.tags() | dict(tags)))
    options = {
        "compress": "deflate",
        "blocksize": COG_BLOCK,
        "bigtiff": "if_safer",
        "num_threads": "all_cpus",
    }
    options |= {"overview_resampling": "mode" if product.categories else "average"}
    options |= {} if product.categories else {"predictor": "yes"}
    try:
        with georeference_optional():
            copy(mosaic, target, driver="COG", **options)
        for _ in blocks(target):
            pass
    except gdal_errors() as e:
        raise write_error(e, target) from e


def blocks(path: Path) -> Iterator[np.ndarray]:
    """Every block ``[bands, h, w]`` of a raster."""
    import rasterio

    with georeference_optional():
        file = rasterio.open(path)
    with file:
        for _, window in file.block_windows(1):
            yield file.read(window=window)


def put_in_place(finished: Mapping[Path, Path]) -> None:
    """Move whole files (from -> to) over older ones, each at once or not at all, with GDAL's ``.aux.xml``.

    An older file's ``.aux.xml`` and ``.ovr`` would be read as the new one's: they go.
    """
    for source, target in finished.items():
        for ending in SIDECARS:
            beside, old = (p.with_name(p.name + ending) for p in (source, target))
            if beside.is_file():
                _move(beside, old)
            else:
                old.unlink(missing_ok=True)
        _move(source, target)


def _move(source: Path, target: Path) -> None:
    try:
        source.replace(target)
    except OSError as e:
        if e.errno != errno.EXDEV:
            raise
        near = target.with_name(target.name + ".new")  # an output named on another disk than the map
        try:
            shutil.copyfile(source, near)
            near.replace(target)
        finally:
            near.unlink(missing_ok=True)


def _mosaic(
    product: Product,
    strips: Mapping[Path, tuple[int, int, int, int]],
    grid: RasterInfo,
    tags: Mapping[str, str],
) -> str:
    """GDAL's VRT text. Rasterio has no writer for it."""
    root = ElementTree.Element("VRTDataset", rasterXSize=str(grid.width), rasterYSize=str(grid.height))
    if grid.crs is not None:
        _child(root, "SRS", grid.crs.to_wkt())
    if grid.transform is not None:
        a, b, c, d, e, f = grid.transform
        _child(root, "GeoTransform", ", ".join(repr(float(v)) for v in (c, a, b, f, d, e)))
    metadata = _child(root, "Metadata")
    for key, value in tags.items():
        _child(metadata, "MDI", value, key=key)
    for i, description in enumerate(product.bands):
        band = _child(root, "VRTRasterBand", dataType=_TYPES[product.dtype], band=str(i + 1))
        _child(band, "Description", description)
        _child(band, "NoDataValue", str(product.nodata))
        if product.categories:
            _legend(band, product)
        for path, (row, column, height, width) in strips.items():
            source = _child(band, "SimpleSource")
            _child(source, "SourceFilename", path.name, relativeToVRT="1")
            _child(source, "SourceBand", str(i + 1))
            size = {"xSize": str(width), "ySize": str(height)}
            _child(source, "SrcRect", xOff="0", yOff="0", **size)
            _child(source, "DstRect", xOff=str(column), yOff=str(row), **size)
    return ElementTree.tostring(root, encoding="unicode")


def _legend(band: ElementTree.Element, product: Product) -> None:
    _child(band, "ColorInterp", "Palette")
    table = _child(band, "ColorTable")
    clear = (0, 0, 0, 0)
    for i in range(256):
        rgba = (*product.colors[i], 255) if i < len(product.colors) else clear
        _child(table, "Entry", **{f"c{j + 1}": str(v) for j, v in enumerate(rgba)})
    names = _child(band, "CategoryNames")
    for name in product.categories:
        _child(names, "Category", name)


def _child(
    parent: ElementTree.Element, tag: str, text: str | None = None, **attributes: str
) -> ElementTree.Element:
    child = ElementTree.SubElement(parent, tag, attributes)
    child.text = text
    return child
