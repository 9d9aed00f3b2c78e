"""The building blocks that every part of DIS2 shares. All maps are NHWC."""

from __future__ import annotations

from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from dis2_jax.models.layout import Activation, Edges, current

Padding = Literal["zeros", "reflect"]


def stat_dtype(dtype: jax.typing.DTypeLike) -> jnp.dtype:
    """Type in which statistics, softmaxes and losses are computed: float32, or float64 where the input is."""
    return jnp.promote_types(dtype, jnp.float32)


def leaky_relu(x: jax.Array) -> jax.Array:
    """Slope 0.2 (METHOD.md, notation)."""
    return nn.leaky_relu(x, negative_slope=0.2)


class DownConv(nn.Module):
    """4x4 convolution, stride 2, padding 1: ``[B, H, W, C]`` -> ``[B, H/2, W/2, features]``.

    Computed as space-to-depth and a dense 2x2 convolution: the same sums, but neither direction of
    differentiation then needs a dilated convolution, which CPUs and TPUs run slowly.
    """

    features: int
    dtype: jax.typing.DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """``H`` and ``W`` are even."""
        c = x.shape[-1]
        kernel = self.param("kernel", nn.initializers.lecun_normal(), (4, 4, c, self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)
        kernel = kernel.reshape(2, 2, 2, 2, c, self.features).transpose(0, 2, 1, 3, 4, 5)
        kernel = kernel.reshape(2, 2, 4 * c, self.features)
        return current().on_padded(_dense_halving, x, kernel, edges="constant", together=2) + bias


class UpConv(nn.Module):
    """4x4 transposed convolution, stride 2, padding 1: ``[B, H, W, C]`` -> ``[B, 2H, 2W, features]``.

    ``kernel[r, s, i, o]`` multiplies input (y, x) into output (2y - 1 + r, 2x - 1 + s). Computed as one
    2x2 convolution to 4 * features channels (the four output phases) and an interleaving.
    """

    features: int
    dtype: jax.typing.DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Any ``H`` and ``W``."""
        c, o = x.shape[-1], self.features
        kernel = self.param("kernel", nn.initializers.lecun_normal(), (4, 4, c, o))
        bias = self.param("bias", nn.initializers.zeros, (o,))
        x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)
        # Phase 0 (even outputs) takes taps 3, 1 of inputs y-1, y; phase 1 takes taps 2, 0 of y, y+1.
        taps = kernel.reshape(2, 2, 2, 2, c, o)[::-1, ::-1, ::-1, ::-1]  # [a, 1-p, ...]: tap 2a + (1 - phase)
        taps = taps.transpose(0, 2, 4, 1, 3, 5).reshape(2, 2, c, 2, 2, o)
        return current().on_padded(_four_phases, x, taps.reshape(2, 2, c, 4 * o), edges="constant") + bias


def _dense_halving(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Space to depth, and a convolution of the blocks; ``x`` is padded."""
    b, h, w, c = x.shape
    x = x.reshape(b, h // 2, 2, w // 2, 2, c).transpose(0, 1, 3, 2, 4, 5)
    return _conv(x.reshape(b, h // 2, w // 2, 4 * c), kernel)


def _four_phases(x: jax.Array, taps: jax.Array) -> jax.Array:
    """Convolve ``x``, which is padded, to four phases, and interleave them."""
    b, h, w, _ = x.shape
    h, w, o = h - 2, w - 2, taps.shape[-1] // 4
    y = _conv(x, taps).reshape(b, h + 1, w + 1, 2, 2, o)
    rows = jnp.stack([y[:, :h, :, 0], y[:, 1:, :, 1]], axis=2)  # [b, h, 2, w + 1, 2, o]
    both = jnp.stack([rows[:, :, :, :w, 0], rows[:, :, :, 1:, 1]], axis=4)  # [b, h, 2, w, 2, o]
    return both.reshape(b, 2 * h, 2 * w, o)


def _conv(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Stride-1 convolution without padding."""
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


class BatchNorm(nn.Module):
    """Batch normalisation over the samples that count (METHOD.md, notation: eps 1e-5, momentum 0.1, unbiased).

    ``weight`` ``[B]`` is 1 for samples that take part in the statistics and 0 for the others, which are
    normalised but change nothing; a batch without any leaves the running statistics as they are.
    """

    dtype: jax.typing.DTypeLike = jnp.float32
    epsilon: float = 1e-5
    momentum: float = 0.1

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool, weight: jax.Array | None = None) -> jax.Array:
        """``x`` ``[B, H, W, C]``; with ``train`` the batch's statistics, else the running ones."""
        c = x.shape[-1]
        scale = self.param("scale", nn.initializers.ones, (c,))
        bias = self.param("bias", nn.initializers.zeros, (c,))
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, (c,), jnp.float32)
        running_var = self.variable("batch_stats", "var", jnp.ones, (c,), jnp.float32)
        wide = x.astype(stat_dtype(x.dtype))
        if train:
            w = jnp.ones(x.shape[0], wide.dtype) if weight is None else weight.astype(wide.dtype)
            total = current().total
            n = total(w.sum()) * (x.shape[1] * x.shape[2])
            w = w[:, None, None, None] / jnp.maximum(n, 1.0)
            mean = total((w * wide).sum((0, 1, 2)))
            var = total((w * jnp.square(wide - mean)).sum((0, 1, 2)))
            if not self.is_initializing():
                unbiased = var * n / jnp.maximum(n - 1.0, 1.0)
                for running, batch in ((running_mean, mean), (running_var, unbiased)):
                    moved = (1 - self.momentum) * running.value + self.momentum * batch
                    running.value = jnp.where(n > 0, moved, running.value).astype(running.value.dtype)
        else:
            mean, var = running_mean.value, running_var.value
        y = (wide - mean) * (jax.lax.rsqrt(var + self.epsilon) * scale) + bias
        return y.astype(self.dtype)


class PreNormConv(nn.Module):
    """``PN(features, kernel_size)``: normalise each sample over (H, W, C), lrelu, convolve (METHOD.md, Parts)."""

    features: int
    kernel_size: int
    padding: Padding = "zeros"
    dtype: jax.typing.DTypeLike = jnp.float32
    epsilon: float = 1e-5
    kind: Activation = "map"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """``[B, H, W, C]`` -> ``[B, H, W, features]``."""
        wide = x.astype(stat_dtype(x.dtype))
        mean = wide.mean((1, 2, 3), keepdims=True)
        var = jnp.square(wide - mean).mean((1, 2, 3), keepdims=True)
        x = leaky_relu((wide - mean) * jax.lax.rsqrt(var + self.epsilon)).astype(self.dtype)
        return _SameConv(self.features, self.kernel_size, self.padding, self.dtype, self.kind, name="conv")(x)


class _SameConv(nn.Module):
    """Convolution of stride 1 that keeps height and width, with the parameters of ``nn.Conv``.

    jax2onnx puts a convolution of its own in the place of every ``nn.Conv``, and that one would not see our padding.
    """

    features: int
    kernel_size: int
    padding: Padding
    dtype: jax.typing.DTypeLike
    kind: Activation

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (self.kernel_size, self.kernel_size, x.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape)
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)
        if self.kernel_size == 1:
            return _conv(x, kernel) + bias
        edges: Edges = "reflect" if self.padding == "reflect" else "constant"
        return current().on_padded(_conv, x, kernel, edges=edges, name=self.kind) + bias


class AttentionPool(nn.Module):
    """``[B, H, W, C]`` -> ``[B, C]`` (or ``[B, project]``), weighted by a softmax over positions (METHOD.md, Parts)."""

    project: int | None = None
    dtype: jax.typing.DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Score, softmax over positions in float32, weighted sum."""
        x = x.reshape(x.shape[0], -1, x.shape[-1]).astype(self.dtype)
        hidden = nn.relu(nn.Dense(128, dtype=self.dtype, name="score_hidden")(x))
        score = nn.Dense(1, dtype=self.dtype, name="score")(hidden)
        weight = nn.softmax(score.astype(stat_dtype(score.dtype)), axis=1)
        pooled = (weight * x).sum(1).astype(self.dtype)
        if self.project is None:
            return pooled
        return nn.Dense(self.project, dtype=self.dtype, name="project")(pooled)


def upsample_bilinear(x: jax.Array, factor: int, *, name: Activation = "map") -> jax.Array:
    """Enlarge ``[B, H, W, C]`` by an integer factor, bilinear, align_corners=True, as two matrix products."""
    _, h, w, _ = x.shape
    columns = jnp.asarray(_interpolation_matrix(w, factor), x.dtype)
    precision = None if x.dtype == jnp.bfloat16 else "highest"
    x = current().enlarge_rows(_interpolation_matrix(h, factor), x, precision=precision, name=name)
    return jnp.einsum("xw,bywc->byxc", columns, x, precision=precision)


def array_module(*sizes: Any) -> Any:
    """Return numpy, whose constants are float64, or jax.numpy where a size is a symbol of ``jax.export``."""
    return np if all(isinstance(size, int) for size in sizes) else jnp


def _interpolation_matrix(size: int, factor: int) -> Any:
    """``[size * factor, size]`` weights; row i reads position i * (size - 1) / (size * factor - 1).

    Integers up to the last division, so that float32 is exact enough for a symbolic ``size``.
    """
    xp = array_module(size)
    out = size * factor
    position = xp.arange(out)[:, None] * (size - 1)
    low = position // (out - 1)
    fraction = (position - low * (out - 1)) / (out - 1)
    column = xp.arange(size)
    return xp.where(column == low, 1 - fraction, 0) + xp.where(column == low + 1, fraction, 0)
