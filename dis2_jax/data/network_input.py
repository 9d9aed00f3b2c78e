"""The last step of a raster on its way into a batch: tone and normalisation in one go, written in place."""

from __future__ import annotations

import cv2
import numpy as np

from dis2_jax.data.normalize import Normalization, normalize
from dis2_jax.data.tone import Tone
from dis2_jax.schema import Modality


def write_input(
    x: np.ndarray, modality: Modality, mode: Normalization, out: np.ndarray, *, tone: Tone | None = None
) -> None:
    """Write what the network sees of a raster ``[h, w, C]`` into ``out``, float32 of that shape.

    8-bit rasters go through a table of their 256 values: the same numbers to the last bit, several times as fast.
    """
    if x.dtype != np.uint8:
        normalize(x if tone is None else tone.apply(x), modality, mode, out=out)
        return
    look_up(x, byte_table(modality, mode, tone=tone), out)


def byte_table(modality: Modality, mode: Normalization, *, tone: Tone | None = None) -> np.ndarray:
    """Return what the network sees of each value of an 8-bit raster: float32 ``[256, C]``."""
    values = np.broadcast_to(np.arange(256, dtype=np.float32)[:, None], (256, modality.channels))
    return normalize(values if tone is None else tone.apply(values), modality, mode)


def look_up(x: np.ndarray, table: np.ndarray, out: np.ndarray) -> None:
    """Write ``table[x, channel]`` of a raster uint8 ``[h, w, C]`` into ``out``, float32 of that shape."""
    flat = out.shape if out.shape[-1] > 1 else out.shape[:2]
    found = cv2.LUT(x.reshape(flat), table[None], dst=out.reshape(flat))
    if not np.shares_memory(found, out):  # never seen; OpenCV promises no more than to try
        out[...] = found.reshape(out.shape)
