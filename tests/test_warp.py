"""Rasters on other grids, resampled while they are read."""

import numpy as np
import pytest
import rasterio
from raster_files import write_raster
from rasterio.warp import transform

from dis2_jax.data.rasters import RasterReader, raster_info, to_pixel, to_world
from dis2_jax.data.warp import WarpedReader
from dis2_jax.schema import Dis2Error

UTM33, UTM32, DEGREES = "EPSG:32633", "EPSG:32632", "EPSG:4326"
RAMP = (3.0, 0.02, -0.05)
"""A plane: value at UTM 33 coordinates is the first + east * the second + north * the third."""


def plane(east, north):
    return (RAMP[0] + (east - 500_000) * RAMP[1] + (north - 5_400_000) * RAMP[2]).astype(np.float32)


def write_plane(
    path, *, crs=UTM33, affine=None, size=(60, 60), nodata=None, hole=None, dtype="float32", count=1
):
    """Write the plane (band b: plus 10 b) on any grid, with what ``hole`` selects made nodata in band 1."""
    affine = affine or rasterio.Affine(2, 0, 500_000, 0, -2, 5_400_000)
    cols, rows = np.meshgrid(np.arange(size[1]) + 0.5, np.arange(size[0]) + 0.5)
    xs, ys = to_world(affine, cols.ravel(), rows.ravel())
    east, north = (xs, ys) if crs == UTM33 else transform(crs, UTM33, xs, ys)
    z = plane(np.asarray(east), np.asarray(north)).reshape(size)
    planes = np.stack([z + 10 * b for b in range(count)])
    if hole is not None:
        planes[0][hole] = nodata
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        height=size[0],
        width=size[1],
        count=count,
        dtype=dtype,
        crs=crs,
        transform=affine,
        nodata=nodata,
    ) as f:
        f.write(planes.astype(dtype))
    return path


def grid_of(path, **options):
    return raster_info(write_plane(path, **options))


def want_on(grid):
    cols, rows = np.meshgrid(np.arange(grid.width) + 0.5, np.arange(grid.height) + 0.5)
    east, north = to_world(grid.transform, cols, rows)
    return plane(east, north)


def turned(degrees, pixel, x, y):
    """A grid whose rows run ``degrees`` counterclockwise from east."""
    c, s = pixel * np.cos(np.radians(degrees)), pixel * np.sin(np.radians(degrees))
    return rasterio.Affine(c, s, x, s, -c, y)


ROTATED = turned(25, 1.0, 500_030, 5_399_970)
SOURCES = {
    "coarser": {"affine": rasterio.Affine(5, 0, 499_990, 0, -5, 5_400_010), "size": (40, 40)},
    "finer": {"affine": rasterio.Affine(0.5, 0, 499_990, 0, -0.5, 5_400_010), "size": (300, 300)},
    "shifted": {"affine": rasterio.Affine(2, 0, 499_991, 0, -2, 5_400_009), "size": (80, 80)},
    "rotated": {"affine": turned(45, 3.0, 499_990, 5_400_000), "size": (60, 60)},
    "another zone": {"crs": UTM32, "size": (130, 130)},
    "degrees": {"crs": DEGREES, "size": (200, 260)},
}  # fmt: skip


def around(crs, grid, size):
    """An upright grid of ``size`` in ``crs`` that covers ``grid`` with a margin."""
    cols = np.array([-20, grid.width + 20, -20, grid.width + 20])
    rows = np.array([-20, -20, grid.height + 20, grid.height + 20])
    xs, ys = to_world(grid.transform, cols, rows)
    east, north = transform(UTM33, crs, xs, ys)
    west, top = min(east), max(north)
    return rasterio.Affine((max(east) - west) / size[1], 0, west, 0, -(top - min(north)) / size[0], top)


@pytest.mark.parametrize("upright", [True, False])
@pytest.mark.parametrize("name", SOURCES)
def test_a_plane_stays_a_plane_on_another_grid(tmp_path, name, upright):
    grid = grid_of(tmp_path / "grid.tif", affine=None if upright else ROTATED, size=(50, 40))
    options = dict(SOURCES[name])
    if "crs" in options:
        options["affine"] = around(options["crs"], grid, options["size"])
    path = write_plane(tmp_path / "source.tif", **options)
    with WarpedReader(path, onto=grid) as reader:
        x, valid = reader.read_valid()
        part, _ = reader.read_valid((7, 5, 20, 30))
        share = reader.coverage
    inside = valid.copy()
    assert inside.mean() > 0.2
    if name != "rotated" and upright:
        assert valid.all()
        assert share == 1
    inside[:2] = inside[-2:] = inside[:, :2] = inside[:, -2:] = False
    if name == "rotated":  # the outermost source pixels are extrapolated
        assert 0.3 < share <= 1
    error = np.abs(x[..., 0] - want_on(grid))
    assert np.percentile(error[inside], 95) < 0.03  # the plane falls by up to 0.1 per metre
    np.testing.assert_allclose(part, x[7:27, 5:35], atol=0.002)


