"""The train state, and the model that a config and a dataset card describe."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from dis2_jax.config import Config, ModelConfig
from dis2_jax.models.dis2 import DIS2, Remat
from dis2_jax.schema import DatasetCard, Dis2Error, Scenario

Tree = Any


@flax.struct.dataclass
class Accumulated:
    """Gradients since the last optimiser step, and which top-level modules they touch."""

    gradients: Tree
    touched: dict[str, jax.Array]


class TrainState(flax.struct.PyTreeNode):
    """All that training changes. ``step`` counts batches."""

    step: jax.Array
    params: Tree
    batch_stats: Tree
    opt_state: optax.OptState
    ema: Tree | None = None
    accumulated: Accumulated | None = None


def build_model(
    config: ModelConfig, card: DatasetCard, *, tile: tuple[int, int], remat: Remat = "none"
) -> DIS2:
    """Make the module. ``tile`` (H, W) is a training sample's size; raises ``Dis2Error`` if a side is not 16 n."""
    if any(s < 16 or s % 16 for s in tile):
        raise Dis2Error(
            f"tile {tile[0]} x {tile[1]}: both sides must be multiples of 16; set config.data.crop"
        )
    return DIS2(
        modalities=tuple((m.name, m.channels) for m in card.modalities),
        num_classes=len(card.legend),
        students=tuple(s.available for s in Scenario.students(config.students, card.modality_names)),
        tile=tile,
        width=config.width,
        heads=config.heads,
        depth=config.depth,
        feed_forward=config.feed_forward,
        dropout=config.dropout,
        position=config.position,
        class_scale=config.class_scale,
        pool=config.pool,
        dtype=jnp.dtype(config.dtype),
        remat=remat,
    )


def init_variables(model: DIS2, *, seed: int) -> dict[str, Tree]:
    """``{"params", "batch_stats"}`` of every part. Pure: trace it with ``jax.eval_shape`` or jit it with shardings."""
    images = {name: jnp.zeros((1, *model.tile, channels)) for name, channels in model.modalities}
    students = model.scenarios[1:]
    return dict(model.init({"params": jax.random.key(seed)}, images, students=students, train=False))


def create_state(
    model: DIS2,
    optimizer: optax.GradientTransformation,
    *,
    seed: int,
    ema: bool = False,
    accumulate: bool = False,
) -> TrainState:
    """Initial state; pure, like ``init_variables``."""
    variables = init_variables(model, seed=seed)
    params = variables["params"]
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats=variables["batch_stats"],
        opt_state=optimizer.init(params),
        ema=jax.tree.map(jnp.copy, params) if ema else None,
        accumulated=Accumulated(
            gradients=jax.tree.map(jnp.zeros_like, params),
            touched={name: jnp.zeros((), bool) for name in params},
        )
        if accumulate
        else None,
    )


def state_maker(
    model: DIS2, optimizer: optax.GradientTransformation, config: Config
) -> Callable[[], TrainState]:
    """``create_state`` with what a config says of it."""
    return functools.partial(
        create_state,
        model,
        optimizer,
        seed=config.train.seed,
        ema=config.optimizer.ema > 0,
        accumulate=config.optimizer.accumulate > 1,
    )


def initializer(create: Callable[[], TrainState], shardings: Tree) -> Any:
    """Jit ``create`` so that every leaf is made where ``shardings`` (a tree like the state) wants it.

    Random bits are a function of the position in the leaf, so that a device makes its own part and no other.
    """
    # This long program runs once: on CPU optimising it takes three times as long.
    options = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None
    return jax.jit(create, out_shardings=shardings, compiler_options=options)


def eval_variables(state: TrainState) -> dict[str, Tree]:
    """Variables to predict with: the averaged parameters where they are kept."""
    params = state.params if state.ema is None else state.ema
    return {"params": params, "batch_stats": state.batch_stats}
