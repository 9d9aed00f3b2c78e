"""Windows of layers that do not lie exactly on their scene's grid, against whole arrays padded by numpy."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from raster_files import write_raster

from dis2_jax.data.builders.cutting import Rect, count_tiles, cut_tiles
from dis2_jax.data.builders.layers import Layer, LayeredScene, cut_scene
from dis2_jax.data.builders.tiles import Tile
from dis2_jax.schema import IGNORE

HEIGHT, WIDTH, MORE = 40, 56, 5


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A height with one nodata pixel and a label, and their arrays."""
    folder = tmp_path_factory.mktemp("layers")
    g = np.random.default_rng(0)
    height = g.uniform(1, 9, (HEIGHT, WIDTH)).astype(np.float32)
    height[20, 30] = -1
    label = g.integers(0, 3, (HEIGHT, WIDTH), dtype=np.uint8)
    return (
        write_raster(folder / "h.tif", height, nodata=-1),
        write_raster(folder / "l.tif", label),
        height,
        label,
    )


@given(
    corner=st.tuples(st.integers(-MORE, MORE), st.integers(-MORE, MORE)),
    label_corner=st.tuples(st.integers(-MORE, MORE), st.integers(-MORE, MORE)),
    size=st.tuples(st.integers(HEIGHT - MORE, HEIGHT + MORE), st.integers(WIDTH - MORE, WIDTH + MORE)),
    overlap=st.sampled_from((0, 6)),
    inward=st.booleans(),
)
def test_tiles_are_cut_from_the_scenes_grid(files, corner, label_corner, size, overlap, inward):
    height_file, label_file, height, label = files

    def on_grid(x, at, **how):
        big = np.pad(x, 4 * MORE, **how)
        row, col = 4 * MORE + at[0], 4 * MORE + at[1]
        return big[row : row + size[0], col : col + size[1]]

    heights = on_grid(height, corner, mode="edge")
    inside = on_grid(np.ones_like(height, bool), corner)
    classes = on_grid(label, label_corner, constant_values=IGNORE).copy()
    classes[heights == -1] = IGNORE
    layer = Layer("h", height_file, "float32", scale=0.5, offset=1.0, corner=corner)
    scene = LayeredScene("s", size, (layer,), label_file, label_corner=label_corner)
    rect = Rect(0, 0, *size)
    parts = cut_tiles(rect, (16, 16), overlap=overlap, inward=inward)
    tiles = list(cut_scene(scene, parts, tile=(16, 16), read_label=lambda r, window: r.read(window)[..., 0]))
    assert len(tiles) == count_tiles(rect, (16, 16), overlap=overlap)
    seen = np.zeros(size, bool)
    for t in tiles:
        if not isinstance(t, Tile):
            continue
        p = t.place
        at = (slice(p.row, p.row + p.height), slice(p.col, p.col + p.width))
        seen[at] = True
        own = np.s_[: p.height, : p.width]
        data = heights[at] != -1
        assert np.allclose(t.images["h"][own][data][:, 0], heights[at][data] * 0.5 + 1, atol=1e-5)
        assert np.array_equal(t.label[own], classes[at])
        assert np.array_equal(t.valid["h"][own], inside[at] & data)
        assert (t.label[p.height :] == IGNORE).all()
        assert (t.label[:, p.width :] == IGNORE).all()
        assert not t.valid["h"][p.height :].any()
        assert np.isfinite(t.images["h"]).all()
    assert (seen | (classes == IGNORE)).all()
