"""Layers against plain sums, and the network's shapes, modes and independence of parts."""

from __future__ import annotations

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import export as jax_export

from dis2_jax.config import ModelConfig
from dis2_jax.models.cflm import ClasswiseAttention
from dis2_jax.models.dis2 import DIS2
from dis2_jax.models.fusion import sincos_positions
from dis2_jax.models.layers import BatchNorm, DownConv, UpConv, upsample_bilinear
from dis2_jax.models.views import views
from dis2_jax.schema import ClassLegend, DatasetCard, Dis2Error, Modality, Scenario
from dis2_jax.training.state import build_model, init_variables

THREE = DIS2(
    modalities=(("rgb", 3), ("ndsm", 1), ("s1", 2)),
    num_classes=3,
    students=(("rgb",), ("ndsm", "s1")),
    tile=(32, 48),
    width=8,
    position="sincos",
    class_scale="mean",
    pool="mean",
)


@pytest.fixture(scope="module")
def three() -> dict:
    return jax.jit(lambda: init_variables(THREE, seed=0))()


def _images(model: DIS2, *, batch: int, size: tuple[int, int], seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {m: rng.normal(size=(batch, *size, c)).astype(np.float32) for m, c in model.modalities}


@pytest.mark.parametrize("layer", [DownConv, UpConv])
def test_strided_convolutions_equal_their_definition(layer: type) -> None:
    rng = np.random.default_rng(0)
    x, kernel = rng.normal(size=(2, 6, 8, 3)), rng.normal(size=(4, 4, 3, 5))
    bias = rng.normal(size=5)
    found = layer(5).apply({"params": {"kernel": kernel, "bias": bias}}, x.astype(np.float32))
    h, w = found.shape[1:3]
    wanted = np.zeros((2, h, w, 5)) + bias
    for y, x0, r, s in np.ndindex(h, w, 4, 4):
        if layer is DownConv:
            i, j = 2 * y - 1 + r, 2 * x0 - 1 + s
            if 0 <= i < 6 and 0 <= j < 8:
                wanted[:, y, x0] += x[:, i, j] @ kernel[r, s]
        else:
            i, j = y + 1 - r, x0 + 1 - s
            if i % 2 == 0 and j % 2 == 0 and 0 <= i // 2 < 6 and 0 <= j // 2 < 8:
                wanted[:, y, x0] += x[:, i // 2, j // 2] @ kernel[r, s]
    np.testing.assert_allclose(found, wanted, atol=1e-4)


@settings(max_examples=20)
@given(h=st.integers(1, 7), w=st.integers(1, 7), factor=st.sampled_from([2, 4, 8, 16]))
def test_upsampling_keeps_corners_and_planes(h: int, w: int, factor: int) -> None:
    plane = np.add.outer(np.linspace(0, 1, h), np.linspace(0, 2, w))[None, :, :, None]
    found = upsample_bilinear(jnp.asarray(plane, jnp.float32), factor)[0, :, :, 0]
    rows = np.linspace(0, 1, h * factor) if h > 1 else np.zeros(factor)
    columns = np.linspace(0, 2, w * factor) if w > 1 else np.zeros(factor)
    np.testing.assert_allclose(found, np.add.outer(rows, columns), atol=1e-5)


def test_batch_norm_counts_only_the_weighted_samples() -> None:
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(4, 3, 5, 2)), jnp.float32)
    weight = jnp.array([True, False, True, False])
    norm = BatchNorm()
    variables = norm.init(jax.random.key(0), x, train=True)
    np.testing.assert_array_equal(variables["batch_stats"]["mean"], 0)
    y, changed = norm.apply(variables, x, train=True, weight=weight, mutable=["batch_stats"])
    kept = np.asarray(x)[[0, 2]].reshape(-1, 2)
    np.testing.assert_allclose(np.asarray(y)[[0, 2]].mean((0, 1, 2)), 0, atol=1e-6)
    stats = changed["batch_stats"]
    np.testing.assert_allclose(stats["mean"], 0.1 * kept.mean(0), rtol=1e-5)
    np.testing.assert_allclose(stats["var"], 0.9 + 0.1 * kept.var(0, ddof=1), rtol=1e-5)
    _, unmoved = norm.apply(variables, x, train=True, weight=jnp.zeros(4, bool), mutable=["batch_stats"])
    jax.tree.map(np.testing.assert_array_equal, unmoved["batch_stats"], variables["batch_stats"])


