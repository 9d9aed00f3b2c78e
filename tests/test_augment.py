"""Augmentation: every geometry keeps image and label aligned, and does what its name says."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dis2_jax.config import DataConfig
from dis2_jax.data.augment import Affine, Window, crop_size, draw_geometry
from dis2_jax.data.network_input import write_input
from dis2_jax.data.normalize import normalize
from dis2_jax.data.tone import draw_tone
from dis2_jax.schema import IGNORE, Dis2Error, Modality

PLAIN = DataConfig(flip=False, rotate90=False)

configs = st.builds(
    DataConfig,
    crop=st.sampled_from([(0, 0), (16, 16), (32, 16), (16, 48), (48, 0)]),
    flip=st.booleans(),
    rotate90=st.booleans(),
    rotate_degrees=st.sampled_from([0.0, 10.0, 90.0]),
    scale=st.sampled_from([(1.0, 1.0), (0.5, 2.0), (0.8, 0.9), (3.0, 4.0)]),
)
tiles = st.sampled_from([(48, 48), (48, 64), (64, 48)])
seeds = st.integers(0, 2**31)


def coordinates(height, width):
    """A raster whose two channels are the row and the column: it says where every output pixel came from."""
    return np.stack(np.meshgrid(np.arange(height), np.arange(width), indexing="ij"), -1).astype(np.float32)


@settings(max_examples=150)
@given(configs, tiles, seeds)
def test_label_and_image_stay_aligned(config, tile, seed):
    geometry = draw_geometry(tile, config, np.random.default_rng(seed))
    where = coordinates(*tile)
    label = (where[..., 0] // 8 % 2 * 2 + where[..., 1] // 8 % 2).astype(np.uint8)
    x, y = geometry.image(where), geometry.label(label)
    size = crop_size(config, tile)
    assert x.shape == (*size, 2)
    assert y.shape == size
    assert y.dtype == np.uint8
    assert (x >= 0).all()
    assert (x <= np.array(tile) - 1).all()
    seen = y != IGNORE
    if isinstance(geometry, Window):
        assert seen.all()
    # The image says where a pixel was taken; between halves the label must be that place's.
    rows, cols = np.floor(x[..., 0] + 0.5).astype(int), np.floor(x[..., 1] + 0.5).astype(int)
    clear = seen & (np.abs(x + 0.5 - np.round(x + 0.5)).min(-1) > 1e-3)
    clear |= seen if isinstance(geometry, Window) else False
    assert clear.sum() >= 0.9 * seen.sum()
    np.testing.assert_array_equal(y[clear], label[rows, cols][clear])


@settings(max_examples=100)
@given(configs, seeds)
def test_all_modalities_get_the_same_geometry(config, seed):
    g = np.random.default_rng(seed)
    geometry = draw_geometry((48, 64), config, g)
    a = g.integers(0, 255, (48, 64, 3)).astype(np.uint8)
    b = a[..., 1:2].astype(np.float32)
    np.testing.assert_allclose(
        geometry.image(a)[..., 1:2], geometry.image(b), atol=0.51
    )  # 8 bits are rounded


def exact(x, positions):
    """Bilinear sampling in float64, mirrored."""
    p = positions
    rows, cols = (p.row[:, None] + p.row_along, p.col[:, None] + p.col_along)
    low = [np.floor(q).astype(int) for q in (rows, cols)]
    part = [(q - np.floor(q))[..., None] for q in (rows, cols)]
    mirrored = [
        [(n - 1) - np.abs((q + k) % (2 * (n - 1)) - (n - 1)) for k in (0, 1)]
        for q, n in zip(low, x.shape, strict=False)
    ]
    corner = [[x[r, c].astype(np.float64) for c in mirrored[1]] for r in mirrored[0]]
    upper, lower = (a * (1 - part[1]) + b * part[1] for a, b in corner)
    return upper * (1 - part[0]) + lower * part[0]


@pytest.mark.parametrize("scale", [(0.8, 1.25), (0.02, 0.021), (0.001, 0.0011)])
@pytest.mark.parametrize(
    ("dtype", "channels"),
    [("uint8", 3), ("uint16", 4), ("int16", 2), ("float32", 1), ("uint16", 13), ("int32", 2)],
)
def test_resampling_is_bilinear_and_mirrors(dtype, channels, scale):
    """To 1/2000 pixel far outside; labels also beyond the reach of OpenCV's int16, where images mean nothing."""
    g = np.random.default_rng(1)
    x = g.uniform(0, 255, (48, 64, channels)).astype(dtype)
    y = g.integers(0, 6, (48, 64)).astype(np.uint8)
    config = DataConfig(rotate_degrees=30.0, scale=scale)
    geometry = draw_geometry((48, 64), config, g)
    rounded = dtype in ("uint8", "uint16")
    out = geometry.image(x)
    assert out.dtype == (dtype if rounded else np.float32)
    if scale[0] > 0.01:
        near = 0.02 if scale[0] > 0.5 else 255 / 2000
        np.testing.assert_allclose(out, exact(x, geometry.positions), atol=near + 0.5 * rounded)
    p = geometry.positions
    points = (p.row[:, None] + p.row_along, p.col[:, None] + p.col_along)
    rows, cols = (np.rint(q).astype(int) for q in points)
    inside = (rows >= 0) & (rows < 48) & (cols >= 0) & (cols < 64)
    np.testing.assert_array_equal(geometry.label(y), np.where(inside, y[rows % 48, cols % 64], IGNORE))


