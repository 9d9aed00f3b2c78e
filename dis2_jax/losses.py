"""The DLKD loss: segmentation, distillation and orthogonality, added up into named terms (METHOD.md, Losses)."""

from __future__ import annotations

from collections.abc import Sequence

import flax.struct
import jax
import jax.numpy as jnp

from dis2_jax.config import LossConfig
from dis2_jax.models.dis2 import BranchOutput, DLKDOutput, StudentOutput
from dis2_jax.models.layers import stat_dtype, upsample_bilinear
from dis2_jax.models.layout import current
from dis2_jax.schema import IGNORE, Scenario


@flax.struct.dataclass
class Target:
    """Labels in the form that the terms need; an ignored pixel is 0 in both."""

    one_hot: jax.Array
    """``[B, H, W, K]``."""
    pixels: jax.Array
    """``[B, H, W]``: 1 where the pixel counts, else 0."""

    def of_tiles(self, tiles: jax.Array) -> Target:
        """Keep only the tiles that are 1 in ``tiles`` ``[B]``."""
        return Target(self.one_hot * tiles[:, None, None, None], self.pixels * tiles[:, None, None])


def make_target(labels: jax.Array, num_classes: int, dtype: jnp.dtype) -> Target:
    """``labels`` ``[B, H, W]`` int, 255 = ignored."""
    labels = current().activation(labels, "output")
    pixels = (labels != IGNORE).astype(dtype)
    return Target(jax.nn.one_hot(labels, num_classes, dtype=dtype) * pixels[..., None], pixels)


def cross_entropy(logits: jax.Array, target: Target, *, form: str) -> jax.Array:
    """Scalar, over the global batch.

    ``released``: weighted by 1 - the class's share of its sample, clipped log, mean over classes too;
    ``standard``: mean over pixels; ``balanced``: mean over pixels weighted by 1 - the class's share of the batch.
    """
    total = current().total
    count = jnp.maximum(total(target.pixels.sum()), 1.0)
    if form == "standard":
        return -total((target.one_hot * jax.nn.log_softmax(logits)).sum()) / count
    if form == "balanced":
        # The small constant makes a batch of one class the plain mean, instead of 0 / 0.
        rarity = 1 - total(target.one_hot.sum((0, 1, 2))) / count + 1e-6
        weight = target.one_hot * rarity
        return -total((weight * jax.nn.log_softmax(logits)).sum()) / jnp.maximum(total(weight.sum()), 1e-6)
    share = target.one_hot.sum((1, 2)) / jnp.maximum(target.pixels.sum((1, 2)), 1.0)[:, None]
    log_p = jnp.log(jnp.clip(jax.nn.softmax(logits), 0.005, 1.0))
    weight = (1 - share)[:, None, None, :]
    return -total((weight * target.one_hot * log_p).sum()) / (count * logits.shape[-1])


def dice(logits: jax.Array, target: Target, *, form: str) -> jax.Array:
    """Scalar, sums over the global batch. ``released`` averages over all classes, ``present`` over those in it."""
    total = current().total
    p = jax.nn.softmax(logits) * target.pixels[..., None]
    overlap, true = total((p * target.one_hot).sum((0, 1, 2))), total(target.one_hot.sum((0, 1, 2)))
    score = 2 * overlap / (total(p.sum((0, 1, 2))) + true + 1e-7)
    counted = (true > 0).astype(p.dtype) if form == "present" else jnp.ones_like(true)
    loss = 1 - (score * counted).sum() / jnp.maximum(counted.sum(), 1.0)
    return jnp.where(true.sum() > 0, loss, 0.0)


def segmentation(logits: jax.Array, target: Target, config: LossConfig) -> jax.Array:
    """``seg(P)``: cross-entropy + Dice of ``[B, H, W, K]`` logits."""
    logits = current().activation(logits, "output").astype(stat_dtype(logits.dtype))
    return cross_entropy(logits, target, form=config.cross_entropy) + dice(logits, target, form=config.dice)


