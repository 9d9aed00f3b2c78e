"""Classwise feature learning and the classwise decoder (METHOD.md, Parts); classes are folded into the batch."""

from __future__ import annotations

from typing import Literal

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from dis2_jax.models.fusion import Fused
from dis2_jax.models.layers import PreNormConv, stat_dtype, upsample_bilinear
from dis2_jax.models.layout import Activation, current

ClassScale = Literal["sum", "mean"]


@flax.struct.dataclass
class ClasswiseFeatures:
    """Class maps z ``[B, K, h, w, d4]`` and their attention over positions ``[B, K, h, w]`` (sums to 1)."""

    maps: jax.Array
    attention: jax.Array


@flax.struct.dataclass
class Decoded:
    """Logits ``[B, H, W, K]``, penultimate features ``[B, H, W, w]``, side logits at strides 16, 8, 4, 2."""

    logits: jax.Array
    penultimate: jax.Array
    side_logits: list[jax.Array]


class ClasswiseAttention(nn.Module):
    """CFLM: one learned query per class looks for the class's evidence in f4."""

    num_classes: int
    scale: ClassScale = "sum"
    dtype: jax.typing.DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, f4: jax.Array) -> ClasswiseFeatures:
        """``f4`` is ``[B, h, w, d4]``. ``scale='mean'`` multiplies by the number of positions (weakness 5)."""
        b, h, w, d = f4.shape
        queries = self.param("queries", nn.initializers.normal(1.0), (self.num_classes, d))
        score = jnp.einsum("kd,bhwd->bkhw", queries.astype(self.dtype), f4) / jnp.sqrt(d).astype(self.dtype)
        score = score.astype(stat_dtype(score.dtype)).reshape(b, self.num_classes, h * w)
        attention = nn.softmax(score, axis=-1).reshape(b, self.num_classes, h, w)
        gain = attention * (h * w) if self.scale == "mean" else attention
        maps = current().activation(gain[..., None].astype(self.dtype) * f4[:, None], "class_stack")
        return ClasswiseFeatures(maps=maps, attention=attention)


class ClasswiseDecoder(nn.Module):
    """Decode every class's map with shared weights, then combine the classes."""

    num_classes: int
    width: int
    dtype: jax.typing.DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, classes: ClasswiseFeatures, fused: Fused, *, side: bool) -> Decoded:
        """``side=False`` leaves the side logits out (inference)."""
        k, w = self.num_classes, self.width
        y = current().fold(classes.maps)  # [B * K, h, w, d4]
        side_logits = [self._side(y, 4)] if side else []
        for level, out in ((3, 4 * w), (2, 2 * w), (1, w // 8)):
            skip = _repeated(fused.maps[level - 1], k)
            y = self._pn(skip.shape[-1], f"up{level}", upsample_bilinear(y, 2, name="class_map"))
            y = self._pn(out, f"join{level}", jnp.concatenate([skip, y], axis=-1))
            if side:
                side_logits.append(self._side(y, level))
        u = (
            current().unfold(upsample_bilinear(y, 2, name="class_map"), k).transpose(0, 2, 3, 1, 4)
        )  # [B, H, W, K, w / 8]
        p = self._pn(
            2 * w, "combine0", current().activation(u.reshape(*u.shape[:3], -1), "output"), kind="output"
        )
        p = self._pn(w, "combine1", p, kind="output")
        logits = nn.Conv(k, (1, 1), dtype=self.dtype, name="classify")(p)
        return Decoded(logits=logits, penultimate=p, side_logits=side_logits)

    def _pn(self, features: int, name: str, x: jax.Array, kind: Activation = "class_map") -> jax.Array:
        return PreNormConv(features, 3, "reflect", self.dtype, kind=kind, name=name)(x)

    def _side(self, y: jax.Array, level: int) -> jax.Array:
        """One 1x1 convolution per class to one channel: ``[B * K, h, w, d]`` -> ``[B, h, w, K]``."""
        k, d = self.num_classes, y.shape[-1]
        kernel = self.param(
            f"side{level}_kernel", nn.initializers.lecun_normal(in_axis=-1, out_axis=-2), (k, d)
        )
        bias = self.param(f"side{level}_bias", nn.initializers.zeros, (k,))
        y, kernel, bias = nn.dtypes.promote_dtype(y, kernel, bias, dtype=self.dtype)
        return current().activation(
            jnp.einsum("bkhwd,kd->bhwk", current().unfold(y, k), kernel) + bias, "output"
        )


def _repeated(x: jax.Array, classes: int) -> jax.Array:
    """The same map for every class: ``[B, ...]`` -> ``[B * K, ...]``."""
    return current().fold(jnp.broadcast_to(x[:, None], (x.shape[0], classes, *x.shape[1:])))
