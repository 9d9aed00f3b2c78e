"""The DLKD step: what it leaves alone, what absent modalities and ignored pixels may do, accumulation, averages."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dis2_jax.config import Config, DataConfig, LossConfig, ModelConfig, OptimizerConfig, TrainConfig
from dis2_jax.losses import cross_entropy, dice, distillation_weight, make_target
from dis2_jax.models.dis2 import DIS2
from dis2_jax.schema import IGNORE, ClassLegend, DatasetCard, Modality, Scenario
from dis2_jax.training.augment import device_augment
from dis2_jax.training.optimizer import make_optimizer, make_schedule
from dis2_jax.training.state import Accumulated, TrainState, build_model, create_state
from dis2_jax.training.step import TrainStep, advance, make_train_step, scenarios_at

CARD = DatasetCard(
    name="x",
    modalities=(Modality("rgb", 3, kind="optical"), Modality("ndsm", 1, kind="height")),
    legend=ClassLegend(("a", "b", "c"), ((0, 0, 0),) * 3),
    tile=(32, 32),
    splits={},
)
RGB, NDSM = Scenario(("rgb",)), Scenario(("ndsm",))
BASE = Config(
    model=ModelConfig(width=8, depth=1, feed_forward=16, pool="attention"),
    optimizer=OptimizerConfig(name="adamw", learning_rate=1e-3, clip_norm=1.0, ema=0.9, weight_decay=0.1),
    train=TrainConfig(steps=20),
)


def _config(**optimizer: Any) -> Config:
    return dataclasses.replace(BASE, optimizer=dataclasses.replace(BASE.optimizer, **optimizer))


@functools.cache
def _setup(config: Config = BASE) -> tuple[DIS2, TrainState, TrainStep]:
    model = build_model(config.model, CARD, tile=CARD.tile)
    optimizer = make_optimizer(config.optimizer, steps=config.train.steps)
    options = dict(seed=0, ema=config.optimizer.ema > 0, accumulate=config.optimizer.accumulate > 1)
    state = jax.jit(lambda: create_state(model, optimizer, **options))()
    return model, jax.device_get(state), make_train_step(model, optimizer, config, steps_per_epoch=4)


def _batch(seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {
        "image": {
            m.name: rng.normal(size=(3, 32, 32, m.channels)).astype(np.float32) for m in CARD.modalities
        },
        "label": rng.integers(0, 3, (3, 32, 32)).astype(np.int32),
        "available": np.ones((3, 2), bool),
    }


def _run(
    batch: dict[str, Any], scenarios: tuple[Scenario, ...] = (RGB,), state: Any = None, config: Config = BASE
) -> Any:
    _, start, step = _setup(config)
    state, metrics = step(jax.tree.map(jnp.array, start if state is None else state), batch, scenarios)
    return jax.device_get((state, metrics))


def _moved(before: TrainState, after: TrainState, tree: str) -> set[str]:
    """Top-level modules whose part of a tree of the state is not bit-identical."""
    a, b = getattr(before, tree), getattr(after, tree)
    return {
        m
        for m in a
        if any(
            not np.array_equal(x, y)
            for x, y in zip(jax.tree.leaves(a[m]), jax.tree.leaves(b[m]), strict=True)
        )
    }


def _slots(state: TrainState, optimizer: optax.GradientTransformation, module: str) -> list[np.ndarray]:
    """Optimiser slots of one top-level module."""
    flags = {n: jax.tree.map(lambda _, n=n: n == module, t) for n, t in state.params.items()}
    chosen = optax.tree.map_params(
        optimizer, lambda s, f: s if f else None, state.opt_state, flags, transform_non_params=lambda _: None
    )
    return jax.tree.leaves(chosen)


@pytest.mark.parametrize(("used", "unused"), [(RGB, NDSM), (NDSM, RGB)])
def test_unused_parts_stay_bit_identical(used: Scenario, unused: Scenario) -> None:
    model, _, _ = _setup()
    optimizer = make_optimizer(BASE.optimizer, steps=20)
    first, _ = _run(_batch(0), (used,))
    before, _ = _run(_batch(1), (unused,), first)  # every slot has a history now
    after, metrics = _run(_batch(2), (used,), before)
    names = model.used_modules([used])
    for module in before.params:
        same = all(
            np.array_equal(a, b)
            for tree in ("params", "ema", "batch_stats")
            for a, b in zip(
                *(jax.tree.leaves(getattr(s, tree).get(module, {})) for s in (before, after)), strict=True
            )
        ) and all(
            np.array_equal(a, b)
            for a, b in zip(*(_slots(s, optimizer, module) for s in (before, after)), strict=True)
        )
        assert same == (module not in names), module
        assert len(_slots(after, optimizer, module)) == 2 * len(jax.tree.leaves(after.params[module]))
    assert all(np.isfinite(v) for v in metrics.values())


def test_the_step_works_on_what_augment_makes_of_a_batch() -> None:
    """Traced only: raw batches of whole uint8 tiles go in, the model sees samples of another size."""
    data = DataConfig(crop=(32, 32), rotate_degrees=20.0, normalize="none")
    card = dataclasses.replace(CARD, tile=(48, 48))
    shape = jax.ShapeDtypeStruct
    raw = {
        "image": {
            m.name: shape((3, 48, 48, m.channels), dtype)
            for m, dtype in zip(CARD.modalities, ("uint8", "float32"), strict=True)
        },
        "label": shape((3, 48, 48), "uint8"),
        "available": shape((3, 2), "bool"),
        "drawn": {k: shape((3, 32), "float32") for k in ("row", "row_along", "col", "col_along")}
        | {"tones": {}},
    }
    made = []

    def augment(batch: Any) -> Any:
        made.append(device_augment(card, data)(batch))
        return made[-1]

    model, start, plain = _setup()
    optimizer = make_optimizer(BASE.optimizer, steps=BASE.train.steps)
    step: Any = make_train_step(model, optimizer, BASE, steps_per_epoch=4, augment=augment)
    found = step.eval_shape(start, raw, (RGB,))
    assert [x["label"].shape for x in made] == [(3, 32, 32)]
    assert found == plain.eval_shape(start, _batch(), (RGB,))  # type: ignore[attr-defined]


def test_filler_of_an_absent_modality_changes_nothing() -> None:
    a, b = _batch(), _batch()
    for batch, filler in ((a, 0.0), (b, 1e6)):
        batch["available"][1, 1] = False  # tile 1 has no height
        batch["image"]["ndsm"][1] = filler
    both = (RGB, NDSM)
    jax.tree.map(np.testing.assert_array_equal, _run(a, both), _run(b, both))
    b["image"]["ndsm"][1] = np.nan
    jax.tree.map(np.testing.assert_array_equal, _run(a, both), _run(b, both))


def test_labels_of_a_tile_without_height_reach_only_what_it_supervises() -> None:
    a, b = _batch(), _batch()
    for batch in (a, b):
        batch["available"][2, 1] = False
    b["label"][2] = (a["label"][2] + 1) % 3
    (_, x), (_, y) = _run(a, (RGB, NDSM)), _run(b, (RGB, NDSM))
    same = {"loss/full", "loss/full_side", "loss/unimodal_ndsm", "loss/distillation", "loss/orthogonality"}
    assert {k for k in x if k.startswith("loss/") and x[k] == y[k]} == same


def test_a_tile_without_height_still_supervises_the_rgb_student() -> None:
    batch = _batch()
    batch["available"][:, 1] = False
    before = _setup()[1]
    after, metrics = _run(batch)
    assert metrics["loss/full"] == metrics["loss/distillation"] == metrics["loss/unimodal_ndsm"] == 0
    assert metrics["loss/student"] > 0
    assert np.isfinite(metrics["norm/gradients"])
    used = {"encoder_rgb", "head_rgb", "compensation_rgb_to_ndsm", "student_rgb"}
    assert _moved(before, after, "batch_stats") == used
    assert _moved(before, after, "params") == used | {"pools_specific_rgb", "pools_compensation_rgb"}


def test_ignored_pixels_leave_every_term() -> None:
    """All labels ignored: every term is 0. Some: their logits get no gradient."""
    batch = _batch()
    batch["label"][:] = IGNORE
    _, metrics = _run(batch)
    assert not any(v for k, v in metrics.items() if k.startswith("loss"))
    assert metrics["norm/gradients"] == 0
    logits = jnp.asarray(np.random.default_rng(0).normal(size=(2, 8, 8, 3)), jnp.float32)
    labels = jnp.asarray(np.random.default_rng(1).integers(0, 3, (2, 8, 8))).at[:, :4].set(IGNORE)
    for form in ("released", "standard", "balanced"):
        gradient = jax.grad(
            lambda x, f=form: (
                cross_entropy(x, make_target(labels, 3, x.dtype), form=f)
                + dice(x, make_target(labels, 3, x.dtype), form="released")
            )
        )(logits)
        assert not gradient[:, :4].any()
        assert gradient[:, 4:].any()
        cut = make_target(labels[:, 4:], 3, logits.dtype)
        np.testing.assert_allclose(
            cross_entropy(logits, make_target(labels, 3, logits.dtype), form=form),
            cross_entropy(logits[:, 4:], cut, form=form),
            rtol=1e-5,
        )


def test_balanced_cross_entropy_weighs_classes_by_their_rarity() -> None:
    rng = np.random.default_rng(2)
    logits = jnp.asarray(rng.normal(size=(2, 8, 8, 3)), jnp.float32)
    labels = rng.choice([0, 1, 2, IGNORE], (2, 8, 8), p=[0.6, 0.3, 0.05, 0.05])
    each = -np.asarray(jax.nn.log_softmax(logits))
    counted = labels != IGNORE
    weight = np.array([1 - (labels[counted] == k).mean() for k in range(3)])
    total = sum(weight[y] * each[b, r, c, y] for (b, r, c), y in np.ndenumerate(labels) if y != IGNORE)
    expected = total / weight[labels[counted]].sum()
    found = cross_entropy(logits, make_target(jnp.asarray(labels), 3, logits.dtype), form="balanced")
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    one = make_target(jnp.ones((2, 8, 8), int), 3, logits.dtype)  # a batch of one class still teaches it
    np.testing.assert_allclose(
        cross_entropy(logits, one, form="balanced"), cross_entropy(logits, one, form="standard"), rtol=1e-5
    )


def test_dice_of_present_classes_reaches_zero() -> None:
    labels = jnp.zeros((1, 8, 8), int)
    logits = 50.0 * jax.nn.one_hot(labels, 3)
    target = make_target(labels, 3, logits.dtype)
    assert dice(logits, target, form="present") == pytest.approx(0, abs=1e-6)
    assert dice(logits, target, form="released") == pytest.approx(2 / 3, abs=1e-6)


def _tiny(config: Config) -> TrainState:
    """A state of two modules, for the update alone."""
    params = {m: {"kernel": jnp.arange(1.0, 4.0)} for m in ("a", "b")}
    optimizer = make_optimizer(config.optimizer, steps=config.train.steps)
    zeros = jax.tree.map(jnp.zeros_like, params)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats={},
        opt_state=optimizer.init(params),
        accumulated=Accumulated(zeros, {m: jnp.asarray(False) for m in params})
        if config.optimizer.accumulate > 1
        else None,
    )


def _update(state: TrainState, config: Config, **gradients: float) -> tuple[TrainState, Any]:
    """One step whose gradients are constants on the named modules; the others are not used."""
    full = {m: {"kernel": jnp.full(3, gradients.get(m, 0.0))} for m in state.params}
    touched = {m: jnp.asarray(m in gradients) for m in state.params}
    optimizer = make_optimizer(config.optimizer, steps=config.train.steps)
    return advance(state, full, touched, optimizer, config)


@pytest.mark.parametrize(("first", "moves"), [("full", ["", "ab", "", "a"]), ("half", ["a", "", "ab", ""])])
def test_accumulated_steps_touch_what_any_batch_touched(first: str, moves: list[str]) -> None:
    config = _config(name="sgd", accumulate=2, accumulate_first=first, clip_norm=0.0, ema=0.0)
    state = _tiny(config)
    for used, wanted in zip(("a", "b", "a", "a"), moves, strict=True):
        after, norms = _update(state, config, **{used: 1.0})
        moved = {m for m in "ab" if not np.array_equal(state.params[m]["kernel"], after.params[m]["kernel"])}
        assert moved == set(wanted)
        assert bool(norms["norm/updates"] > 0) == bool(wanted)
        state = after


def test_accumulating_equals_the_mean_gradient() -> None:
    plain = _config(name="adamw", ema=0.0)
    twice = _config(name="adamw", ema=0.0, accumulate=2)
    once, _ = _update(_tiny(plain), plain, a=2.0)
    half, _ = _update(_tiny(twice), twice, a=1.0)
    whole, _ = _update(half, twice, a=3.0)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-6), whole.params, once.params)
    assert not any(jax.tree.leaves(whole.accumulated.touched))


@pytest.mark.parametrize("name", ["adam", "adamw", "lion", "sgd"])
def test_every_optimiser_goes_downhill_and_decays_only_kernels(name: str) -> None:
    config = OptimizerConfig(name=name, learning_rate=0.05, weight_decay=0.5, schedule="constant")
    optimizer = make_optimizer(config, steps=100)
    params = {"x": {"kernel": jnp.full(2, 3.0), "bias": jnp.full(2, 3.0)}}
    state = optimizer.init(params)
    for _ in range(60):
        gradients = {"x": {"kernel": jnp.zeros(2), "bias": 2 * (params["x"]["bias"] - 1)}}
        updates, state = optimizer.update(gradients, state, params)
        params = optax.apply_updates(params, updates)
    assert float(jnp.abs(params["x"]["kernel"]).max()) < 3.0  # decay alone
    np.testing.assert_allclose(params["x"]["bias"], 1, atol=0.5)  # no decay towards 0


def test_scenarios_follow_seed_step_and_weights() -> None:
    students = (RGB, NDSM)
    config = TrainConfig(seed=3, scenario_weights=(0.25, 0.75))
    drawn = [scenarios_at(i, config, students) for i in range(2000)]
    assert drawn == [scenarios_at(i, config, students) for i in range(2000)]
    assert drawn != [scenarios_at(i, dataclasses.replace(config, seed=4), students) for i in range(2000)]
    assert np.mean([d == (NDSM,) for d in drawn]) == pytest.approx(0.75, abs=0.04)
    assert scenarios_at(7, TrainConfig(scenarios="all"), students) == students


def test_distillation_ramp() -> None:
    config = LossConfig(distillation=5.0, distill_start=2.0, distill_ramp=2.0, distill_unit="epochs")
    weights = [
        float(distillation_weight(jnp.asarray(s), config, steps_per_epoch=10))
        for s in (0, 19, 20, 30, 40, 90)
    ]
    np.testing.assert_allclose(weights, [0, 0, 0, 2.5, 5, 5])
    sudden = LossConfig(distillation=5.0, distill_start=3, distill_unit="steps")
    assert [float(distillation_weight(jnp.asarray(s), sudden, steps_per_epoch=10)) for s in (2, 3)] == [0, 5]


def test_schedules() -> None:
    restarts = make_schedule(OptimizerConfig(schedule="cosine_restarts", restart_every=15), steps=100)
    assert float(restarts(0)) == float(restarts(15)) == float(restarts(30)) == pytest.approx(1e-3)
    assert float(restarts(14)) < 2e-5
    cosine = make_schedule(OptimizerConfig(warmup_steps=10), steps=110)
    assert float(cosine(0)) == 0
    assert float(cosine(10)) == pytest.approx(1e-3)
    assert float(cosine(110)) == pytest.approx(0, abs=1e-9)
