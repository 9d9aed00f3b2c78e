"""Raster reading: exact values, windows and bands; every kind of bad file is named in one line."""

import numpy as np
import pytest
from raster_files import write_raster

from dis2_jax.data.rasters import (
    RasterReader,
    check_finite,
    check_same_grid,
    raster_info,
    read_raster,
    stored_dtype,
    to_stored,
)
from dis2_jax.schema import Dis2Error

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "float32", "float64"])
@pytest.mark.parametrize("channels", [1, 3, 5])
def test_geotiff_values_come_back(tmp_path, dtype, channels):
    x = (RNG.normal(size=(20, 30, channels)) * 50).astype(dtype)
    path = write_raster(tmp_path / "x.tif", x)
    assert np.array_equal(read_raster(path), x)
    with RasterReader(path, bands=(channels, 1)) as reader:
        assert np.array_equal(reader.read((3, 5, 10, 7)), x[3:13, 5:12][..., [channels - 1, 0]])


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_png_values_come_back(tmp_path, channels):
    x = RNG.integers(0, 256, (17, 9, channels), dtype=np.uint8)
    assert np.array_equal(read_raster(write_raster(tmp_path / "x.png", x)), x)


def test_palette_images_say_so_and_give_their_colours(tmp_path):
    codes = RNG.integers(0, 3, (8, 8), dtype=np.uint8)
    path = write_raster(tmp_path / "p.png", codes, palette={0: (1, 2, 3), 1: (4, 5, 6), 2: (7, 8, 9)})
    with RasterReader(path) as reader:
        assert reader.info.palette
        assert np.array_equal(reader.colors()[:3], [[1, 2, 3], [4, 5, 6], [7, 8, 9]])
        assert np.array_equal(reader.read()[..., 0], codes)


@pytest.mark.parametrize("name", ["x.png", "x.tif"])
@pytest.mark.parametrize("keep", [0.0, 0.001, 0.3, 0.9, 0.998])
def test_cut_files_are_named(tmp_path, name, keep):
    path = write_raster(tmp_path / name, RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8))
    whole = path.read_bytes()
    path.write_bytes(whole[: int(keep * len(whole))])
    with pytest.raises(Dis2Error) as error:
        read_raster(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("make", [lambda p: None, lambda p: p.mkdir(), lambda p: p.write_text("hello")])
def test_what_is_no_raster_is_named(tmp_path, make):
    path = tmp_path / "x.png"
    make(path)
    with pytest.raises(Dis2Error, match=r"x\.png"):
        read_raster(path)


def test_a_band_that_is_not_there(tmp_path):
    path = write_raster(tmp_path / "x.tif", np.zeros((4, 4, 2), np.uint8))
    with pytest.raises(Dis2Error, match="has 2 bands, no band 3"):
        read_raster(path, bands=(1, 3))


def test_grids(tmp_path):
    x = np.zeros((40, 50), np.uint8)

    def info(name, x=x, **georeference):
        return raster_info(write_raster(tmp_path / name, x, **georeference))

    here = info("here.tif", crs="EPSG:32633", origin=(500, 900), pixel=10.0)
    check_same_grid(here, info("nowhere.png"))  # a file without georeference fits by size
    check_same_grid(here, info("near.tif", crs="EPSG:32633", origin=(502, 902), pixel=10.0))
    for other, message in [
        (info("small.tif", x[:30]), "here.tif is 40 x 50 pixels but .*small.tif is 30 x 50"),
        (
            info("zone.tif", crs="EPSG:32634", origin=(500, 900), pixel=10.0),
            "EPSG:32633 but .*zone.tif in EPSG:32634",
        ),
        (info("moved.tif", crs="EPSG:32633", origin=(520, 900), pixel=10.0), "lie up to 2.0 pixels apart"),
        (info("coarse.tif", crs="EPSG:32633", origin=(500, 900), pixel=11.0), "pixels apart"),
    ]:
        with pytest.raises(Dis2Error, match=message):
            check_same_grid(here, other)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_and_inf_are_located_unless_masked(value):
    x = np.zeros((6, 7, 2), np.float32)
    x[4, 5, 1] = value
    with pytest.raises(Dis2Error, match=r"f\.tif holds 1 NaN or inf \(first: row 4, column 5, band 2\)"):
        check_finite(x, "f.tif")
    valid = np.ones((6, 7), bool)
    valid[4, 5] = False
    check_finite(x, "f.tif", valid=valid)


@pytest.mark.parametrize(
    ("source", "stored"),
    [
        ("uint8", "uint8"),
        ("int8", "int16"),
        ("uint16", "uint16"),
        ("uint32", "float32"),
        ("float64", "float32"),
    ],
)
def test_stored_dtypes(source, stored):
    assert stored_dtype(source, "f") == stored
    assert to_stored(np.ones((2, 2, 1), source), stored, "f").dtype == stored


def test_numbers_that_float32_cannot_keep_are_refused():
    with pytest.raises(Dis2Error, match=r"f\.tif holds complex numbers"):
        stored_dtype("complex64", "f.tif")
    with pytest.raises(Dis2Error, match="integers beyond"):
        to_stored(np.array([[[2**24 + 1]]], np.int64), "float32", "f")
    with pytest.raises(Dis2Error, match="too large for float32"):
        to_stored(np.array([[[1e39]]]), "float32", "f")
