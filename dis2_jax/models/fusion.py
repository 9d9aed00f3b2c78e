"""Hierarchical hybrid fusion (METHOD.md, Parts): convolutions at levels 1-3, a transformer at level 4."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from dis2_jax.models.encoders import Features
from dis2_jax.models.layers import AttentionPool, BatchNorm, DownConv, PreNormConv, array_module
from dis2_jax.models.layout import current

Position = Literal["table", "sincos"]


@flax.struct.dataclass
class Fused:
    """What the fusion hands on: maps f1..f4 ``[B, H/2^l, W/2^l, d_l]`` and the fusion token g ``[B, d4]``."""

    maps: list[jax.Array]
    token: jax.Array


class HierarchicalFusion(nn.Module):
    """Fuse M lists of e1..e4. ``tile`` (H, W in pixels) sizes the position tables of ``position='table'``."""

    modalities: Sequence[str]
    width: int
    tile: tuple[int, int]
    heads: int = 8
    depth: int = 2
    feed_forward: int = 256
    dropout: float = 0.1
    position: Position = "table"
    dtype: jax.typing.DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, features: Sequence[Features], *, train: bool, weight: jax.Array | None = None
    ) -> Fused:
        """``features[m]`` fills modality m's slot; ``weight`` ``[B]`` masks the batch statistics."""
        maps = [self._mix(level, [f[level] for f in features]) for level in range(3)]
        for level in (1, 2):
            down = DownConv(maps[level].shape[-1], self.dtype, name=f"down{level}")(maps[level - 1])
            down = BatchNorm(self.dtype, name=f"down{level}_norm")(down, train=train, weight=weight)
            maps[level] = maps[level] + down
        maps = [current().activation(x, "map") for x in maps]
        token, deep = self._attend([f[3] for f in features], maps[2], train=train)
        return Fused(maps=[*maps, deep], token=token)

    def _mix(self, level: int, maps: Sequence[jax.Array]) -> jax.Array:
        d = maps[0].shape[-1]
        x = jnp.concatenate(maps, axis=-1)
        for i, size in enumerate((1, 3, 1)):
            x = PreNormConv(d, size, "zeros", self.dtype, name=f"mix{level + 1}_{i}")(x)
        return x

    def _attend(
        self, maps: Sequence[jax.Array], f3: jax.Array, *, train: bool
    ) -> tuple[jax.Array, jax.Array]:
        b, h, w, d = maps[0].shape
        n = h * w
        start = self.param("fusion_token", nn.initializers.normal(0.02), (1, 1, d))
        tokens = [jnp.broadcast_to(start, (b, 1, d)).astype(self.dtype)]
        for name, x in zip(self.modalities, maps, strict=True):
            x = _spread(x)
            tokens.append(x.reshape(b, n, d) + self._positions(name, (h, w), d).astype(self.dtype))
        tokens.append(AttentionPool(d, self.dtype, name="pool3")(f3)[:, None])
        x = current().activation(jnp.concatenate(tokens, axis=1), "tokens")
        for i in range(self.depth):
            x = TransformerLayer(
                self.heads, self.feed_forward, self.dropout, self.dtype, name=f"transformer{i}"
            )(x, train=train)
        slots = [
            current().activation(x[:, 1 + m * n : 1 + (m + 1) * n].reshape(b, h, w, d), "tokens")
            for m in range(len(maps))
        ]
        deep = nn.Conv(d, (1, 1), dtype=self.dtype, name="unify")(jnp.concatenate(slots, axis=-1))
        return x[:, 0], current().activation(current().activation(deep, "tokens"), "map")

    def _positions(self, name: str, size: tuple[int, int], d: int) -> jax.Array:
        """``[1, positions, d]`` to be added to one modality's tokens."""
        if self.position == "table":
            rows, columns = self.tile[0] // 16, self.tile[1] // 16
            table = self.param(f"position_{name}", nn.initializers.normal(0.02), (1, rows * columns, d))
            if size != (rows, columns):
                raise ValueError(
                    f"position tables are for {16 * rows} x {16 * columns} tiles, not {16 * size[0]} x {16 * size[1]}"
                )
            return table
        kind = self.param(f"modality_{name}", nn.initializers.normal(0.02), (1, 1, d))
        return kind + jnp.asarray(sincos_positions(size, d), kind.dtype)


def _spread(x: jax.Array) -> jax.Array:
    """Hand a level-4 map ``[B, h, w, d]`` from where maps lie to where tokens do, and nothing in front of it."""
    return current().activation(current().activation(x, "map"), "tokens")


def sincos_positions(size: tuple[int, int], d: int) -> Any:
    """``[1, h * w, d]`` fixed sines and cosines of the row (first half) and column, counted from the tile's centre.

    Numpy float64; float32 of jax.numpy where ``size`` holds symbols of ``jax.export``.
    """
    h, w = size
    xp = array_module(h, w)
    frequency = 100.0 ** -(xp.arange(d // 4) / (d // 4))
    parts = []
    for n, shape in ((h, (h, 1)), (w, (1, w))):
        angle = (xp.arange(n) - (n - 1) / 2)[:, None] * frequency
        waves = xp.concatenate([xp.sin(angle), xp.cos(angle)], axis=-1)
        parts.append(xp.broadcast_to(waves.reshape(*shape, -1), (h, w, d // 2)))
    return xp.concatenate(parts, axis=-1).reshape(1, h * w, d)


class TransformerLayer(nn.Module):
    """Post-norm encoder layer: attention, then a ReLU feed-forward, on ``[B, N, D]``."""

    heads: int
    feed_forward: int
    dropout: float
    dtype: jax.typing.DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Dropout (attention weights, both residual branches, inside the feed-forward) acts when ``train``."""
        drop = nn.Dropout(self.dropout, deterministic=not train)
        attended = nn.MultiHeadDotProductAttention(
            self.heads,
            dtype=self.dtype,
            dropout_rate=self.dropout,
            broadcast_dropout=False,
            deterministic=not train,
            force_fp32_for_softmax=self.dtype == jnp.bfloat16,
            attention_fn=_attend_by_heads,
            name="attention",
        )(x)
        x = self._norm("norm1")(x + drop(attended))
        hidden = nn.relu(nn.Dense(self.feed_forward, dtype=self.dtype, name="hidden")(x))
        out = nn.Dense(x.shape[-1], dtype=self.dtype, name="output")(drop(hidden))
        return self._norm("norm2")(x + drop(out))

    def _norm(self, name: str) -> nn.LayerNorm:
        return nn.LayerNorm(1e-5, self.dtype, use_fast_variance=False, name=name)


def _attend_by_heads(query: jax.Array, key: jax.Array, value: jax.Array, **options: Any) -> jax.Array:
    """Flax's attention; the heads ``[B, N, heads, D]`` are independent of each other."""
    query, key, value = (current().activation(x, "heads") for x in (query, key, value))
    return nn.dot_product_attention(query, key, value, **options)
