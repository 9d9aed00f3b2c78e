"""Gaps at a swath's edge, and rasters that do not lie where they should."""

from __future__ import annotations

import math

import numpy as np

from dis2_jax.evaluation.degrade.sensor import Sensor


def remove_part(x: np.ndarray, sensor: Sensor, *, severity: float, rng: np.random.Generator) -> np.ndarray:
    """Remove the share ``severity`` of the pixels on one side of a straight edge in a random direction.

    They are filled as the data pipeline fills nodata: with the mean of what is left of the tile, or, where
    nothing is left, as for an absent modality.
    """
    height, width = x.shape[:2]
    count = round(severity * height * width)
    if count == 0:
        return x.copy()
    angle = rng.uniform(0, 2 * math.pi)
    rows, columns = np.mgrid[:height, :width]
    depth = rows * math.sin(angle) + columns * math.cos(angle)
    gone = np.zeros(height * width, bool)
    gone[np.argsort(depth, axis=None, kind="stable")[:count]] = True
    gone = gone.reshape(height, width)
    out = x.copy()
    whole = bool(gone.all())
    out[gone] = sensor.absent if whole else sensor.measured(x[~gone].mean(0, dtype=np.float64))
    return out


def move(x: np.ndarray, sensor: Sensor, *, severity: float, rng: np.random.Generator) -> np.ndarray:
    """Move the raster ``severity`` pixels in a random direction, rounded to whole pixels per axis.

    No value is interpolated. What comes in at the border mirrors what lies inside it.
    """
    del sensor  # moving does not depend on what was measured
    angle = rng.uniform(0, 2 * math.pi)
    dy, dx = round(severity * math.sin(angle)), round(severity * math.cos(angle))
    height, width = x.shape[:2]
    pad = ((abs(dy), abs(dy)), (abs(dx), abs(dx)), (0, 0))
    top, left = abs(dy) - dy, abs(dx) - dx
    return np.pad(x, pad, mode="symmetric")[top : top + height, left : left + width].copy()
