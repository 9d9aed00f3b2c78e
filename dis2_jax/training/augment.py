"""The host's augmentation, carried out on the accelerator inside the step (``data.augment = 'device'``)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dis2_jax.config import DataConfig
from dis2_jax.data.augment import resamples
from dis2_jax.data.normalize import statistics
from dis2_jax.schema import IGNORE, DatasetCard, Modality

Augment = Callable[[Mapping[str, Any]], dict[str, Any]]


def augment_of(card: DatasetCard, data: DataConfig) -> Augment | None:
    """What the step has to do to a batch before the model sees it; None where the host has done it."""
    return device_augment(card, data) if data.augment == "device" else None


def device_augment(card: DatasetCard, data: DataConfig) -> Augment:
    """Return a function for a jitted step: a batch of stored tiles and what was drawn -> images and labels.

    In: ``Batch`` for ``data.augment = 'device'``. Out: ``image`` float32 ``[B, h, w, C]``, normalised and 0 where
    absent, ``label`` int32 ``[B, h, w]``, ``available``. Labels are the host's exactly. So are images of crops and
    turns, up to float32 rounding; resampled ones up to what 1/10000 pixel makes of them, and where that decides how a
    whole number is rounded, by one of it. (Mixtures whose members store a modality in several dtypes: by half of one.)
    Rows do not touch each other, so a batch split over devices stays so.
    """
    free = resamples(data)

    def augment(batch: Mapping[str, Any]) -> dict[str, Any]:
        drawn, available = batch["drawn"], batch["available"]
        rows = _positions(drawn["row"], drawn["row_along"])
        cols = _positions(drawn["col"], drawn["col_along"])
        image = {}
        for i, m in enumerate(card.modalities):
            x = batch["image"][m.name]
            x = _linear(x, rows, cols) if free else _nearest(x, rows, cols).astype(jnp.float32)
            if m.name in drawn["tones"]:
                x = _toned(x, drawn["tones"][m.name])
            x = _normalized(x, m) if data.normalize == "card" else x
            image[m.name] = jnp.where(available[:, i, None, None, None], x, 0)
        label = _nearest(batch["label"][..., None], rows, cols)[..., 0].astype(jnp.int32)
        label = jnp.where(_inside(rows, cols, batch["label"].shape[1:]), label, IGNORE)
        return {"image": image, "label": label, "available": available}

    return augment


def _positions(across: jax.Array, along: jax.Array) -> jax.Array:
    """Positions of all output pixels, float32 ``[B, h, w]``."""
    return across[:, :, None] + along[:, None]


def _nearest(x: jax.Array, rows: jax.Array, cols: jax.Array) -> jax.Array:
    """Take ``[B, H, W, C]`` at the nearest pixels, those outside at the border: ``[B, h, w, C]``."""
    r, c = (
        jnp.clip(jnp.round(p), 0, n - 1).astype(int) for p, n in zip((rows, cols), x.shape[1:3], strict=True)
    )
    return _take(x, r, c)


def _inside(rows: jax.Array, cols: jax.Array, tile: tuple[int, ...]) -> jax.Array:
    r, c = jnp.round(rows), jnp.round(cols)
    return (r >= 0) & (r < tile[0]) & (c >= 0) & (c < tile[1])


def _linear(x: jax.Array, rows: jax.Array, cols: jax.Array) -> jax.Array:
    """Sample ``[B, H, W, C]`` bilinearly, mirrored outside: float32 ``[B, h, w, C]``."""
    r, c = jnp.floor(rows), jnp.floor(cols)
    fr, fc = (rows - r)[..., None], (cols - c)[..., None]
    r0, r1 = (_mirrored(r.astype(int) + k, x.shape[1]) for k in (0, 1))
    c0, c1 = (_mirrored(c.astype(int) + k, x.shape[2]) for k in (0, 1))
    upper = _take(x, r0, c0) * (1 - fc) + _take(x, r0, c1) * fc
    lower = _take(x, r1, c0) * (1 - fc) + _take(x, r1, c1) * fc
    out = upper * (1 - fr) + lower * fr
    return jnp.round(out) if x.dtype in (np.uint8, np.uint16) else out


def _take(x: jax.Array, r: jax.Array, c: jax.Array) -> jax.Array:
    """``x[b, r[b], c[b]]`` for every row ``b`` of the batch."""
    width = x.shape[2]
    flat = x.reshape(x.shape[0], -1, x.shape[-1])
    return jax.vmap(lambda one, i: one.at[i].get(mode="promise_in_bounds"))(flat, r * width + c)


def _mirrored(p: jax.Array, n: int) -> jax.Array:
    last = n - 1
    return last - jnp.abs(p % (2 * last) - last)


def _toned(x: jax.Array, tone: jax.Array) -> jax.Array:
    gain, offset, low, high = (tone[:, k, None, None] for k in range(4))
    return jnp.clip(x * gain + offset, low, high)


def _normalized(x: jax.Array, modality: Modality) -> jax.Array:
    mean, std = statistics(modality)
    return (x - mean) * (np.float32(1) / std)
