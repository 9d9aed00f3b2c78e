"""Georeferenced scenes in three grids, their index, and a mixture with the miniature dataset."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
from conftest import write_mini
from raster_files import write_raster

from dis2_jax.data.mixture.build import mix_datasets
from dis2_jax.data.pipeline import open_train_stream
from dis2_jax.data.scenes.build import index_scenes
from dis2_jax.schema import DatasetCard

ORIGIN = (500_000, 5_400_000)
CARD = """
name = "toy"
tile = 32
reference = "rgb"
[[modality]]
name = "rgb"
files = "rgb/*.tif"
kind = "optical"
[[modality]]
name = "ndsm"
files = "ndsm/*.tif"
kind = "height"
unit = "m"
optional = true
[label]
files = "label/*.tif"
ignore = [9]
[[class]]
name = "ground"
code = 1
[[class]]
name = "building"
code = 2
[[class]]
name = "tree"
code = 3
[split.pattern]
train = ["a*"]
validation = ["b*"]
"""
MIXTURE = """
name = "both"
[[member]]
dir = "mini"
weight = 1
[[member]]
dir = "index"
name = "scenes"
weight = 3
"""


def write_scene(root: Path, name: str, *, size=(72, 100), seed=0, ndsm_pixel=2.0, ndsm=True) -> None:
    """RGB of 1 m, labels of 1 m, heights that rise evenly to the east and south, by default of 2 m."""
    g = np.random.default_rng(seed)
    label = np.kron(g.integers(1, 4, (9, 13)), np.ones((8, 8)))[: size[0], : size[1]].astype(np.uint8)
    rgb = (60 * label[..., None] + g.integers(0, 40, (*size, 3))).astype(np.uint8)
    grid = {"crs": "EPSG:32633", "origin": ORIGIN}
    write_raster(root / f"rgb/{name}.tif", rgb, **grid, pixel=1.0)
    write_raster(root / f"label/{name}.tif", label, **grid, pixel=1.0)
    if ndsm:
        y, x = np.mgrid[: round(size[0] / ndsm_pixel), : round(size[1] / ndsm_pixel)] + 0.5
        height = (0.1 * ndsm_pixel * x + 0.2 * ndsm_pixel * y).astype(np.float32)
        write_raster(root / f"ndsm/{name}.tif", height, **grid, pixel=ndsm_pixel, nodata=-9999)


def write_scenes(root: Path) -> Path:
    """Two training scenes, one of them without heights, and one for validation; returns the index."""
    write_scene(root, "a1", seed=1)
    write_scene(root, "a2", seed=2, size=(60, 90), ndsm=False)
    write_scene(root, "b1", seed=3)
    (root / "card.toml").write_text(CARD)
    index_scenes(root, root / "card.toml", root / "index")
    return root / "index"


def write_mixture(root: Path) -> Path:
    """The miniature dataset and the scenes, one to three."""
    write_mini(root / "mini")
    write_scenes(root)
    (root / "mixture.toml").write_text(MIXTURE)
    mix_datasets(root / "mixture.toml", root / "mixture")
    return root / "mixture"


def take(dataset, data, *, n, seed=0, **options):
    """The first batches of a training stream, and its health at the end."""
    with open_train_stream(dataset, DatasetCard.load(dataset), data, seed=seed, **options) as stream:
        return list(itertools.islice(stream, n)), stream.health()
