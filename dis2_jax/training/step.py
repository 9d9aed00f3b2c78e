"""The DLKD step: teacher and student losses, one gradient, one update - jitted, state donated."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dis2_jax.config import Config, TrainConfig
from dis2_jax.losses import distillation_weight, dlkd_loss
from dis2_jax.models.dis2 import DIS2
from dis2_jax.models.layout import place_gradients, place_parameters, place_state
from dis2_jax.schema import Dis2Error, Scenario
from dis2_jax.training.augment import Augment
from dis2_jax.training.state import Accumulated, TrainState, Tree

Metrics = dict[str, jax.Array]


class TrainStep(Protocol):
    """``state, metrics = step(state, batch, scenarios)``; ``scenarios`` is static, ``state`` is donated."""

    def __call__(
        self, state: TrainState, batch: Mapping[str, Any], scenarios: tuple[Scenario, ...]
    ) -> tuple[TrainState, Metrics]:
        """Take one step."""
        ...


def scenarios_at(step: int, config: TrainConfig, students: Sequence[Scenario]) -> tuple[Scenario, ...]:
    """Return the students that take part in ``step``: a function of (seed, step) alone, the same on every host."""
    if config.scenarios == "all":
        return tuple(students)
    weights = np.asarray(config.scenario_weights or [1.0] * len(students))
    drawn = np.random.default_rng([config.seed, step]).choice(len(students), p=weights / weights.sum())
    return (students[int(drawn)],)


def check_scenarios(config: TrainConfig, students: Sequence[Scenario]) -> None:
    """Raise ``Dis2Error`` unless ``scenario_weights`` has one weight per student (or is empty)."""
    if config.scenario_weights and len(config.scenario_weights) != len(students):
        raise Dis2Error(
            f"config train.scenario_weights has {len(config.scenario_weights)} weights for {len(students)}"
            f" students ({', '.join(map(str, students))}): give one each, or () for equal ones"
        )


def make_train_step(
    model: DIS2,
    optimizer: optax.GradientTransformation,
    config: Config,
    *,
    steps_per_epoch: int,
    augment: Augment | None = None,
) -> TrainStep:
    """Build the step. Metrics: ``loss``, ``loss/<term>``, ``norm/{gradients,updates,parameters}``, float32 scalars.

    ``batch``: ``image`` {name: ``[B, H, W, C]``}, ``label`` ``[B, H, W]``, ``available`` ``[B, M]``, or what
    ``augment`` makes that of. Parameters,
    optimiser slots, averages and statistics of modules that the step does not use come out bit-identical.
    """

    def loss_fn(
        used: Tree, state: TrainState, batch: Mapping[str, Any], scenarios: tuple[Scenario, ...]
    ) -> tuple[jax.Array, tuple[Metrics, Tree]]:
        params = place_parameters({**state.params, **used}, model.dtype)
        variables = {"params": params, "batch_stats": state.batch_stats}
        dropout = jax.random.fold_in(jax.random.key(config.train.seed), state.step)
        output, changed = model.apply(
            variables,
            batch["image"],
            students=scenarios,
            train=True,
            available=batch["available"],
            rngs={"dropout": dropout},
            mutable=["batch_stats"],
        )
        terms = dlkd_loss(
            output,
            batch["label"],
            batch["available"],
            names=model.names,
            students=scenarios,
            config=config.loss,
            distillation_weight=distillation_weight(state.step, config.loss, steps_per_epoch=steps_per_epoch),
        )
        return terms["total"], (terms, changed["batch_stats"])

    @functools.partial(jax.jit, static_argnums=2, donate_argnums=0)
    def step(
        state: TrainState, batch: Mapping[str, Any], scenarios: tuple[Scenario, ...]
    ) -> tuple[TrainState, Metrics]:
        batch = augment(batch) if augment is not None else batch
        names = model.used_modules(scenarios)
        used = {name: tree for name, tree in state.params.items() if name in names}
        gradients, (terms, batch_stats) = jax.grad(loss_fn, has_aux=True)(used, state, batch, scenarios)
        gradients = {
            name: gradients[name] if name in names else jax.tree.map(jnp.zeros_like, tree)
            for name, tree in state.params.items()
        }
        gradients = place_gradients(gradients)
        there = dict(zip(model.names, batch["available"].astype(bool).T, strict=True))
        touched = {name: _acted_on(there, names.get(name, [])) for name in state.params}
        state, norms = advance(state, gradients, touched, optimizer, config)
        metrics = {"loss": terms.pop("total"), **{f"loss/{k}": v for k, v in terms.items()}, **norms}
        return place_state(state.replace(batch_stats=batch_stats)), metrics

    return step


def counted_flops(
    step: TrainStep, state: TrainState, batch: Mapping[str, Any], scenarios: tuple[Scenario, ...]
) -> float | None:
    """Floating-point operations of one step on one device, as XLA counts them; None where it does not tell.

    Compiles the program, which a call with such arguments then finds (and the other way round).
    """
    lower = getattr(step, "lower", None)
    return None if lower is None else compiled_flops(lower(state, batch, scenarios).compile())


def compiled_flops(compiled: Any) -> float | None:
    """Read XLA's count off a compiled program."""
    analysis = compiled.cost_analysis()
    analysis = analysis[0] if isinstance(analysis, list) and analysis else analysis
    flops = (analysis or {}).get("flops", 0.0)
    return float(flops) if flops and flops > 0 else None


