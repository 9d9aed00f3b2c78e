"""What each degradation promises: the same for the same seed, nothing at severity 0, and what its unit says."""

import dataclasses
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from dis2_jax.data.synthetic import draw_scene
from dis2_jax.evaluation.degrade.height import find_objects
from dis2_jax.evaluation.degrade.kinds import KIND_NAMES, KINDS, Condition, degrade, plan_conditions
from dis2_jax.evaluation.degrade.sensor import Sensor
from dis2_jax.schema import Dis2Error, Modality

RGB = Modality("rgb", 3, kind="optical", mean=(100.0, 90.0, 80.0), std=(25.0, 20.0, 30.0))
NDSM = Modality("ndsm", 1, kind="height", unit="m", mean=(2.0,), std=(3.0,))
SAR = Modality("sar", 2, kind="sar", mean=(0.2, 0.1), std=(0.1, 0.1))
DECIBEL = Modality("vv", 1, kind="sar", unit="dB", mean=(-12.0,), std=(4.0,))
MODALITIES = (RGB, NDSM, SAR, DECIBEL)
PAIRS = [(k, m) for k in KINDS for m in MODALITIES if m.kind in k.of]
IDS = [f"{k.name}-{m.name}" for k, m in PAIRS]


def sensor(modality, *, normalization="card"):
    return Sensor.of(modality, np.dtype(np.uint8 if modality is RGB else np.float32), normalization)


def raster(modality, *, size=(48, 64), seed=0):
    g = np.random.default_rng(seed)
    if modality is NDSM:
        return draw_scene(seed=seed, split="test", index=1, size=max(size)).ndsm[: size[0], : size[1]].copy()
    x = g.normal(modality.mean, modality.std, (*size, modality.channels))
    return np.abs(x).clip(0, 255).astype(np.uint8 if modality is RGB else np.float32).astype(np.float32)


def spoil(kind, modality, severity, *, x=None, seed=0, tile=0):
    x = raster(modality) if x is None else x
    return degrade(x, Condition(_kind(kind), modality, severity), sensor(modality), seed=seed, tile=tile)


def _kind(name):
    return KINDS[KIND_NAMES.index(name)]


@pytest.mark.parametrize(("kind", "modality"), PAIRS, ids=IDS)
@settings(max_examples=6)
@given(share=st.floats(0.05, 1), h=st.integers(16, 50), w=st.integers(16, 50), seed=st.integers(0, 999))
def test_pure_seeded_and_of_the_same_shape(kind, modality, share, h, w, seed):
    x = raster(modality, size=(h, w), seed=seed % 7)
    before = x.copy()
    severity = share * max(kind.severities)
    one, again = (spoil(kind.name, modality, severity, x=x, seed=seed, tile=5) for _ in range(2))
    np.testing.assert_array_equal(x, before, err_msg="the input is not touched")
    np.testing.assert_array_equal(one, again)
    assert (one.shape, one.dtype) == (x.shape, np.float32)
    assert np.isfinite(one).all()
    assert not np.shares_memory(one, x)
    if modality is RGB:
        assert one.min() >= 0
        assert one.max() <= 255
        assert np.array_equal(one, np.rint(one)) or kind.name == "partial", "whole numbers stay whole"
    nothing = spoil(kind.name, modality, 0.0, x=x, seed=seed)
    assert nothing.tobytes() == x.tobytes(), "bit for bit"


@pytest.mark.parametrize(("kind", "modality"), PAIRS, ids=IDS)
def test_seed_and_tile_each_draw_afresh(kind, modality):
    x = raster(modality, size=(64, 64), seed=3)
    severity = kind.severities[-2]

    def drawn(cases):
        return {spoil(kind.name, modality, severity, x=x, seed=s, tile=t).tobytes() for s, t in cases}

    assert x.tobytes() not in drawn([(0, 0)])
    assert len(drawn((s, 0) for s in range(5))) > 2
    assert len(drawn((0, t) for t in range(5))) > 2


