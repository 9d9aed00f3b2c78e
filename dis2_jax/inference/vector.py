"""Polygons of a class map: rasterio traces them, shapely simplifies them together, pyogrio writes a GeoPackage."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from dis2_jax.data.rasters import RasterInfo, raster_info
from dis2_jax.schema import ClassLegend, Dis2Error

LAYER = "classes"
EQUAL_AREA = "EPSG:6933"
"""Areas of maps in degrees are measured here."""


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


def write_polygons(class_map: Path, legend: ClassLegend, target: Path) -> None:
    """Write connected areas of one class as polygons with ``class``, ``code`` and ``area_m2`` to ``target``.

    Outlines are simplified by a pixel, shared ones alike, so that neighbours still meet. The area is
    that of the pixels, in square metres; null where the map has no coordinate reference system. All polygons
    are in memory at once.
    """
    import pyogrio
    import shapely

    info = raster_info(class_map)
    traced = list(_traced(class_map))
    shapes = np.array([shapely.geometry.shape(geometry) for geometry, _ in traced], dtype=object)
    codes = np.array([code for _, code in traced], dtype=np.int32)
    areas = _areas(shapes, info)
    if len(shapes):
        shapes = shapely.coverage_simplify(shapes, _pixel(info))
    names = np.array([legend.names[code] for code in codes], dtype=object)
    pyogrio.raw.write(
        target,
        shapely.to_wkb(shapes),
        field_data=[names, codes, areas],
        fields=["class", "code", "area_m2"],
        crs=None if info.crs is None else info.crs.to_wkt(),
        geometry_type="Polygon",
        layer=LAYER,
        driver="GPKG",
    )


def _traced(class_map: Path) -> Iterator[tuple[dict[str, Any], int]]:
    """GeoJSON-like polygon and class of every connected area; nodata is left out."""
    import rasterio
    from rasterio.features import shapes

    with rasterio.open(class_map) as f:
        for geometry, code in shapes(rasterio.band(f, 1), transform=f.transform):
            if code != f.nodata:
                yield geometry, int(code)


def _pixel(info: RasterInfo) -> float:
    """Side of a pixel in the map's units."""
    a, b, _, d, e, _ = info.transform or (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
    return float(np.sqrt(abs(a * e - b * d)))


def _areas(shapes: np.ndarray, info: RasterInfo) -> np.ndarray:
    """Square metres of each polygon, NaN (null) without a coordinate reference system."""
    import shapely
    from rasterio.warp import transform

    if info.crs is None or not len(shapes):
        return np.full(len(shapes), np.nan)
    if info.crs.is_projected:
        _, metres = info.crs.linear_units_factor
        return np.asarray(shapely.area(shapes) * metres**2)

    def onto_equal_area(points: np.ndarray) -> np.ndarray:
        return np.stack(transform(info.crs, EQUAL_AREA, points[:, 0], points[:, 1]), axis=1)

    return np.asarray(shapely.area(shapely.transform(shapes, onto_equal_area)))
