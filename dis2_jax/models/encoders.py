"""Encoders of one modality: features at strides 2, 4, 8, 16, and the unimodal head (METHOD.md, Parts)."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from dis2_jax.models.layers import BatchNorm, DownConv, UpConv, leaky_relu

Features = list[jax.Array]
"""e1..e4: ``[B, H/2^l, W/2^l, w * 2^(l-1)]``."""


class Encoder(nn.Module):
    """Four 4x4 stride-2 convolutions; also the compensation encoder."""

    width: int
    dtype: jax.typing.DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool, weight: jax.Array | None = None) -> Features:
        """``x`` is ``[B, H, W, C]``; ``weight`` ``[B]`` says which samples count in the batch statistics."""
        w, dtype = self.width, self.dtype
        e1 = DownConv(w, dtype, name="e1")(x)
        e2 = DownConv(2 * w, dtype, name="e2")(leaky_relu(e1))
        e2 = BatchNorm(dtype, name="e2_norm")(e2, train=train, weight=weight)
        e3 = DownConv(4 * w, dtype, name="e3")(leaky_relu(e2))
        e3 = BatchNorm(dtype, name="e3_norm")(e3, train=train, weight=weight)
        e4 = DownConv(8 * w, dtype, name="e4")(leaky_relu(e3))
        return [e1, e2, e3, e4]


class UnimodalHead(nn.Module):
    """U-shaped head on one modality's features: ``[B, H, W, K]`` logits."""

    width: int
    num_classes: int
    dtype: jax.typing.DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, features: Features, *, train: bool, weight: jax.Array | None = None) -> jax.Array:
        """``features`` are e1..e4 of a specific encoder."""
        e1, e2, e3, d = features
        for name, skip, factor in (("d5", e3, 4), ("d6", e2, 2), ("d7", e1, 1)):
            d = UpConv(factor * self.width, self.dtype, name=name)(nn.relu(d))
            d = BatchNorm(self.dtype, name=f"{name}_norm")(d, train=train, weight=weight)
            d = jnp.concatenate([d, skip], axis=-1)
        return UpConv(self.num_classes, self.dtype, name="d8")(nn.relu(d))
