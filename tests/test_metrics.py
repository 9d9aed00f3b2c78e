"""Confusion-matrix arithmetic against a naive computation that goes pixel by pixel."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from dis2_jax.evaluation.scoring.metrics import confusion_matrix, summarize
from dis2_jax.schema import IGNORE, Dis2Error

K = 4
NAMES = ("road", "building", "tree", "car")
labels = hnp.arrays(np.int32, (5, 6), elements=st.sampled_from([0, 1, 2, 3, IGNORE]))
maps = hnp.arrays(np.int32, (5, 6), elements=st.integers(0, K - 1))


def naive(reference, prediction):
    """Sets of pixel positions, no matrix."""
    cells = [c for c in np.ndindex(reference.shape) if reference[c] != IGNORE]
    out = {"pixels": len(cells), "classes": []}
    for k in range(K):
        r = {c for c in cells if reference[c] == k}
        p = {c for c in cells if prediction[c] == k}
        if not r:
            out["classes"].append((None, None, None, None, 0, len(p)))
            continue
        precision = len(r & p) / len(p) if p else 0.0
        recall = len(r & p) / len(r)
        f1 = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
        out["classes"].append((len(r & p) / len(r | p), f1, precision, recall, len(r), len(p)))
    there = [c for c in out["classes"] if c[0] is not None]
    out["miou"] = sum(c[0] for c in there) / len(there) if there else None
    out["mf1"] = sum(c[1] for c in there) / len(there) if there else None
    n = len(cells)
    out["oa"] = sum(reference[c] == prediction[c] for c in cells) / n if n else None
    chance = sum(c[4] * c[5] for c in out["classes"]) / n**2 if n else 1.0
    out["kappa"] = None if math.isclose(chance, 1.0) else (out["oa"] - chance) / (1 - chance)
    return out


def same(a, b):
    return (a is None and b is None) or (
        a is not None and b is not None and math.isclose(a, b, abs_tol=1e-12)
    )


@given(labels, maps)
def test_ratios_equal_the_naive_computation(reference, prediction):
    got = summarize(confusion_matrix(reference, prediction, num_classes=K), NAMES)
    want = naive(reference, prediction)
    assert got.pixels == want["pixels"]
    for c, w in zip(got.classes, want["classes"], strict=True):
        assert all(same(a, b) for a, b in zip((c.iou, c.f1, c.precision, c.recall), w[:4], strict=True))
        assert (c.reference, c.predicted) == w[4:]
    for name in ("miou", "mf1", "oa", "kappa"):
        assert same(getattr(got, name), want[name]), name


@given(labels, maps, maps)
def test_matrices_add_up_over_tiles(reference, one, two):
    both = confusion_matrix(np.stack([reference] * 2), np.stack([one, two]), num_classes=K)
    parts = [confusion_matrix(reference, p, num_classes=K) for p in (one, two)]
    np.testing.assert_array_equal(both, parts[0] + parts[1])
    assert both.dtype == np.int64


def test_absent_class_is_reported_and_not_averaged():
    metrics = summarize([[6, 0, 0, 2], [0, 8, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]], NAMES)
    tree, car = metrics.absent
    assert (tree.name, tree.predicted, car.name, car.predicted, car.iou) == ("tree", 0, "car", 2, None)
    assert metrics.miou == pytest.approx((6 / 8 + 1) / 2)
    assert metrics.oa == pytest.approx(14 / 16), "pixels predicted as an absent class are still errors"


def test_counts_beyond_32_bits_stay_exact():
    n = 10**11
    metrics = summarize([[n, 1], [0, n]], ("a", "b"))
    assert metrics.pixels == 2 * n + 1
    assert metrics.kappa == pytest.approx(1.0, abs=1e-9)
    assert metrics.kappa < 1


def test_bad_values_are_named():
    with pytest.raises(Dis2Error, match=r"reference holds \[7\]: classes are 0..3"):
        confusion_matrix(np.array([7, 1]), np.array([0, 0]), num_classes=K)
    with pytest.raises(Dis2Error, match="prediction holds"):
        confusion_matrix(np.array([1]), np.array([-1]), num_classes=K)
    with pytest.raises(Dis2Error, match="shape"):
        confusion_matrix(np.zeros(3, int), np.zeros(4, int), num_classes=K)
    with pytest.raises(Dis2Error, match="3 classes"):
        summarize(np.zeros((2, 2)), ("a", "b", "c"))