def test_attention_over_positions_scales_as_its_switch_says() -> None:
    f4 = jnp.asarray(np.random.default_rng(0).normal(size=(2, 4, 6, 16)), jnp.float32)
    summed, mean = ClasswiseAttention(3, "sum"), ClasswiseAttention(3, "mean")
    variables = summed.init(jax.random.key(0), f4)
    a, b = summed.apply(variables, f4), mean.apply(variables, f4)
    np.testing.assert_allclose(a.attention.sum((2, 3)), 1, rtol=1e-5)
    np.testing.assert_allclose(b.maps, 24 * a.maps, rtol=1e-5)


def test_training_mode_gives_every_branch(three: dict) -> None:
    images = _images(THREE, batch=2, size=(32, 48))
    run = jax.jit(
        lambda v, x: THREE.apply(
            v,
            x,
            students=THREE.scenarios[1:],
            train=True,
            rngs={"dropout": jax.random.key(0)},
            mutable=["batch_stats"],
        )
    )
    out, changed = run(three, images)
    assert set(out.students) == {"rgb", "ndsm+s1"}
    assert set(out.students["ndsm+s1"].compensation) == {"ndsm_to_rgb", "s1_to_rgb"}
    assert set(out.students["rgb"].compensation) == {"rgb_to_ndsm", "rgb_to_s1"}
    for branch in (out.full, *(s.branch for s in out.students.values())):
        assert branch.logits.shape == (2, 32, 48, 3)
        assert branch.penultimate.shape == (2, 32, 48, 8)
        assert [x.shape for x in branch.side_logits] == [
            (2, 2, 3, 3),
            (2, 4, 6, 3),
            (2, 8, 12, 3),
            (2, 16, 24, 3),
        ]
    moved = [
        not np.array_equal(a, b)
        for a, b in zip(*map(jax.tree.leaves, (changed["batch_stats"], three["batch_stats"])), strict=True)
    ]
    assert all(moved)


def test_prediction_runs_only_what_it_needs_at_any_size(three: dict) -> None:
    """Spoil every part that the scenario must not run: nothing changes."""
    for scenario in THREE.scenarios:
        images = _images(THREE, batch=1, size=(16, 64))
        images = {m: images[m] for m in scenario.available}
        predict = jax.jit(lambda v, x, s=scenario: THREE.apply(v, x, scenario=s, method="predict"))
        wanted = predict(three, images)
        assert wanted.shape == (1, 16, 64, 3)
        np.testing.assert_allclose(wanted.sum(-1), 1, rtol=1e-5)
        pairs = THREE.pairs([scenario.available]) if len(scenario.available) < 3 else ()
        branch = f"student_{scenario}" if pairs else "full"
        needed = {
            branch,
            *(f"encoder_{m}" for m in scenario.available),
            *(f"compensation_{p}" for p in pairs),
        }
        spoiled = {
            name: tree if name in needed else jax.tree.map(lambda x: x * np.nan, tree)
            for name, tree in three["params"].items()
        }
        np.testing.assert_array_equal(predict({**three, "params": spoiled}, images), wanted)
        one = jax.tree.map(lambda x: x * np.nan, spoiled)
        assert not np.isfinite(predict({**three, "params": one}, images)).any()


@pytest.mark.parametrize("size", [(32, 32), (32, 48)])
def test_with_tta_a_prediction_turns_with_its_input(three: dict, size: tuple[int, int]) -> None:
    """And is the mean over what is seen from all sides."""
    plain, averaged = (
        jax.jit(lambda v, x, m=m: m.apply(v, x, scenario=Scenario(("rgb",)), method="predict"))
        for m in (THREE, THREE.clone(tta=True))
    )
    x = _images(THREE, batch=2, size=size)["rgb"]
    seen = views(size)
    assert len(set(seen)) == (8 if size[0] == size[1] else 4)
    found = averaged(three, {"rgb": x})
    each = [v.back(plain(three, {"rgb": v.of(x)})) for v in seen]
    assert np.abs(each[1] - each[0]).max() > 0.01
    np.testing.assert_allclose(found, np.mean(each, axis=0), atol=1e-6)
    for v in seen:
        np.testing.assert_array_equal(v.back(v.of(x)), x)
        np.testing.assert_allclose(v.back(averaged(three, {"rgb": v.of(x)})), found, atol=1e-5)


