"""Rasters and class maps to RGB pictures. Numpy, and matplotlib's colour tables."""

from __future__ import annotations

import matplotlib
import numpy as np

from dis2_jax.data.true_color import shown_bands
from dis2_jax.schema import IGNORE, ClassLegend, Modality

CORRECT = (236, 236, 236)
WRONG = (200, 30, 40)
_HATCH = ((205, 205, 205), (140, 140, 140))


def render_modality(x: np.ndarray, modality: Modality) -> np.ndarray:
    """Draw a raster ``[H, W, C]`` in physical units as uint8 ``[H, W, 3]``.

    Three bands or more (radar excepted) become a colour composite, stretched together from their 2nd to their
    98th percentile, which keeps the colours. Reflectances, whose bands differ in scale, are balanced
    by the card's statistics first; 8-bit values were balanced for the eye by whoever made them. A single band
    becomes grey, or a perceptual colour scale for heights and the like.
    """
    bands = list(shown_bands(modality))
    values: np.ndarray = x[..., bands].astype(np.float32)
    eight_bit = values.size > 0 and values.min() >= 0 and values.max() <= 255
    if len(bands) == 3 and not eight_bit and len(modality.std) == modality.channels:
        mean, std = (np.asarray(s, np.float32)[bands] for s in (modality.mean, modality.std))
        values = (values - mean) / np.where(std > 0, std, np.float32(1))
    values = stretch(values)
    if values.shape[-1] == 3:
        return _to_bytes(values)
    if modality.kind in ("optical", "sar"):
        return _to_bytes(np.repeat(values, 3, axis=-1))
    return _to_bytes(matplotlib.colormaps["viridis"](values[..., 0])[..., :3])


def stretch(x: np.ndarray, *, low: float = 2.0, high: float = 98.0) -> np.ndarray:
    """Map the given percentiles to 0 and 1 and cut outside, float32; a constant raster becomes 0.5."""
    x = np.asarray(x, np.float32)
    finite = x[np.isfinite(x)]
    if not finite.size:
        return np.full(x.shape, 0.5, np.float32)
    bottom, top = np.percentile(finite, (low, high))
    if top <= bottom:  # flat but for a few pixels, such as one house in a meadow
        bottom, top = float(finite.min()), float(finite.max())
    if top <= bottom:
        return np.full(x.shape, 0.5, np.float32)
    return np.clip((np.nan_to_num(x, nan=bottom) - bottom) / (top - bottom), 0, 1).astype(np.float32)


def render_classes(labels: np.ndarray, legend: ClassLegend) -> np.ndarray:
    """Draw class indices ``[H, W]`` in the legend's colours, uint8 ``[H, W, 3]``; no class: hatched grey."""
    known = (labels >= 0) & (labels < len(legend))
    colors = np.asarray(legend.colors, np.uint8)
    return np.where(known[..., None], colors[np.where(known, labels, 0)], hatch(labels.shape))


def render_errors(prediction: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Draw right pixels pale, wrong ones red, ignored ones hatched: uint8 ``[H, W, 3]``."""
    right = np.where((prediction == reference)[..., None], _color(CORRECT), _color(WRONG))
    return np.where((reference == IGNORE)[..., None], hatch(reference.shape), right)


def hatch(size: tuple[int, ...]) -> np.ndarray:
    """Grey diagonal stripes, uint8 ``[H, W, 3]``, about 16 across the picture."""
    height, width = size
    period = max(4, min(height, width) // 16)
    lines = (np.add.outer(np.arange(height), np.arange(width)) % period) < max(1, period // 3)
    light, dark = _HATCH
    return np.where(lines[..., None], _color(dark), _color(light))


def _color(rgb: tuple[int, int, int]) -> np.ndarray:
    return np.asarray(rgb, np.uint8)


def _to_bytes(x: np.ndarray) -> np.ndarray:
    return (x * 255).round().astype(np.uint8)
