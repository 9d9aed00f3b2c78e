"""The training step traced on shapes instead of arrays: what it will need, before anything is on a device."""

from __future__ import annotations

import math
from typing import Any

import jax
import numpy as np

from dis2_jax.config import Config
from dis2_jax.models.layout import active
from dis2_jax.random_tiles import empty_batch
from dis2_jax.schema import DatasetCard
from dis2_jax.sharding.mesh import batch_sharding
from dis2_jax.sharding.placement import Placement
from dis2_jax.training.augment import augment_of
from dis2_jax.training.optimizer import make_optimizer
from dis2_jax.training.state import build_model, state_maker
from dis2_jax.training.step import make_train_step, scenarios_at


def trace_step(
    config: Config, card: DatasetCard, *, tile: tuple[int, int], placement: Placement
) -> tuple[Any, int]:
    """Trace on shapes that carry their shardings: (``jax.stages.Traced``, number of parameters).

    Raises ``Dis2Error`` for sizes that the model cannot take.
    """
    model = build_model(config.model, card, tile=tile, remat=config.sharding.remat)
    optimizer = make_optimizer(config.optimizer, steps=config.train.steps)
    scenarios = scenarios_at(0, config.train, model.scenarios[1:])
    shapes = jax.eval_shape(state_maker(model, optimizer, config))
    state = jax.tree.map(_shaped, shapes, placement.shardings(shapes))
    with active(placement):
        step: Any = make_train_step(
            model,
            optimizer,
            config,
            steps_per_epoch=max(config.train.steps, 1),
            augment=augment_of(card, config.data),
        )
        traced = step.trace(state, batch_shapes(config, card, tile=tile, placement=placement), scenarios)
    return traced, sum(math.prod(x.shape) for x in jax.tree.leaves(shapes.params))


def batch_shapes(
    config: Config, card: DatasetCard, *, tile: tuple[int, int], placement: Placement
) -> dict[str, Any]:
    """Shapes and shardings of a global batch, as the pipeline hands it out."""

    def shaped(row: np.ndarray) -> jax.ShapeDtypeStruct:
        shape = (config.data.batch_size, *row.shape[1:])
        return jax.ShapeDtypeStruct(shape, row.dtype, sharding=batch_sharding(placement.mesh, shape))

    shapes: dict[str, Any] = jax.tree.map(shaped, empty_batch(card, config.data, tile=tile))
    return shapes


def _shaped(leaf: Any, sharding: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)