def _acted_on(there: Mapping[str, jax.Array], needed: Sequence[Sequence[str]]) -> jax.Array:
    """Whether some tile has all modalities of one of the ``needed`` sets; ``there[m]`` is ``[B]`` bool."""
    tiles = [functools.reduce(jnp.logical_and, [there[m] for m in modalities]) for modalities in needed]
    return jnp.stack(tiles).any() if tiles else jnp.asarray(False)


def advance(
    state: TrainState,
    gradients: Tree,
    touched: dict[str, jax.Array],
    optimizer: optax.GradientTransformation,
    config: Config,
) -> tuple[TrainState, Metrics]:
    """Count the step; update the parameters, or only accumulate when the optimiser's turn has not come."""
    norms = {"norm/gradients": optax.tree.norm(gradients)}
    every = config.optimizer.accumulate
    if every == 1:
        state, updates = _update(state, gradients, touched, optimizer, config)
    else:
        assert state.accumulated is not None
        total = Accumulated(
            jax.tree.map(lambda a, g: a + g / every, state.accumulated.gradients, gradients),
            {name: state.accumulated.touched[name] | t for name, t in touched.items()},
        )
        phase = every - 1 if config.optimizer.accumulate_first == "full" else 0

        def apply(state: TrainState) -> tuple[TrainState, Tree]:
            state, updates = _update(state, total.gradients, total.touched, optimizer, config)
            return state.replace(accumulated=jax.tree.map(jnp.zeros_like, total)), updates

        def wait(state: TrainState) -> tuple[TrainState, Tree]:
            return state.replace(accumulated=total), jax.tree.map(jnp.zeros_like, state.params)

        state, updates = jax.lax.cond(state.step % every == phase, apply, wait, state)
    norms |= {"norm/updates": optax.tree.norm(updates), "norm/parameters": optax.tree.norm(state.params)}
    return state.replace(step=state.step + 1), norms


def _update(
    state: TrainState,
    gradients: Tree,
    touched: dict[str, jax.Array],
    optimizer: optax.GradientTransformation,
    config: Config,
) -> tuple[TrainState, Tree]:
    """One optimiser step on the touched modules; the others keep parameters, slots and averages."""
    flags = {name: jax.tree.map(lambda _, n=name: touched[n], tree) for name, tree in state.params.items()}
    updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
    updates = jax.tree.map(lambda flag, u: jnp.where(flag, u, 0).astype(u.dtype), flags, updates)
    slots = optax.tree.map_params(
        optimizer, lambda _, flag: flag, opt_state, flags, transform_non_params=lambda _: jnp.asarray(True)
    )
    opt_state = jax.tree.map(jnp.where, slots, opt_state, state.opt_state)
    params = jax.tree.map(lambda flag, p, u: jnp.where(flag, p + u, p), flags, state.params, updates)
    ema = state.ema
    if ema is not None:
        # The usual warm-up of the decay: the first parameters are noise.
        decay = jnp.minimum(config.optimizer.ema, (1.0 + state.step) / (10.0 + state.step))
        ema = jax.tree.map(
            lambda flag, e, p: jnp.where(flag, decay * e + (1 - decay) * p, e), flags, ema, params
        )
    return state.replace(params=params, opt_state=opt_state, ema=ema), updates