def test_severity_and_modality_draw_afresh():
    x = np.full((20, 20, 1), 10, np.float32)
    half, one = (spoil("noise", NDSM, s, x=x) - x for s in (0.5, 1.0))
    assert abs(np.corrcoef(half.ravel(), one.ravel())[0, 1]) < 0.3
    other = dataclasses.replace(NDSM, name="dsm")
    assert not np.array_equal(one, spoil("noise", other, 1.0, x=x) - x)


def test_noise_is_measured_in_the_cards_deviations():
    x = np.full((200, 200, 3), 128, np.float32)
    noisy = spoil("noise", RGB, 0.5, x=x)
    np.testing.assert_allclose((noisy - x).std((0, 1)), 0.5 * np.array(RGB.std), rtol=0.03)
    np.testing.assert_allclose((noisy - x).mean((0, 1)), 0, atol=0.3)


def test_speckle_multiplies_and_adds_to_decibels():
    x = np.full((300, 300, 2), (0.2, 3.0), np.float32)
    noisy = spoil("noise", SAR, 0.5, x=x)
    np.testing.assert_allclose((noisy / x).std((0, 1)), 0.5, rtol=0.03)
    np.testing.assert_allclose((noisy / x).mean((0, 1)), 1, rtol=0.02)
    assert noisy.min() > 0
    decibel = spoil("noise", DECIBEL, 0.5, x=np.full((300, 300, 1), -12, np.float32))
    factor = 10 ** ((decibel + 12) / 10)
    np.testing.assert_allclose([factor.mean(), factor.std()], [1, 0.5], rtol=0.03)


@settings(max_examples=10)
@given(severity=st.floats(0.01, 1), seed=st.integers(0, 99))
def test_partial_fills_its_share_with_the_mean_of_the_rest(severity, seed):
    x = np.random.default_rng(seed).normal(0, 5, (40, 30, 1)).astype(np.float32)
    out = spoil("partial", NDSM, severity, x=x, seed=seed)
    gone = (out != x)[..., 0]
    assert gone.sum() == round(severity * 1200)
    if gone.all():
        np.testing.assert_array_equal(out, np.float32(NDSM.mean[0]))
    elif gone.any():
        np.testing.assert_allclose(out[gone], x[~gone].mean(), rtol=1e-4, atol=1e-5)
        _, pieces = ndimage.label(gone, structure=np.ones((3, 3)))
        assert pieces == 1


def test_all_gone_is_what_the_pipeline_has_for_an_absent_modality():
    for normalization, value in (("card", RGB.mean), ("none", (0, 0, 0))):
        out = degrade(
            raster(RGB),
            Condition(_kind("partial"), RGB, 1.0),
            sensor(RGB, normalization=normalization),
            seed=0,
            tile=0,
        )
        np.testing.assert_array_equal(out, np.broadcast_to(np.float32(value), out.shape))


@pytest.mark.parametrize("severity", [1, 2, 4, 8, 100])
def test_shift_moves_whole_pixels_by_that_much(severity):
    rows, columns = np.mgrid[:32, :48].astype(np.float32)
    x = np.stack([rows, columns, rows * 0], -1)
    out = spoil("shift", RGB, float(severity), x=x, tile=4)
    if severity > 16:
        assert out.shape == x.shape
        return
    dy, dx, _ = (x - out)[16, 24]
    assert abs(np.hypot(dy, dx) - severity) <= np.sqrt(0.5)
    inside = (x - out)[8:-8, 8:-8]
    np.testing.assert_array_equal(inside, np.broadcast_to([dy, dx, 0], inside.shape))


def city_block():
    """Three houses of 6 m on a noisy slope."""
    rows, _ = np.mgrid[:64, :64]
    houses = np.zeros((64, 64), bool)
    for r, c in ((8, 8), (8, 40), (40, 24)):
        houses[r : r + 10, c : c + 12] = True
    ground = 50 + rows * 0.05 + np.random.default_rng(0).normal(0, 0.1, (64, 64))
    return (ground + 6 * houses).astype(np.float32)[..., None], houses, ground