@settings(max_examples=60)
@given(configs, tiles, seeds, st.sampled_from(["uint8", "float32", "int32"]), st.sampled_from([1, 3, 6]))
def test_crops_and_turns_are_where_their_positions_say(config, tile, seed, dtype, channels):
    config = dataclasses.replace(config, scale=(1.0, 1.0), rotate_degrees=0.0)
    g = np.random.default_rng(seed)
    window = draw_geometry(tile, config, g)
    x = g.integers(0, 255, (*tile, channels)).astype(dtype)
    p = window.positions
    rows, cols = ((a[:, None] + b).astype(int) for a, b in ((p.row, p.row_along), (p.col, p.col_along)))
    assert window.image(x).dtype == dtype
    np.testing.assert_array_equal(window.image(x), x[rows, cols])
    np.testing.assert_array_equal(window.label(x[..., 0]), x[rows, cols, 0])


def test_nothing_switched_on_is_the_identity():
    x = np.random.default_rng(0).integers(0, 255, (32, 48, 3)).astype(np.uint8)
    geometry = draw_geometry((32, 48), PLAIN, np.random.default_rng(1))
    assert geometry.image(x).dtype == np.uint8
    np.testing.assert_array_equal(geometry.image(x), x)
    np.testing.assert_array_equal(geometry.label(x[..., 0]), x[..., 0])


def test_affine_identity_and_half_pixel_shift():
    x = np.random.default_rng(0).normal(size=(16, 32, 2)).astype(np.float32)
    same = Affine(tile=(16, 32), size=(16, 32), centre=(7.5, 15.5), matrix=((1, 0), (0, 1)))
    np.testing.assert_allclose(same.image(x), x, rtol=1e-6)
    between = dataclasses.replace(same, centre=(7.5, 16.0)).image(x)
    np.testing.assert_allclose(between[:, :-1], (x[:, :-1] + x[:, 1:]) / 2, rtol=1e-5, atol=1e-6)


def test_flips_and_quarter_turns_are_exactly_the_eight_symmetries():
    x = np.arange(32 * 32, dtype=np.float32).reshape(32, 32, 1)
    turned = [np.rot90(f, k) for k in range(4) for f in (x, x[:, ::-1])]
    wanted = {a.tobytes() for a in turned}

    def drawn(**switches):
        config = DataConfig(**switches)
        g = np.random.default_rng(0)
        return {draw_geometry((32, 32), config, g).image(x).tobytes() for _ in range(200)}

    assert drawn(flip=True, rotate90=True) == wanted
    assert drawn(flip=False, rotate90=True) == {np.rot90(x, k).tobytes() for k in range(4)}
    assert drawn(flip=True, rotate90=False) == {a.tobytes() for a in (x, x[::-1], x[:, ::-1], x[::-1, ::-1])}


def test_affine_turns_are_the_window_turns():
    """Scale jitter switched on, but drawn as 1: the resampling path must agree with the array path."""
    x = coordinates(32, 32)
    for seed in range(40):
        exact = draw_geometry((32, 32), DataConfig(), np.random.default_rng(seed))
        free = draw_geometry((32, 32), DataConfig(scale=(1.0, 1.0 + 1e-9)), np.random.default_rng(seed))
        assert isinstance(free, Affine)
        np.testing.assert_allclose(free.image(x), exact.image(x), atol=1e-4)


def test_oblong_crop_turns_only_where_it_fits():
    config = DataConfig(crop=(16, 48), rotate90=True)
    turned = {draw_geometry((32, 48), config, np.random.default_rng(s)).turn.transpose for s in range(50)}
    assert turned == {False}
    turned = {draw_geometry((48, 48), config, np.random.default_rng(s)).turn.transpose for s in range(50)}
    assert turned == {False, True}


def test_crops_reach_every_place():
    config = dataclasses.replace(PLAIN, crop=(16, 16))
    drawn = [draw_geometry((32, 32), config, np.random.default_rng(s)) for s in range(400)]
    assert {w.top for w in drawn} == {w.left for w in drawn} == set(range(17))


