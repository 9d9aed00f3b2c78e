"""Read a raster as if it lay on another raster's grid: resampled window by window through GDAL's warped VRT."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from dis2_jax.data.rasters import (
    RasterInfo,
    RasterReader,
    Window,
    crs_name,
    first_line,
    gdal_errors,
    palette,
    to_pixel,
    to_world,
)
from dis2_jax.schema import Dis2Error

TOLERANCE = 0.01
"""Positions are interpolated within a window as long as they are this near, in pixels (rasterio refuses 0)."""


class WarpedReader(RasterReader):
    """An open raster on the pixel grid of ``onto``: bilinear, and averaging where the source is finer.

    ``resampling='nearest'`` is for codes, which cannot be mixed.

    Reads as ``RasterReader`` does; what the source does not cover is not valid. Pixels without data take no
    part in the interpolation. ``nodata`` stands in for the file's own value.

    Raises ``Dis2Error`` when either lacks a coordinate reference system, when they cannot be transformed into
    each other, or when the extents do not meet.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        onto: RasterInfo,
        bands: Sequence[int] = (),
        nodata: float | None = None,
        resampling: Literal["bilinear", "nearest"] = "bilinear",
    ) -> None:
        super().__init__(path, bands=bands)
        try:
            self.source_info = self.info
            self.coverage = coverage(self.info, onto)
            """Share of the grid that the source's extent covers."""
            self._nodata = _usable_nodata(self.info, nodata, masked=self.masked)
            self._file = self._dataset
            self._alpha_band = self.alpha or (0 if self._nodata is not None else self.info.bands + 1)
            self._dataset = self._warp(onto, resampling)
        except BaseException:
            self.close()
            raise
        self.info = RasterInfo(
            path=self.path,
            height=onto.height,
            width=onto.width,
            bands=self.source_info.bands,
            dtype=self.source_info.dtype,
            nodata=self._nodata,
            crs=onto.crs,
            transform=onto.transform,
            palette=self.source_info.palette,
        )

    def colors(self) -> np.ndarray:
        """As ``RasterReader.colors``: the palette is the file's."""
        return palette(self._file)

    def close(self) -> None:
        """Close the view and the file."""
        super().close()
        getattr(self, "_file", self._dataset).close()

    def read_valid(
        self, window: Window | None = None, *, nodata: float | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """As ``RasterReader.read_valid``; ``nodata`` was given at opening and is not looked at here."""
        return super().read_valid(window)

    def _mask(self, size: tuple[int, int], **part: Any) -> np.ndarray:
        if not self._alpha_band:
            return np.ones(size, bool)
        with self._naming():
            return np.asarray(self._dataset.read(self._alpha_band, **part) > 0)

    def _warp(self, onto: RasterInfo, resampling: str) -> Any:
        import rasterio
        from rasterio.enums import Resampling
        from rasterio.vrt import WarpedVRT

        # GDAL would guess the ratio anew for each window, and smooth one more than the next.
        ratio = str(pixel_ratio(self.info, onto))
        options: dict[str, Any] = {"add_alpha": True} if self._alpha_band > self.info.bands else {}
        if self._nodata is not None:
            # 8-bit pixels are nodata as a whole, other types band by band: see ``nodata_mask``.
            whole = self.info.dtype == "uint8"
            options |= {"src_nodata": self._nodata, "nodata": self._nodata}
            options["UNIFIED_SRC_NODATA"] = "YES" if whole else "NO"
        try:
            return WarpedVRT(
                self._file,
                crs=onto.crs,
                transform=rasterio.Affine(*onto.transform or ()),
                height=onto.height,
                width=onto.width,
                resampling=Resampling[resampling],
                tolerance=TOLERANCE,
                XSCALE=ratio,
                YSCALE=ratio,
                **options,
            )
        except gdal_errors() as e:
            raise Dis2Error(
                f"{self.path} cannot be brought onto the grid of {onto.path} ({first_line(e)})"
            ) from e


def coverage(a: RasterInfo, onto: RasterInfo) -> float:
    """Share of the grid of ``onto`` that the extent of ``a`` covers, above 0 and up to 1.

    Raises ``Dis2Error`` naming both files: a missing coordinate reference system or georeference, no
    transformation between the two, or extents that do not meet.
    """
    for has, lacks in ((onto, a), (a, onto)):
        if lacks.crs is None or lacks.transform is None:
            what = "coordinate reference system" if lacks.crs is None else "georeference"
            raise Dis2Error(
                f"{lacks.path} has no {what} and does not lie on the grid of {has.path}:"
                " give it one (gdal_edit.py -a_srs EPSG:... -a_ullr ...)"
            )
    share = _share_inside(onto, a)
    if share == 0 and _share_inside(a, onto) == 0:
        raise Dis2Error(
            f"{a.path} and {onto.path} do not overlap: check that they show the same place"
            f" ({crs_name(a.crs)} and {crs_name(onto.crs)})"
        )
    return share


def pixel_ratio(a: RasterInfo, onto: RasterInfo) -> float:
    """Pixels of ``onto`` per pixel of ``a`` along a side, the median over their common ground."""
    columns, rows = _centres(onto)
    step = 0.5
    here, right, below = (
        _positions(onto, a, columns + dc, rows + dr) for dc, dr in ((0.0, 0.0), (step, 0.0), (0.0, step))
    )
    (ax, ay), (bx, by) = ((np.subtract(p, here) / step) for p in (right, below))
    area = np.abs(ax * by - ay * bx)[_inside(a, *here)]
    return float(1 / np.sqrt(np.median(area))) if area.size else 1.0


def _share_inside(a: RasterInfo, b: RasterInfo) -> float:
    """Share of points spread over ``a`` that fall into ``b``."""
    return float(_inside(b, *_positions(a, b, *_centres(a))).mean())


def _inside(info: RasterInfo, column: np.ndarray, row: np.ndarray) -> np.ndarray:
    return (column >= 0) & (column <= info.width) & (row >= 0) & (row <= info.height)


def _positions(
    a: RasterInfo, b: RasterInfo, columns: np.ndarray, rows: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Pixel positions in ``a`` as positions in ``b`` (column, row)."""
    from rasterio.warp import transform

    assert a.transform is not None
    assert b.transform is not None
    xs, ys = to_world(a.transform, columns, rows)
    try:
        if a.crs != b.crs:
            xs, ys = (np.asarray(v) for v in transform(a.crs, b.crs, xs, ys))
    except gdal_errors() as e:
        raise Dis2Error(
            f"{a.path} ({crs_name(a.crs)}) and {b.path} ({crs_name(b.crs)}) cannot be transformed into"
            f" each other ({first_line(e)})"
        ) from e
    column, row = to_pixel(b.transform, xs, ys)
    return column, row


def _centres(grid: RasterInfo) -> tuple[np.ndarray, np.ndarray]:
    """Columns and rows of up to 128 x 128 points spread over a grid."""
    n, m = min(128, grid.width), min(128, grid.height)
    columns, rows = np.meshgrid((np.arange(n) + 0.5) * grid.width / n, (np.arange(m) + 0.5) * grid.height / m)
    return columns.ravel(), rows.ravel()


def _usable_nodata(info: RasterInfo, nodata: float | None, *, masked: bool) -> float | None:
    """The value that marks missing pixels while warping; NaN for floats that name none, None: none."""
    value = info.nodata if nodata is None else nodata
    if info.dtype.startswith("float"):
        return float("nan") if value is None and not masked else value
    if value is None or np.isnan(value):
        return None
    limits = np.iinfo(info.dtype)
    return value if limits.min <= value <= limits.max and value == int(value) else None
