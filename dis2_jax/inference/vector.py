"""Polygons of a class map: rasterio traces them, shapely simplifies them together if wanted, pyogrio writes them."""

from __future__ import annotations

import contextlib
import dataclasses
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np

from dis2_jax.data.rasters import RasterInfo, georeference_optional, raster_info, to_pixel, to_world
from dis2_jax.inference.journal import write_error
from dis2_jax.schema import ClassLegend, Dis2Error

LAYER = "classes"
DRIVERS = {".gpkg": "GPKG", ".fgb": "FlatGeobuf", ".geojson": "GeoJSON"}
"""Suffix -> GDAL's driver."""
EQUAL_AREA = "EPSG:6933"
"""Areas of maps in degrees are measured here."""
_WRITTEN = "2000-01-01T00:00:00.000Z"
"""GeoPackages hold the time of writing, which would make equal maps differ."""


@dataclasses.dataclass(frozen=True)
class Simplify:
    """How far outlines may be simplified: in pixels of the map, or in metres."""

    amount: float
    unit: Literal["px", "m"]

    @classmethod
    def parse(cls, text: str) -> Simplify:
        """Read ``2px`` or ``1.5m``. Raises ``Dis2Error`` for anything else."""
        match = re.fullmatch(r"(\d+\.?\d*|\.\d+)\s*(px|m)", text.strip().lower())
        if match is None or float(match[1]) == 0:
            raise Dis2Error(f"--simplify {text}: write pixels or metres above 0, such as 2px or 1.5m")
        return cls(float(match[1]), "px" if match[2] == "px" else "m")

    def pixels(self, info: RasterInfo) -> float:
        """In pixels of a map. Raises ``Dis2Error`` for metres where the map does not know them."""
        if self.unit == "px":
            return self.amount
        if info.crs is None or not info.crs.is_projected:
            why = "is in degrees" if info.crs is not None else "has no coordinate reference system"
            raise Dis2Error(f"--simplify {self.amount:g}m: the map {why}: give pixels, such as 2px")
        return self.amount / (_pixel_area(info) ** 0.5 * float(info.crs.linear_units_factor[1]))


def check_suffix(path: Path) -> None:
    """Raise ``Dis2Error`` unless the suffix of a vector file names a format."""
    if path.suffix.lower() not in DRIVERS:
        raise Dis2Error(f"--vector {path}: the suffix chooses the format, one of {', '.join(DRIVERS)}")


def check_grid(grid: RasterInfo, target: Path, *, simplify: Simplify | None) -> None:
    """Raise ``Dis2Error`` for what polygons of a map on this grid cannot be, before any work."""
    if grid.crs is None and target.suffix.lower() == ".geojson":
        raise Dis2Error(
            f"--vector {target}: {grid.path} has no coordinate reference system, and GeoJSON without one means"
            " degrees: choose .gpkg or .fgb"
        )
    if simplify is not None:
        simplify.pixels(grid)


def check_installed() -> None:
    """Raise ``Dis2Error`` unless the libraries of the extra ``vector`` are there."""
    try:
        import pyogrio  # noqa: F401
        import shapely

        shapely.coverage_simplify  # noqa: B018  (shapely 2.1 and GEOS 3.12)
    except (ImportError, AttributeError) as e:
        raise Dis2Error(
            "--vector needs pyogrio and shapely >= 2.1: install them with pip install 'dis2-jax[vector]'"
        ) from e


