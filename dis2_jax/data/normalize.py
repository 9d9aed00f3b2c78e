"""Physical units to network inputs and back, the same for training, evaluation and prediction."""

from __future__ import annotations

import functools
from typing import Literal

import numpy as np

from dis2_jax.schema import Dis2Error, Modality

Normalization = Literal["card", "none"]


def normalize(
    x: np.ndarray, modality: Modality, mode: Normalization, *, out: np.ndarray | None = None
) -> np.ndarray:
    """Turn a raster ``[..., C]`` in physical units into ``out``, by default a fresh float32 array of that shape.

    ``card``: ``(x - mean) / std`` per channel with the card's statistics; ``none``: the values as they are.
    Raises ``Dis2Error`` when the channel count differs from the modality's or the card has no statistics.
    """
    _check_channels(x, modality)
    if out is None:
        out = np.empty(x.shape, np.float32)
    if mode == "none":
        out[...] = x
        return out
    mean, std = statistics(modality)
    factor = np.float32(1) / std
    # Whole rows at a time: numpy takes several times as long over an innermost axis of a few channels.
    width = out.shape[-2] if out.size and out.ndim > 1 and out.flags.c_contiguous else 1
    rows = out.reshape(*out.shape[:-2], -1) if width > 1 else out
    if width > 1 and len(mean) > 1:
        mean, factor = np.tile(mean, width), np.tile(factor, width)
    if x.dtype != np.float32:
        out[...] = x
        x = out
    np.subtract(x.reshape(rows.shape), mean, out=rows)
    rows *= factor
    return out


def denormalize(x: np.ndarray, modality: Modality, mode: Normalization) -> np.ndarray:
    """Undo ``normalize``: float32 ``[..., C]`` in physical units, for pictures. Same errors."""
    _check_channels(x, modality)
    out = np.array(x, dtype=np.float32)
    if mode == "card":
        mean, std = statistics(modality)
        out *= std
        out += mean
    return out


@functools.lru_cache(maxsize=64)
def statistics(modality: Modality) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and std, float32 ``[C]``, read-only. The std of a constant channel counts as 1.

    Raises ``Dis2Error`` when the card holds none, not one per channel, or values that are not finite.
    """
    mean = np.asarray(modality.mean, np.float32)
    std = np.asarray(modality.std, np.float32)
    if mean.shape != (modality.channels,) or std.shape != (modality.channels,):
        raise Dis2Error(
            f"modality {modality.name!r}: the card gives {mean.size} means and {std.size} stds for "
            f"{modality.channels} channels; prepare the dataset again, or set data.normalize = 'none'"
        )
    if not (np.isfinite(mean).all() and np.isfinite(std).all()):
        raise Dis2Error(f"modality {modality.name!r}: the card's mean or std is not finite")
    found = (np.array(mean), np.where(std > 0, std, np.float32(1)))
    for v in found:
        v.setflags(write=False)  # every caller gets the same ones
    return found


def _check_channels(x: np.ndarray, modality: Modality) -> None:
    if x.ndim < 1 or x.shape[-1] != modality.channels:
        raise Dis2Error(
            f"modality {modality.name!r}: shape {x.shape} must end in its {modality.channels} channels"
        )