@pytest.mark.parametrize("zoom", [0.5, 2.0, 3.0])
def test_scale_jitter_changes_the_size_of_objects(zoom):
    label = np.zeros((96, 96), np.uint8)
    label[40:56, 40:56] = 1
    config = dataclasses.replace(PLAIN, crop=(96, 96), scale=(zoom, zoom * (1 + 1e-9)))
    areas = []
    for seed in range(60):
        y = draw_geometry((96, 96), config, np.random.default_rng(seed)).label(label)
        assert y.shape == (96, 96)
        if zoom < 1:
            assert (y == IGNORE).mean() == pytest.approx(0.75, abs=0.03)
        if not (y == 1)[[0, -1]].any() and not (y == 1)[:, [0, -1]].any():
            areas.append((y == 1).sum())
    assert max(areas) == pytest.approx(16 * 16 * zoom**2, rel=0.1)


def test_zoom_is_log_uniform_in_its_range():
    config = dataclasses.replace(PLAIN, scale=(0.5, 2.0))
    g = np.random.default_rng(0)
    logs = [-np.log2(draw_geometry((32, 32), config, g).matrix[0][0]) for _ in range(500)]
    assert min(logs) >= -1
    assert max(logs) <= 1
    assert np.mean(logs) == pytest.approx(0, abs=0.1)
    assert np.std(logs) == pytest.approx(np.sqrt(1 / 3), abs=0.05)


def test_free_rotation_turns_by_the_angle_and_ignores_what_it_uncovers():
    config = dataclasses.replace(PLAIN, rotate_degrees=45.0)
    label = np.zeros((64, 64), np.uint8)
    angles, uncovered = [], []
    for seed in range(50):
        geometry = draw_geometry((64, 64), config, np.random.default_rng(seed))
        (a, b), (c, d) = geometry.matrix
        assert a * d - b * c == pytest.approx(1)
        angles.append(np.degrees(np.arctan2(c, a)))
        uncovered.append((geometry.label(label) == IGNORE).mean())
    assert -45 <= min(angles) < -30
    assert 30 < max(angles) <= 45
    assert 0.1 < max(uncovered) < 0.35
    # A crop small enough to fit when turned never leaves the tile.
    config = dataclasses.replace(config, crop=(32, 32), rotate_degrees=180.0)
    for seed in range(50):
        assert (draw_geometry((64, 64), config, np.random.default_rng(seed)).label(label) == 0).all()


def test_crop_that_does_not_fit_is_refused():
    with pytest.raises(Dis2Error, match=r"data\.crop = \(64, 32\) is larger than the dataset's 48 x 48"):
        crop_size(DataConfig(crop=(64, 32)), (48, 48))
    with pytest.raises(Dis2Error, match=r"40 x 56 tiles needs.*set data\.crop, such as \(32, 48\)"):
        crop_size(DataConfig(), (40, 56))
    assert crop_size(DataConfig(crop=(32, 0)), (40, 48)) == (32, 48)


RGB = Modality("rgb", 2, kind="optical", mean=(100.0, 50.0), std=(20.0, 5.0))


def test_photometric_noise_is_affine_per_channel_in_units_of_the_std():
    x = np.random.default_rng(0).normal(0, 1, (32, 32, 2)).astype(np.float32) * [20, 5] + [100, 50]
    x = x.astype(np.float32)
    for seed in range(30):
        out = draw_tone(RGB, 0.2, np.random.default_rng(seed), dtype=x.dtype).apply(x)
        assert out.dtype == np.float32
        z, w = (x - [100, 50]) / [20, 5], (out - [100, 50]) / [20, 5]
        for c in range(2):
            gain, offset = np.polyfit(z[..., c].ravel(), w[..., c].ravel(), 1)
            assert abs(np.log(gain)) <= 0.3 + 1e-4
            assert abs(offset) <= 0.3 + 1e-4
            np.testing.assert_allclose(w[..., c], gain * z[..., c] + offset, atol=1e-3)
    assert not np.array_equal(out[..., 0], x[..., 0])


def test_photometric_noise_stays_in_the_stored_range():
    x = np.random.default_rng(0).integers(0, 256, (16, 16, 2)).astype(np.uint8)
    for seed in range(20):
        out = draw_tone(RGB, 20.0, np.random.default_rng(seed), dtype=np.dtype(np.uint8)).apply(x)
        assert out.min() >= 0
        assert out.max() <= 255


@pytest.mark.parametrize("channels", [1, 3, 6])
@pytest.mark.parametrize("mode", ["card", "none"])
def test_the_table_for_8_bits_gives_the_very_numbers_of_the_long_way(channels, mode):
    g = np.random.default_rng(2)
    m = Modality("a", channels, kind="optical", mean=(90.0,) * channels, std=tuple(range(7, 7 + channels)))
    x = g.integers(0, 256, (16, 24, channels)).astype(np.uint8)
    for tone in (None, draw_tone(m, 0.5, g, dtype=x.dtype)):
        batch = np.full((3, *x.shape), 7, np.float32)
        write_input(x, m, mode, batch[1], tone=tone)
        np.testing.assert_array_equal(batch[1], normalize(x if tone is None else tone.apply(x), m, mode))
        assert (batch[[0, 2]] == 7).all()
        write_input(x.astype(np.float32), m, mode, batch[0], tone=tone)
        np.testing.assert_array_equal(batch[0], batch[1])