@pytest.mark.parametrize("nodata", [-9999.0, np.nan, None])
def test_nodata_neither_spreads_nor_is_mixed_in(tmp_path, nodata):
    grid = grid_of(
        tmp_path / "grid.tif", affine=rasterio.Affine(1, 0, 500_000, 0, -1, 5_400_000), size=(100, 160)
    )
    hole = np.zeros((60, 60), bool)
    hole[20:30, 20:35] = True
    path = tmp_path / "source.tif"
    if nodata is None:
        write_plane(path)
        with rasterio.open(path, "r+") as f:
            f.write_mask(~hole)
    else:
        write_plane(path, nodata=nodata, hole=hole, count=2)
    with WarpedReader(path, onto=grid) as reader:
        x, valid = reader.read_valid()
        _, small = reader.read_small(side=80)
    assert np.abs(small.mean() - valid.mean()) < 0.03
    error = np.abs(x[..., 0] - want_on(grid))
    assert error[valid].max() < 0.2
    assert not valid[41:59, 41:69].any()
    assert not valid[:, 121:].any()  # the source ends there
    assert valid[:38, :118].all()
    assert 100 * 120 - valid.sum() < 1.3 * 20 * 30


def test_eight_bit_black_is_a_colour_unless_all_bands_are(tmp_path):
    grid = grid_of(
        tmp_path / "grid.tif", affine=rasterio.Affine(1, 0, 500_000, 0, -1, 5_400_000), size=(40, 40)
    )
    rgb = np.full((20, 20, 3), 90, np.uint8)
    rgb[:, :5, 0] = 0
    rgb[10:, 10:] = 0
    path = write_raster(
        tmp_path / "rgb.tif", rgb, crs=UTM33, origin=(500_000, 5_400_000), pixel=2.0, nodata=0
    )
    with WarpedReader(path, onto=grid) as reader:
        x, valid = reader.read_valid()
    assert valid[:, :9].all()
    assert (x[:, :8, 0] <= 1).all()
    assert not valid[22:, 22:].any()
    assert valid[:20].all()


def test_what_cannot_be_brought_together_is_one_line(tmp_path):
    grid = grid_of(tmp_path / "grid.tif")
    far = write_plane(tmp_path / "far.tif", affine=rasterio.Affine(2, 0, 600_000, 0, -2, 5_400_000))
    bare = write_raster(tmp_path / "bare.tif", np.zeros((9, 9), np.float32))
    local = write_raster(tmp_path / "local.tif", np.zeros((9, 9), np.float32), origin=(0, 0))
    for path, message in [
        (far, "far.tif and .*grid.tif do not overlap: .*EPSG:32633"),
        (bare, "bare.tif has no coordinate reference system"),
        (local, "local.tif has no coordinate reference system"),
    ]:
        with pytest.raises(Dis2Error, match=message) as e:
            WarpedReader(path, onto=grid)
        assert "\n" not in str(e.value)
    with pytest.raises(Dis2Error, match=r"bare\.tif has no coordinate reference system"):
        WarpedReader(tmp_path / "grid.tif", onto=raster_info(bare))


def test_pixel_and_world_are_inverse():
    t = tuple(ROTATED)[:6]
    np.testing.assert_allclose(to_pixel(t, *to_world(t, 12.5, 7.0)), (12.5, 7.0), atol=1e-6)


def test_thumbnails(tmp_path):
    x = np.arange(120 * 200, dtype=np.float32).reshape(120, 200)
    x[:60, :100] = np.nan
    with RasterReader(write_raster(tmp_path / "x.tif", x, crs=UTM33, origin=(0, 0))) as reader:
        small, valid = reader.read_small(side=50)
        whole, _ = reader.read_small(side=500)
    assert small.shape == (30, 50, 1)
    assert not valid[:15, :25].any()
    assert valid[15:].all()
    assert whole.shape == (120, 200, 1)