def write_polygons(
    class_map: Path, legend: ClassLegend, target: Path, *, simplify: Simplify | None = None
) -> None:
    """Write connected areas of one class as polygons with ``class``, ``code`` and ``area_m2`` to ``target``.

    Outlines follow the pixels' edges exactly. With ``simplify``, corners that enclose less than about its square
    go, shared outlines alike, so that neighbours still meet. The area is that of the pixels, in square metres;
    null where the map has no coordinate reference system. All polygons are in memory at once. Equal maps give
    equal bytes. Raises ``OSError`` when ``target`` cannot be written.
    """
    import pyogrio
    import shapely
    from pyogrio.errors import DataLayerError, DataSourceError

    for end in ("", "-journal", "-wal", "-shm"):  # GDAL and SQLite would go on with what a killed run left
        target.with_name(target.name + end).unlink(missing_ok=True)
    info = raster_info(class_map)
    traced = list(_traced(class_map))
    outlines = _in_pixels(np.array([shapely.geometry.shape(g) for g, _ in traced], dtype=object), info)
    codes = np.array([code for _, code in traced], dtype=np.int32)
    areas = _areas(outlines, info)
    if simplify is not None and len(outlines):
        outlines = _simplified(outlines, tolerance=simplify.pixels(info))
    names = np.array([legend.names[code] for code in codes], dtype=object)
    with _fixed_time(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="'crs' was not provided")  # the map's note says so
        try:
            pyogrio.raw.write(
                target,
                shapely.to_wkb(_in_map_units(outlines, info)),
                field_data=[names, codes, areas],
                field_mask=[None, None, np.isnan(areas)],
                fields=["class", "code", "area_m2"],
                crs=None if info.crs is None else info.crs.to_wkt(),
                geometry_type="Polygon",
                layer=LAYER,
                driver=DRIVERS[target.suffix.lower()],
            )
        except (DataLayerError, DataSourceError) as e:
            raise write_error(e, target) from e


def _traced(class_map: Path) -> Iterator[tuple[dict[str, Any], int]]:
    """GeoJSON-like polygon, in map units, and class of every connected area; nodata is left out."""
    import rasterio
    from rasterio.features import shapes

    with georeference_optional():
        f = rasterio.open(class_map)
    with f:
        for geometry, code in shapes(rasterio.band(f, 1)):
            if code != f.nodata:
                yield geometry, int(code)


def _simplified(outlines: np.ndarray, *, tolerance: float) -> np.ndarray:
    """Simplify all together. Corners are set at every pixel first: an outline lacks one where two neighbours meet."""
    import shapely

    corners = shapely.transform(shapely.segmentize(outlines, 1.0), np.rint)
    return np.asarray(shapely.coverage_simplify(corners, tolerance))


def _in_pixels(outlines: np.ndarray, info: RasterInfo) -> np.ndarray:
    """From the map's coordinates to whole pixels."""
    import shapely

    def place(points: np.ndarray) -> np.ndarray:
        return np.rint(np.stack(to_pixel(_transform(info), points[:, 0], points[:, 1]), axis=1))

    return np.asarray(shapely.transform(outlines, place))


def _in_map_units(outlines: np.ndarray, info: RasterInfo) -> np.ndarray:
    """From pixels to the map's coordinates: equal corners stay equal, to the last bit."""
    import shapely

    def place(points: np.ndarray) -> np.ndarray:
        return np.stack(to_world(_transform(info), points[:, 0], points[:, 1]), axis=1)

    return np.asarray(shapely.transform(outlines, place))


def _transform(info: RasterInfo) -> tuple[float, ...]:
    return info.transform or (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)


def _pixel_area(info: RasterInfo) -> float:
    """In the map's units."""
    a, b, _, d, e, _ = _transform(info)
    return abs(a * e - b * d)


def _areas(outlines: np.ndarray, info: RasterInfo) -> np.ndarray:
    """Square metres of each polygon in pixels, NaN without a coordinate reference system."""
    import shapely
    from rasterio.warp import transform

    if info.crs is None or not len(outlines):
        return np.full(len(outlines), np.nan)
    if info.crs.is_projected:
        _, metres = info.crs.linear_units_factor
        return np.asarray(shapely.area(outlines) * _pixel_area(info) * metres**2)

    def onto_equal_area(points: np.ndarray) -> np.ndarray:
        return np.stack(transform(info.crs, EQUAL_AREA, points[:, 0], points[:, 1]), axis=1)

    return np.asarray(shapely.area(shapely.transform(_in_map_units(outlines, info), onto_equal_area)))


@contextlib.contextmanager
def _fixed_time() -> Iterator[None]:
    """Let GDAL write one time into every file."""
    import pyogrio

    pyogrio.set_gdal_config_options({"OGR_CURRENT_DATE": _WRITTEN})
    try:
        yield
    finally:
        pyogrio.set_gdal_config_options({"OGR_CURRENT_DATE": None})