def side_segmentation(side_logits: Sequence[jax.Array], target: Target, config: LossConfig) -> jax.Array:
    """Sum of ``seg`` over the four side maps, enlarged to the labels' size before the softmax."""
    height = target.pixels.shape[1]
    return sum(
        (
            segmentation(upsample_bilinear(x, height // x.shape[1], name="output"), target, config)
            for x in side_logits
        ),
        start=jnp.zeros((), stat_dtype(side_logits[0].dtype)),
    )


def distillation(
    student: StudentOutput,
    full: BranchOutput,
    full_pooled: Sequence[jax.Array],
    target: Target,
    config: LossConfig,
) -> jax.Array:
    """Scalar: student features and predictions against the full branch's, which get no gradient.

    A tile without a counted pixel is left out, and so are ignored pixels in the two per-pixel parts.
    """
    parts = {"pooled": _pooled_distance, "penultimate": _penultimate_distance, "logits": _softened_kl}
    return sum(
        (parts[name](student, full, full_pooled, target, config) for name in config.distill_parts),
        start=jnp.zeros((), target.pixels.dtype),
    )


def _pooled_distance(
    student: StudentOutput,
    full: BranchOutput,
    full_pooled: Sequence[jax.Array],
    target: Target,
    config: LossConfig,
) -> jax.Array:
    """Pooled f1, f2, f3 and the fusion token."""
    tiles = target.pixels.max((1, 2))
    teachers = jax.lax.stop_gradient([*full_pooled, full.token])
    pairs = zip([*student.pooled, student.branch.token], teachers, strict=True)
    return sum(
        (_mean(_unit_distance(s, t, config), tiles) for s, t in pairs),
        start=jnp.zeros((), tiles.dtype),
    )


def _penultimate_distance(
    student: StudentOutput, full: BranchOutput, _: Sequence[jax.Array], target: Target, config: LossConfig
) -> jax.Array:
    """Penultimate maps, pixel by pixel."""
    teacher = jax.lax.stop_gradient(full.penultimate)
    return _mean(_unit_distance(student.branch.penultimate, teacher, config), target.pixels)


def _softened_kl(
    student: StudentOutput, full: BranchOutput, _: Sequence[jax.Array], target: Target, config: LossConfig
) -> jax.Array:
    """``T^2 KL(teacher || student)`` of the predictions at temperature T."""
    log_s = _log_softmax(student.branch.logits, config)
    log_t = _log_softmax(jax.lax.stop_gradient(full.logits), config)
    kl = _reduce(jnp.exp(log_t) * (log_t - log_s), config)
    return config.temperature**2 * _mean(kl, target.pixels)


def orthogonality(output: DLKDOutput, scenario: Scenario, tiles: jax.Array) -> jax.Array:
    """Squared cosine between compensation and specific features of a source modality, summed over levels 1-3.

    Mean over the scenario's (available -> missing) pairs, of which there is one for M = 2. ``tiles`` ``[B]`` is 1
    for the tiles that count.
    """
    made = output.students[str(scenario)].compensation
    total = jnp.zeros((), stat_dtype(output.full.logits.dtype))
    for pair, levels in made.items():
        for compensation, specific in zip(levels, output.specific[pair.split("_to_")[0]], strict=True):
            cosine = (_unit(compensation) * _unit(specific)).sum(-1)
            total += _mean(jnp.square(cosine), tiles) / len(made)
    return total


def dlkd_loss(
    output: DLKDOutput,
    labels: jax.Array,
    available: jax.Array,
    *,
    names: Sequence[str],
    students: Sequence[Scenario],
    config: LossConfig,
    distillation_weight: jax.Array | float,
) -> dict[str, jax.Array]:
    """Return the loss terms, unweighted, and their weighted sum ``total`` (float32 scalars).

    ``labels`` ``[B, H, W]`` int; ``available`` ``[B, M]`` bool in the order of ``names``: a tile supervises just the
    branches whose inputs it has. Student terms are means over ``students``.
    """
    dtype = stat_dtype(output.full.logits.dtype)
    target = make_target(labels, output.full.logits.shape[-1], dtype)

    def tiles(needed: Sequence[str]) -> jax.Array:
        return jnp.stack([available[:, list(names).index(m)] for m in needed]).all(0).astype(dtype)

    complete = target.of_tiles(tiles(names))
    terms = {
        "full": segmentation(output.full.logits, complete, config),
        "full_side": side_segmentation(output.full.side_logits, complete, config),
    }
    for m in names:
        terms[f"unimodal_{m}"] = segmentation(output.unimodal[m], target.of_tiles(tiles([m])), config)
    parts = []
    for s in students:
        student, own = output.students[str(s)], target.of_tiles(tiles(s.available))
        parts.append(
            {
                "student": segmentation(student.branch.logits, own, config),
                "student_side": side_segmentation(student.branch.side_logits, own, config),
                "distillation": distillation(student, output.full, output.full_pooled, complete, config),
                "orthogonality": orthogonality(output, s, own.pixels.max((1, 2))),
            }
        )
    terms |= {name: jnp.stack([p[name] for p in parts]).mean() for name in parts[0]}
    weights: dict[str, jax.Array | float] = {
        "full_side": config.side,
        "student_side": config.side,
        "distillation": distillation_weight,
        "orthogonality": config.orthogonality,
    } | {f"unimodal_{m}": config.unimodal for m in names}
    terms["total"] = jnp.stack([weights.get(name, 1.0) * term for name, term in terms.items()]).sum()
    return terms


def distillation_weight(step: jax.Array, config: LossConfig, *, steps_per_epoch: int) -> jax.Array:
    """Weight at ``step``: 0 before ``distill_start``, then a linear ramp to ``distillation``."""
    unit = steps_per_epoch if config.distill_unit == "epochs" else 1
    moment = step / unit - config.distill_start
    grown = jnp.clip(moment / config.distill_ramp, 0.0, 1.0) if config.distill_ramp > 0 else 1.0
    return config.distillation * jnp.where(moment >= 0, grown, 0.0)


def _unit(x: jax.Array) -> jax.Array:
    """l2-normalise the last axis; the norm is at least 1e-6."""
    x = x.astype(stat_dtype(x.dtype))
    return x * jax.lax.rsqrt(jnp.maximum(jnp.square(x).sum(-1, keepdims=True), 1e-12))


def _unit_distance(student: jax.Array, teacher: jax.Array, config: LossConfig) -> jax.Array:
    return _reduce(jnp.square(_unit(student) - _unit(teacher)), config)


def _reduce(x: jax.Array, config: LossConfig) -> jax.Array:
    return x.mean(-1) if config.distill_reduction == "mean" else x.sum(-1)


def _log_softmax(logits: jax.Array, config: LossConfig) -> jax.Array:
    return jax.nn.log_softmax(logits.astype(stat_dtype(logits.dtype)) / config.temperature)


def _mean(values: jax.Array, counted: jax.Array) -> jax.Array:
    """Mean of ``values`` where ``counted`` is 1; 0 if it is nowhere."""
    total = current().total
    return total((values * counted).sum()) / jnp.maximum(total(counted.sum()), 1.0)
