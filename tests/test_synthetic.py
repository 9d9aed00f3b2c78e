"""The synthetic city: reproducible, complete, and ambiguous in each modality alone."""

import numpy as np
import pytest

from dis2_jax.data.builders.scene_jobs import tiles_of
from dis2_jax.data.builders.synthetic_city import SyntheticCity, SyntheticCityOptions
from dis2_jax.data.synthetic import BUILDING, CAR, LEGEND, LOW_VEGETATION, ROAD, TREE, draw_scene
from dis2_jax.schema import Dis2Error


@pytest.fixture(scope="module")
def scenes():
    return [draw_scene(seed=0, split="train", index=i, size=256) for i in range(6)]


def test_a_scene_depends_on_its_name_alone():
    a, b = (draw_scene(seed=1, split="train", index=3, size=96) for _ in range(2))
    assert all(np.array_equal(getattr(a, n), getattr(b, n)) for n in ("rgb", "ndsm", "label"))
    others = [("test", 3, 1), ("train", 4, 1), ("train", 3, 2)]
    for split, index, seed in others:
        assert not np.array_equal(a.label, draw_scene(seed=seed, split=split, index=index, size=96).label)


@pytest.mark.parametrize("size", [16, 48, 160])
def test_shapes_dtypes_and_ranges(size):
    scene = draw_scene(seed=0, split="train", index=0, size=size)
    assert (scene.rgb.shape, scene.rgb.dtype) == ((size, size, 3), np.uint8)
    assert (scene.ndsm.shape, scene.ndsm.dtype) == ((size, size, 1), np.float32)
    assert (scene.label.shape, scene.label.dtype) == ((size, size), np.uint8)
    assert np.isfinite(scene.ndsm).all()
    assert scene.label.max() < len(LEGEND)


def test_every_class_is_there(scenes):
    counts = np.bincount(np.concatenate([s.label.ravel() for s in scenes]), minlength=len(LEGEND))
    assert (counts / counts.sum() > 0.01).all()


def overlap(a, b, bins):
    """Shared area of two histograms, 0 (separable) to 1 (the same)."""
    h, g = (np.histogram(v, bins)[0] / v.size for v in (a, b))
    return np.minimum(h, g).sum()


def test_each_modality_alone_is_ambiguous(scenes):
    """Colour: many roofs look like streets, trees like lawns. Height: all that lies on the ground is one."""
    green = np.concatenate([s.rgb[..., 1].ravel() for s in scenes])
    height = np.concatenate([s.ndsm.ravel() for s in scenes])
    label = np.concatenate([s.label.ravel() for s in scenes])
    grey_levels, metres = np.linspace(0, 255, 40), np.linspace(-2, 20, 60)

    def of(values, k):
        return values[label == k]

    assert overlap(of(green, ROAD), of(green, BUILDING), grey_levels) > 0.4
    assert overlap(of(green, LOW_VEGETATION), of(green, TREE), grey_levels) > 0.6
    assert overlap(of(height, ROAD), of(height, LOW_VEGETATION), metres) > 0.7
    assert overlap(of(height, ROAD), of(height, CAR), metres) > 0.5
    assert overlap(of(height, ROAD), of(height, BUILDING), metres) < 0.1  # together they are not
    assert overlap(of(height, BUILDING), of(height, TREE), metres) > 0.4


def test_tiles_put_together_are_the_scene():
    options = SyntheticCityOptions(train_scenes=1, scene=96, tile=32, seed=5)
    tiles = list(tiles_of(SyntheticCity(options), "train"))
    scene = draw_scene(seed=5, split="train", index=0, size=96)
    rows = [np.concatenate([t.label for t in tiles[3 * r : 3 * r + 3]], 1) for r in range(3)]
    assert np.array_equal(np.concatenate(rows), scene.label)
    assert len({t.tile_id for t in tiles}) == 9


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tile": 40}, "multiples of 16"),
        ({"scene": 100}, "not a multiple of the tile"),
        ({"scene": 0}, "scene size 0 is not a multiple of the tile"),
        ({"validation_scenes": 0}, "at least 1 training and 1 validation"),
        ({"seed": -1}, "seed -1"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(Dis2Error, match=message):
        SyntheticCityOptions(**options)
