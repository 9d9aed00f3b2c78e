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

from dis2_jax.config import Config, LossConfig, ModelConfig, OptimizerConfig, TrainConfig
from dis2_jax.losses import cross_entropy, dice, distillation_weight, make_target
from dis2_jax.models.dis2 import DIS2
from dis2_jax.schema import IGNORE, ClassLegend, DatasetCard, Modality, Scenario
from dis2_jax.training.optimizer import make_optimizer, make_schedule
from dis2_jax.training.state import TrainState, build_model, create_state
from dis2_jax.training.step import TrainStep, make_train_step, scenarios_at

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


def test_filler_of_an_absent_modality_changes_nothing() -> None:
    a, b = _batch(), _batch()
    for batch, filler in ((a, 0.0), (b, 1e6)):
        batch["available"][1, 1] = False  # tile 1 has no height
        batch["image"]["ndsm"][1] = filler
    both = (RGB, NDSM)
    jax.tree.map(np.testing.assert_array_equal, _run(a, both), _run(b, both))
    b["image"]["ndsm"][1] = np.nan
    jax.tree.map(np.testing.assert_array_equal, _run(a, both), _run(b, both))


def test_absent_tiles_equal_a_batch_without_them() -> None:
    """What the tile may not touch (height encoder, full branch, NDSM student) is as if it were not there."""
    whole, short = _batch(), _batch()
    whole["available"][2, 1] = False
    short = jax.tree.map(lambda x: x[:2], short)
    (a, ma), (b, mb) = _run(whole, (NDSM,)), _run(short, (NDSM,))
    for name in ("full", "student_ndsm", "encoder_ndsm", "compensation_ndsm_to_rgb"):
        jax.tree.map(
            lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5),
            a.batch_stats[name] if name not in ("full", "student_ndsm") else {},
            b.batch_stats[name] if name not in ("full", "student_ndsm") else {},
        )
    np.testing.assert_allclose(ma["loss/unimodal_ndsm"], mb["loss/unimodal_ndsm"], rtol=1e-5)
    assert ma["loss/unimodal_rgb"] != mb["loss/unimodal_rgb"]


def test_a_tile_without_height_still_supervises_the_rgb_student() -> None:
    batch = _batch()
    batch["available"][:, 1] = False
    before = _setup()[1]
    after, metrics = _run(batch)
    assert metrics["loss/full"] == metrics["loss/distillation"] == metrics["loss/unimodal_ndsm"] == 0
    assert metrics["loss/student"] > 0
    assert np.isfinite(metrics["norm/gradients"])
    changed = {
        m
        for m, t in after.batch_stats.items()
        if any(
            not np.array_equal(x, y)
            for x, y in zip(*map(jax.tree.leaves, (t, before.batch_stats[m])), strict=True)
        )
    }
    assert changed == {"encoder_rgb", "head_rgb", "compensation_rgb_to_ndsm", "student_rgb"}


def test_ignored_pixels_leave_every_term() -> None:
    """All labels ignored: every term is 0 and so is the gradient, but orthogonality, which reads no pixel's label."""
    batch = _batch()
    batch["label"][:] = IGNORE
    _, metrics = _run(batch)
    assert {k for k, v in metrics.items() if k.startswith("loss/") and v != 0} == {"loss/orthogonality"}
    logits = jnp.asarray(np.random.default_rng(0).normal(size=(2, 8, 8, 3)), jnp.float32)
    labels = jnp.asarray(np.random.default_rng(1).integers(0, 3, (2, 8, 8))).at[:, :4].set(IGNORE)
    for form in ("released", "standard"):
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


def test_dice_of_present_classes_reaches_zero() -> None:
    labels = jnp.zeros((1, 8, 8), int)
    logits = 50.0 * jax.nn.one_hot(labels, 3)
    target = make_target(labels, 3, logits.dtype)
    assert dice(logits, target, form="present") == pytest.approx(0, abs=1e-6)
    assert dice(logits, target, form="released") == pytest.approx(2 / 3, abs=1e-6)


@pytest.mark.parametrize(
    ("first", "moves"), [("full", [False, True, False, True]), ("half", [True, False, True, False])]
)
def test_accumulated_steps_touch_what_any_batch_touched(first: str, moves: list[bool]) -> None:
    config = _config(name="sgd", accumulate=2, accumulate_first=first, clip_norm=0.0, ema=0.0)
    state = _setup(config)[1]
    for i, (scenario, wanted) in enumerate(zip((RGB, NDSM, RGB, RGB), moves, strict=True)):
        after, metrics = _run(_batch(i), (scenario,), state, config)
        moved = {
            m
            for m in state.params
            if any(
                not np.array_equal(a, b)
                for a, b in zip(*map(jax.tree.leaves, (state.params[m], after.params[m])), strict=True)
            )
        }
        assert bool(moved) == wanted
        assert (metrics["norm/updates"] > 0) == wanted
        if first == "full" and i == 1:
            assert {"student_rgb", "student_ndsm"} <= moved
        if first == "full" and i == 3:
            assert "student_rgb" in moved
            assert "student_ndsm" not in moved
        state = after


def test_accumulating_equals_the_mean_gradient() -> None:
    """Two equal batches accumulated move the parameters as one of them would."""
    plain = _config(name="sgd", clip_norm=0.0, ema=0.0)
    twice = _config(name="sgd", clip_norm=0.0, ema=0.0, accumulate=2)
    no_dropout = ModelConfig(width=8, depth=1, feed_forward=16, pool="attention", dropout=0.0)
    plain, twice = (dataclasses.replace(c, model=no_dropout) for c in (plain, twice))
    once, _ = _run(_batch(), config=plain)
    half, _ = _run(_batch(), config=twice)
    whole, _ = _run(_batch(), state=half, config=twice)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), once.params, whole.params
    )


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


@pytest.mark.parametrize("name", ["adam", "lion", "sgd"])
def test_every_optimiser_reduces_the_loss(name: str) -> None:
    config = _config(name=name, learning_rate=3e-4 if name == "lion" else 3e-3, ema=0.0)
    state, losses = None, []
    for _ in range(6):
        state, metrics = _run(_batch(), state=state, config=config)
        losses.append(float(metrics["loss"]))
    assert losses[-1] < losses[0]
