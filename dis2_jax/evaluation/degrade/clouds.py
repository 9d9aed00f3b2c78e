"""Smooth procedural clouds with shadows, for optical rasters."""

from __future__ import annotations

import math

import numpy as np
from scipy import ndimage

from dis2_jax.evaluation.degrade.sensor import Sensor

_EDGE = 0.35
"""Width of a cloud's soft edge, in standard deviations of the field."""
_SHADE = 0.5
"""Light that is left in full shadow."""
_WHITE = 4.0
"""Brightness of a cloud, in the card's standard deviations above the mean."""


def add_clouds(x: np.ndarray, sensor: Sensor, *, severity: float, rng: np.random.Generator) -> np.ndarray:
    """Cover the share ``severity`` of the pixels (half opaque or more), and shade the ground beside them.

    The field is a sum of smooth noise at falling scales, cut at the quantile that gives the cover. A cloud is
    equally bright in all bands, 4 standard deviations above the card's mean in the band where that is most,
    and a little grey where thick; its shadow is its own outline, moved in a random direction, and halves the
    light. At ``severity`` 1 all is cloud.
    """
    if severity == 0:
        return x.copy()
    height, width = x.shape[:2]
    reach = max(2, min(height, width) // 6)
    field = cloud_field((height + 2 * reach, width + 2 * reach), rng=rng)
    inner = field[reach:-reach, reach:-reach]
    opacity = _opacity(field, inner, cover=min(severity, 1.0))
    angle = rng.uniform(0, 2 * math.pi)
    dy, dx = round(reach * math.sin(angle)), round(reach * math.cos(angle))
    top, left = reach + dy, reach + dx
    shadow = opacity[top : top + height, left : left + width, None]
    cloud = opacity[reach:-reach, reach:-reach, None]
    thick = (inner - inner.min()) / max(float(np.ptp(inner)), 1e-12)
    band = int(np.argmax(sensor.mean + _WHITE * sensor.std))
    white = sensor.mean[band] + sensor.std[band] * (_WHITE - 0.6 * thick[..., None])
    low = np.minimum(sensor.mean - 3 * sensor.std, x.min((0, 1))) if sensor.mean.min() < 0 else 0.0
    shaded = low + (x - low) * (1 - (1 - _SHADE) * shadow)
    return sensor.measured(shaded * (1 - cloud) + white * cloud)


def cloud_field(size: tuple[int, int], *, rng: np.random.Generator) -> np.ndarray:
    """Smooth noise ``[H, W]`` of mean 0 and standard deviation 1: octaves from a third of the side down to 4 px."""
    field = np.zeros(size)
    scale, weight = min(size) / 3, 1.0
    while scale >= 4 or weight == 1.0:
        layer = ndimage.gaussian_filter(rng.normal(0, 1, size), scale / 2, mode="reflect")
        field += weight * layer / max(float(layer.std()), 1e-12)
        scale, weight = scale / 2, weight / 2
    return (field - field.mean()) / max(float(field.std()), 1e-12)


def _opacity(field: np.ndarray, inner: np.ndarray, *, cover: float) -> np.ndarray:
    """Opacity 0..1 of the whole field, at least one half on the share ``cover`` of its inner part."""
    if cover >= 1:
        return np.ones_like(field)
    level = float(np.quantile(inner, 1 - cover))
    part = np.clip((field - level) / _EDGE + 0.5, 0, 1)
    return part * part * (3 - 2 * part)
