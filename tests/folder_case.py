"""A small folder of one's own: three scenes of two modalities, and its card."""

from __future__ import annotations

import numpy as np
from raster_files import write_raster

from dis2_jax.data import prepare as preparing
from dis2_jax.data.builders.folder import find_folder
from dis2_jax.data.source import TileSource
from dis2_jax.schema import DatasetCard

CARD = """
name = "toy"
tile = 16
[[modality]]
name = "rgb"
files = "rgb/*.png"
kind = "optical"
[[modality]]
name = "dsm"
files = "dsm/dsm_*.tif"
nodata = -9999
scale = 0.5
offset = 1.0
optional = true
[label]
files = "label/*_gt.png"
ignore = [9]
[[class]]
name = "low"
code = 1
[[class]]
name = "high"
codes = [2, 5]
[split.pattern]
train = ["a*"]
validation = ["b*"]
"""
RNG = np.random.default_rng(0)


def scene(root, name, *, size=(40, 32), height=True):
    rgb = RNG.integers(0, 256, (*size, 3), dtype=np.uint8)
    write_raster(root / f"rgb/{name}.png", rgb)
    dsm = RNG.integers(0, 100, (*size, 1)).astype(np.int16)
    if height:
        write_raster(root / f"dsm/dsm_{name}.tif", dsm, crs="EPSG:32633", origin=(0, 0))
    label = RNG.choice(np.array([1, 2, 5], np.uint8), size)
    write_raster(root / f"label/{name}_gt.png", label)
    return rgb, dsm, label


def edit(root, old, new):
    text = (root / "card.toml").read_text()
    assert old in text
    (root / "card.toml").write_text(text.replace(old, new))


def prepare(root, out="out"):
    return preparing.prepare(find_folder(root, root / "card.toml"), root / out)


def read(root, split, out="out"):
    return {t["tile_id"]: t for t in TileSource(root / out, split, DatasetCard.load(root / out))}
