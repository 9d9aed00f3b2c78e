"""Photometric noise: another brightness, contrast and gain per channel."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from dis2_jax.data.normalize import statistics
from dis2_jax.schema import Modality


@dataclasses.dataclass(frozen=True)
class Tone:
    """``x * gain + offset`` per channel (float32 ``[C]`` each), kept within ``low .. high``."""

    gain: np.ndarray
    offset: np.ndarray
    low: float
    high: float

    def apply(self, x: np.ndarray) -> np.ndarray:
        """Return a raster ``[..., C]`` changed so; float32."""
        out = x * self.gain
        out += self.offset
        if np.isfinite(self.low):
            np.minimum(out, np.float32(self.high), out=out)
            np.maximum(out, np.float32(self.low), out=out)
        return out


def draw_tone(modality: Modality, strength: float, rng: np.random.Generator, *, dtype: np.dtype) -> Tone:
    """Draw the noise of one raster of an optical modality.

    In units of the modality's statistics, ``z = (x - mean) / std``: ``z * exp(s (u + v_c / 2)) + s (b + d_c /
    2)`` with ``u``, ``b`` and per channel ``v_c``, ``d_c`` uniform in -1..1 and ``s = strength``. ``dtype``
    is the stored one (resampling may give floats): values stay inside the range of a whole-number dtype, as a
    sensor's do.
    """
    # In plain numbers: arrays of a few channels take several times as long.
    u, b, *each = (2 * rng.random(2 + 2 * modality.channels) - 1).tolist()
    mean, std = (v.tolist() for v in statistics(modality))
    gains = [math.exp(strength * (u + v / 2)) for v in each[: modality.channels]]
    shifts = [strength * (b + d / 2) for d in each[modality.channels :]]
    offsets = [m * (1 - g) + shift * s for m, s, g, shift in zip(mean, std, gains, shifts, strict=True)]
    gain, offset = (np.array(v, np.float32) for v in (gains, offsets))
    if not np.issubdtype(dtype, np.integer):
        return Tone(gain, offset, -np.inf, np.inf)
    limits = np.iinfo(dtype)
    return Tone(gain, offset, float(limits.min), float(limits.max))