def test_objects_are_found_on_a_surface_model_too():
    x, houses, _ = city_block()
    objects, raised = find_objects(x, sensor(NDSM))
    np.testing.assert_array_equal(raised, houses)
    assert len(objects) == 3
    assert all(5 < o.relief.max() < 7.5 for o in objects)


def test_stale_height_loses_its_share_of_objects():
    x, houses, ground = city_block()
    changed = []
    for tile in range(60):
        out = spoil("stale", NDSM, 0.5, x=x, tile=tile)[..., 0]
        kept = [
            np.median(out[o.mask & houses] - ground[o.mask & houses]) > 3
            for o in find_objects(x, sensor(NDSM))[0]
        ]
        changed.append(3 - sum(kept))
    assert set(changed) <= {0, 1, 2}, "1 or 2, and one may land on its old place"
    assert 1.2 < np.mean(changed) < 1.7
    bare = spoil("stale", NDSM, 1.0, x=x, tile=1)[..., 0] - ground
    assert np.median(bare) == pytest.approx(0, abs=0.3), "drawn from the ground around it"
    assert 0.1 < (bare > 3).sum() / houses.sum() < 1, "some came back elsewhere"


def test_a_tile_without_objects_or_of_one_roof_is_left_or_finite():
    flat = np.zeros((32, 32, 1), np.float32)
    np.testing.assert_array_equal(spoil("stale", NDSM, 1.0, x=flat), flat)
    roof = np.zeros((32, 32, 1), np.float32)
    roof[4:, 4:] = 9
    assert np.isfinite(spoil("stale", NDSM, 1.0, x=roof)).all()


@settings(max_examples=8)
@given(severity=st.floats(0.1, 0.9), seed=st.integers(0, 99))
def test_clouds_cover_their_share_and_cast_shadows(severity, seed):
    x = np.full((96, 96, 3), (60, 60, 60), np.float32)
    out = spoil("cloud", RGB, severity, x=x, seed=seed)
    white = max(np.array(RGB.mean) + 3.7 * np.array(RGB.std))
    half = (out > (60 + white) / 2).all(-1).mean()
    assert half == pytest.approx(severity, abs=0.12)
    assert (out < 50).any(), "shadow"
    whole = spoil("cloud", RGB, 1.0, x=x, seed=seed)
    assert (whole.min((0, 1)) > 150).all()
    np.testing.assert_array_equal(np.ptp(whole, axis=-1), 0, err_msg="white")


def test_plan_takes_what_fits_and_refuses_the_rest():
    everything = plan_conditions(MODALITIES)
    assert {(c.kind.name, c.modality.name) for c in everything} == {(k.name, m.name) for k, m in PAIRS}
    some = plan_conditions(MODALITIES, kinds=["noise"], only=["sar", "rgb"], severities=[2, 0.5, 2])
    assert [(c.modality.name, c.severity) for c in some] == [
        ("rgb", 0.5),
        ("rgb", 2),
        ("sar", 0.5),
        ("sar", 2),
    ]
    for options, message in (
        ({"kinds": ["noize"]}, "no kind 'noize' (did you mean 'noise'?)"),
        ({"only": ["ndsn"]}, "no modality 'ndsn' (did you mean 'ndsm'?)"),
        ({"kinds": ["cloud"], "only": ["ndsm"]}, "cloud befalls modalities of kind optical: ndsm is height"),
        ({"severities": [1.0]}, "give one --kind with it"),
        ({"kinds": ["partial"], "severities": [1.5]}, "--severity 1.5: for partial"),
        ({"kinds": ["partial"], "severities": [float("nan")]}, "--severity nan"),
        ({"kinds": ["shift"], "severities": [0.0]}, "it lies above 0"),
    ):
        with pytest.raises(Dis2Error) as e:
            plan_conditions(MODALITIES, **options)
        assert message in str(e.value)


def test_numpy_only():
    code = (
        "import sys, dis2_jax.evaluation.degrade.kinds, dis2_jax.evaluation.degrade.results;"
        "sys.exit('jax' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
