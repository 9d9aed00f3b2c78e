"""Optax optimisers and schedules by name."""

from __future__ import annotations

from typing import Any

import jax
import optax

from dis2_jax.config import OptimizerConfig


def make_schedule(config: OptimizerConfig, *, steps: int) -> optax.Schedule:
    """Learning rate by optimiser step (not by batch: see ``accumulate``)."""
    lr, warmup = config.learning_rate, config.warmup_steps
    after = max(steps - warmup, 1)
    main: optax.Schedule
    if config.schedule == "cosine":
        main = optax.cosine_decay_schedule(lr, after)
    elif config.schedule == "cosine_restarts":
        period = optax.cosine_decay_schedule(lr, config.restart_every)
        main = lambda count: period(count % config.restart_every)  # noqa: E731
    else:
        main = optax.constant_schedule(lr)
    if not warmup:
        return main
    return optax.join_schedules([optax.linear_schedule(0.0, lr, warmup), main], [warmup])


def make_optimizer(config: OptimizerConfig, *, steps: int) -> optax.GradientTransformation:
    """Build clipping, the named optimiser and decay on kernels only. ``steps`` counts batches, as in TrainConfig."""
    schedule = make_schedule(config, steps=steps // config.accumulate)
    decay = dict(weight_decay=config.weight_decay, mask=decay_mask)
    if config.name == "sgd":
        momentum = config.momentum or None
        core = optax.chain(
            optax.add_decayed_weights(**decay), optax.sgd(schedule, momentum, nesterov=config.nesterov)
        )
    elif config.name == "adam":
        core = optax.chain(
            optax.add_decayed_weights(**decay), optax.adam(schedule, config.momentum, config.b2)
        )
    elif config.name == "lion":
        core = optax.lion(schedule, config.momentum, config.b2, **decay)
    else:
        core = optax.adamw(schedule, config.momentum, config.b2, **decay)
    return optax.chain(optax.clip_by_global_norm(config.clip_norm), core) if config.clip_norm else core


def decay_mask(params: Any) -> Any:
    """Return True for kernels: weight decay leaves biases, norms, tokens, queries and positions alone."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key.endswith("kernel"), params)