def test_slots_hold_what_they_are_told_to(three: dict) -> None:
    """The available modalities' features never change, the missing ones' are made, zero, or the real ones."""
    full, _, pair = THREE.scenarios
    images = _images(THREE, batch=1, size=(16, 32))
    given = {m: images[m] for m in pair.available}
    cases = {
        "full": (images, full, "compensation"),
        "made": (given, pair, "compensation"),
        "zeros": (given, pair, "zeros"),
        "real": (images, pair, "specific"),
    }

    def run(variables: dict) -> dict:
        return {
            name: THREE.apply(variables, x, scenario=s, fill=fill, method="slots")
            for name, (x, s, fill) in cases.items()
        }

    found = jax.jit(run)(three)
    jax.tree.map(np.testing.assert_array_equal, found["real"], found["full"])
    for m, real, made, zeros in zip(THREE.names, found["full"], found["made"], found["zeros"], strict=True):
        for r, c, z in zip(real, made, zeros, strict=True):
            assert r.shape == c.shape == z.shape
            if m in pair.available:
                np.testing.assert_array_equal(c, r)
                np.testing.assert_array_equal(z, r)
            else:
                assert not z.any()
                assert np.abs(c - r).max() > 0.1


def test_bfloat16_keeps_parameters_wide_and_agrees_roughly(three: dict) -> None:
    half = dataclasses.replace(THREE, dtype=jnp.bfloat16)
    shapes = jax.eval_shape(lambda: init_variables(half, seed=0))
    assert {x.dtype for x in jax.tree.leaves(shapes)} == {np.dtype("float32")}
    images = _images(THREE, batch=1, size=(32, 48))
    full = THREE.scenarios[0]
    a, b = (
        jax.jit(lambda v, x, m=m: m.apply(v, x, scenario=full, method="predict"))(three, images)
        for m in (THREE, half)
    )
    assert b.dtype == np.float32
    np.testing.assert_allclose(a, b, atol=0.1)
    assert np.abs(a - b).mean() < 0.01


def test_sincos_positions_are_centred() -> None:
    small, large = sincos_positions((2, 2), 16), sincos_positions((4, 4), 16)
    np.testing.assert_allclose(small.reshape(2, 2, 16), large.reshape(4, 4, 16)[1:3, 1:3])
    assert len(np.unique(large[0].round(6), axis=0)) == 16


def test_position_tables_refuse_another_tile() -> None:
    model = dataclasses.replace(THREE, position="table")
    with pytest.raises(ValueError, match="32 x 48 tiles, not 16 x 16"):
        jax.eval_shape(
            lambda: model.apply(
                init_variables(model, seed=0),
                _images(model, batch=1, size=(16, 16)),
                scenario=model.scenarios[0],
                method="predict",
            )
        )


def test_tile_sides_must_be_multiples_of_16() -> None:
    card = DatasetCard(
        name="x",
        modalities=(Modality("a", 1), Modality("b", 2)),
        legend=ClassLegend(("x", "y"), ((0, 0, 0), (1, 1, 1))),
        tile=(40, 32),
        splits={},
    )
    with pytest.raises(Dis2Error, match="40 x 32"):
        build_model(ModelConfig(), card, tile=card.tile)


def test_used_modules_of_a_step() -> None:
    used = set(THREE.used_modules([Scenario(("rgb",))]))
    assert {
        "full",
        "encoder_ndsm",
        "head_s1",
        "student_rgb",
        "compensation_rgb_to_s1",
        "pools_specific_rgb",
    } <= used
    assert not {"student_ndsm+s1", "compensation_s1_to_rgb", "pools_full", "pools_compensation_s1"} & used


def test_upsampling_and_positions_of_symbolic_size_are_those_of_the_size() -> None:
    """The one place where a size enters as numbers: numpy for a known size, jax.numpy for a symbol."""
    h, w = jax_export.symbolic_shape("h, w")

    def shaped(x: jax.Array) -> tuple[jax.Array, jax.Array]:
        return upsample_bilinear(x, 2), jnp.asarray(sincos_positions(x.shape[1:3], 16))

    function = jax_export.export(jax.jit(shaped))(jax.ShapeDtypeStruct((1, h, w, 2), jnp.float32))
    g = np.random.default_rng(0)
    for size in ((1, 1), (1, 3), (2, 5), (33, 4), (7, 64)):
        x = g.standard_normal((1, *size, 2)).astype(np.float32)
        up, positions = function.call(x)
        np.testing.assert_allclose(up, upsample_bilinear(jnp.asarray(x), 2), atol=1e-6)
        np.testing.assert_allclose(positions, sincos_positions(size, 16), atol=1e-5)


def test_no_flax_convolution_needs_more_than_jax2onnx_gives_it() -> None:
    """jax2onnx replaces ``nn.Conv`` by its own, without padding of ours (which CI would not see: it lacks jax2onnx)."""
    seen = []

    def look(run: Any, arguments: Any, options: Any, context: Any) -> Any:
        if isinstance(context.module, nn.Conv):
            seen.append((context.module.kernel_size, context.module.conv_general_dilated))
        return run(*arguments, **options)

    with nn.intercept_methods(look):
        jax.eval_shape(lambda: init_variables(THREE, seed=0))
    assert set(seen) == {((1, 1), None)}
