"""Streaming CKA against the whole Gram matrices, and what CKA must not depend on."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dis2_jax.evaluation.diagnostics.cka import StreamingCKA


def naive(x, y):
    """Biased and debiased CKA straight from the definitions, with n x n matrices."""
    n = len(x)
    k, j = x @ x.T, y @ y.T
    h = np.eye(n) - 1 / n

    def hsic(a, b):
        return np.trace(a @ h @ b @ h)

    def unbiased(a, b):
        a, b = a - np.diag(np.diag(a)), b - np.diag(np.diag(b))
        one = np.ones(n)
        return (
            np.trace(a @ b)
            + (one @ a @ one) * (one @ b @ one) / ((n - 1) * (n - 2))
            - 2 / (n - 2) * (one @ a @ b @ one)
        ) / (n * (n - 3))

    return tuple(f(k, j) / np.sqrt(f(k, k) * f(j, j)) for f in (hsic, unbiased))


def stream(x, y, *, block=7):
    cka = StreamingCKA()
    for i in range(0, len(x), block):
        cka.add(x[i : i + block], y[i : i + block])
    return cka


def draw(seed, n=60, d=5, e=8, mixed=0.5, offset=0.0):
    g = np.random.default_rng(seed)
    x = g.normal(size=(n, d)) * g.uniform(0.1, 4, d) + offset
    y = mixed * x @ g.normal(size=(d, e)) + g.normal(size=(n, e)) + 2 * offset
    return x, y


@settings(max_examples=40)
@given(
    seed=st.integers(0, 10**6),
    n=st.integers(5, 80),
    d=st.integers(1, 9),
    e=st.integers(1, 9),
    block=st.integers(1, 90),
    offset=st.sampled_from([0.0, 3.0, 1e3]),
)
def test_equals_the_naive_one_however_it_is_cut(seed, n, d, e, block, offset):
    x, y = draw(seed, n, d, e, offset=offset)
    cka = stream(x, y, block=block)
    biased, debiased = naive(x - x.mean(0), y - y.mean(0))
    assert cka.count == n
    assert cka.value == pytest.approx(biased, rel=1e-6)
    assert cka.debiased == pytest.approx(debiased, rel=1e-5, abs=1e-6)
    assert 0 <= cka.value <= 1 + 1e-12


def test_rotation_scale_and_shift_change_nothing_but_a_stretch_does():
    x, y = draw(1)
    g = np.random.default_rng(2)
    rotation, _ = np.linalg.qr(g.normal(size=(8, 8)))
    wanted = stream(x, y)
    moved = stream(-3.0 * x + 5, 0.01 * y @ rotation + 2)
    assert moved.value == pytest.approx(wanted.value, rel=1e-9)
    assert moved.debiased == pytest.approx(wanted.debiased, rel=1e-9)
    assert stream(y, 7 * y @ rotation - 1).value == pytest.approx(1)
    assert stream(y, 7 * y @ rotation - 1).debiased == pytest.approx(1)
    stretched = stream(x, y @ np.diag([30.0, *[1.0] * 7]))
    assert abs(stretched.value - wanted.value) > 0.05


def test_few_positions_push_only_the_biased_one_up():
    g = np.random.default_rng(0)
    values = [stream(g.normal(size=(30, 64)), g.normal(size=(30, 64))) for _ in range(20)]
    assert np.mean([v.value for v in values]) > 0.6
    assert abs(np.mean([v.debiased for v in values])) < 0.05


def test_nothing_and_constant_features_have_no_cka():
    assert StreamingCKA().value is None
    assert StreamingCKA().debiased is None
    x, y = draw(0)
    for constant in (np.zeros_like(x), np.full_like(x, 0.1), np.full_like(x, 1 / 3 * 1e5)):
        assert stream(constant, y, block=11).value is None
        assert stream(y, constant).debiased is None
    assert stream(x[:3], y[:3]).debiased is None
