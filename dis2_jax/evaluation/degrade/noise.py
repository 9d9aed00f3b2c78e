"""Sensor noise: additive Gaussian, and multiplicative speckle for radar."""

from __future__ import annotations

import numpy as np

from dis2_jax.evaluation.degrade.sensor import Sensor


def add_noise(x: np.ndarray, sensor: Sensor, *, severity: float, rng: np.random.Generator) -> np.ndarray:
    """Add independent Gaussian noise of ``severity`` card standard deviations per channel; speckle for radar.

    Speckle multiplies by gamma variates of mean 1 and standard deviation ``severity``, which is that of
    ``1 / severity^2`` looks on intensity (Oliver and Quegan 2004); values in dB get it as a sum.
    """
    if severity == 0:
        return x.copy()
    if sensor.modality.kind != "sar":
        return sensor.measured(x + rng.normal(0, severity, x.shape) * sensor.std)
    looks = 1 / severity**2
    speckle = np.maximum(rng.gamma(looks, 1 / looks, x.shape), 1e-6)  # -60 dB: no logarithm of 0
    decibel = "db" in sensor.modality.unit.lower()
    return sensor.measured(x + 10 * np.log10(speckle) if decibel else x * speckle)
