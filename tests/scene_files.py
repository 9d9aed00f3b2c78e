"""A pixel-wise model and small georeferenced scenes: what a map must be is known for every pixel."""

from __future__ import annotations

import warnings

import numpy as np
import rasterio
from raster_files import write_raster
from tiny_run import Fake, fake_variables

from dis2_jax.data.normalize import normalize
from dis2_jax.inference.model import Model

CRS, ORIGIN = "EPSG:32633", (500_000, 5_400_000)


def fake_model(card):
    return Model(network=Fake(), variables=fake_variables(), card=card, step=7)


def scene_arrays(height=90, width=150, seed=0):
    """Smooth enough to be resampled: rgb uint8, ndsm float32."""
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / (7 + 3 * i) + i + seed) * np.cos(y / (9 - 2 * i)) for i in range(4)]
    rgb = np.stack([120 + 100 * w for w in waves[:3]], -1).astype(np.uint8)
    return {"rgb": rgb, "ndsm": (5 + 4 * waves[3]).astype(np.float32)[..., None]}


def write_scene(folder, arrays, *, crs=CRS, nodata=None, prefix=""):
    """One GeoTIFF per modality on one grid of half metres; returns name -> path."""
    nodata = nodata or {}
    return {
        m: write_raster(
            folder / f"{prefix}{m}.tif",
            x,
            crs=crs,
            origin=ORIGIN if crs else None,
            pixel=0.5,
            nodata=nodata.get(m),
        )
        for m, x in arrays.items()
    }


def expected(model, arrays):
    """Probabilities ``[H, W, K]`` of the pixel-wise model."""
    names = [m for m in model.modalities if m in arrays]
    x = np.concatenate([normalize(arrays[m], model.card.modality(m), "card") for m in names], -1)
    logits = x @ model.variables["params"]["+".join(names)]
    e = np.exp(logits - logits.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def read(path):
    """``[H, W]`` or ``[H, W, C]`` and the open file's profile."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        f = rasterio.open(path)
    with f:
        x = np.moveaxis(f.read(), 0, -1)
        return (x[..., 0] if x.shape[-1] == 1 else x), f.profile
