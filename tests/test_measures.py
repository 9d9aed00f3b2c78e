"""Boundaries, erosion, calibration and bootstrap against naive computations; scikit-learn's numbers."""

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from dis2_jax.evaluation.scoring import bootstrap
from dis2_jax.evaluation.scoring.bootstrap import Ratios, class_counts_of, resampled_ratios, tile_intervals
from dis2_jax.evaluation.scoring.boundaries import near_other_class
from dis2_jax.evaluation.scoring.metrics import summarize
from dis2_jax.evaluation.scoring.ruler import (
    CONFIDENCE_ONE,
    MapScore,
    MeasureOptions,
    Reference,
    Ruler,
    calibration_of,
)
from dis2_jax.schema import IGNORE, ClassLegend, Dis2Error


def legend(k):
    return ClassLegend(tuple(f"c{i}" for i in range(k)), ((0, 0, 0),) * k)


@st.composite
def maps(draw):
    """(K, reference with ignored blobs, prediction): patches, so that distances beyond 1 px matter."""
    k = draw(st.sampled_from([2, 5, 70]))
    height, width, patch = draw(st.integers(1, 24)), draw(st.integers(1, 24)), draw(st.integers(1, 9))
    g = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    choice = g.choice(k, size=min(k, 4), replace=False)

    def patches(values):
        coarse = g.choice(values, size=(-(-height // patch), -(-width // patch)))
        return np.kron(coarse, np.ones((patch, patch), int))[:height, :width].astype(np.uint8)

    return k, patches([*choice, IGNORE]), patches(choice)


def within(mask, distance):
    """Pixels no further than ``distance`` from a True pixel of ``mask``, by scipy's exact transform."""
    return ndimage.distance_transform_edt(~mask) <= distance if mask.any() else np.zeros(mask.shape, bool)


@settings(max_examples=60)
@given(maps(), st.integers(0, 6))
def test_erosion_is_that_of_a_disk(case, radius):
    k, label, _ = case
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    disk = x * x + y * y <= radius * radius
    want = np.zeros(label.shape, bool)
    for c in np.setdiff1d(np.unique(label), [IGNORE]):
        kept = ndimage.binary_erosion((label == c) | (label == IGNORE), disk, border_value=1)
        want |= (label == c) & ~kept
    np.testing.assert_array_equal(near_other_class(label, radius=radius, num_classes=k), want)


def naive_edges(label):
    """Per pixel: has it a 4-neighbour of another class?"""
    out = np.zeros(label.shape, bool)
    for y, x in np.ndindex(label.shape):
        for v, u in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
            if 0 <= v < label.shape[0] and 0 <= u < label.shape[1]:
                out[y, x] |= label[y, x] != label[v, u] and IGNORE not in (label[y, x], label[v, u])
    return out


@settings(max_examples=40)
@given(maps(), st.integers(0, 4))
def test_boundary_f1_equals_distance_transforms(case, tolerance):
    k, label, predicted = case
    ruler = Ruler.of(MeasureOptions(tolerance=tolerance), legend(k))
    score = Reference.of(label, ruler).score(predicted, np.full(label.shape, 9, np.uint16))
    found = score.boundaries(ruler)
    known = np.where(label == IGNORE, IGNORE, predicted)
    edges = naive_edges(label), naive_edges(known)
    for c in range(k):
        r, p = edges[0] & (label == c), edges[1] & (known == c)
        near = (p & within(r, tolerance)).sum(), (r & within(p, tolerance)).sum()
        assert dataclasses.astuple(found.counts[c]) == (p.sum(), near[0], r.sum(), near[1])
        if r.any():
            precision, recall = near[0] / max(p.sum(), 1), near[1] / r.sum()
            f1 = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
            assert found.f1[c] == pytest.approx(f1)
        else:
            assert found.f1[c] is None


def test_boundary_f1_of_a_shifted_square():
    label = np.zeros((40, 40), np.uint8)
    label[10:30, 10:30] = 1
    shifted = np.roll(label, 3, axis=1)
    confidence = np.full(label.shape, 1, np.uint16)
    for tolerance, wanted in ((3, 1.0), (2, 0.5)):
        ruler = Ruler.of(MeasureOptions(tolerance=tolerance), legend(2))
        f1 = Reference.of(label, ruler).score(shifted, confidence).boundaries(ruler).f1[1]
        assert f1 == 1.0 if wanted == 1.0 else 0.4 < f1 < 0.8


def test_excluded_class_is_not_scored_but_still_a_boundary():
    """Left: class 0; middle: class 2 (excluded); right: class 1; everything is predicted as 0."""
    label = np.repeat(np.array([0, 2, 1], np.uint8), 10)[None].repeat(6, 0)
    predicted = np.zeros_like(label)
    confidence = np.full(label.shape, CONFIDENCE_ONE, np.uint16)
    ruler = Ruler.of(MeasureOptions(erode=3, exclude=("c2",)), legend(3))
    score = Reference.of(label, ruler).score(predicted, confidence)
    np.testing.assert_array_equal(score.confusion, [[60, 0, 0], [60, 0, 0], [0, 0, 0]])
    np.testing.assert_array_equal(score.eroded, [[42, 0, 0], [42, 0, 0], [0, 0, 0]])
    assert score.excluded == 60
    assert score.reliability[:, 0].sum() == 120
    assert [c.reference for c in score.boundaries(ruler).counts] == [6, 6, 0]
    found = summarize(score.confusion, ("c0", "c1", "c2"))
    assert found.miou == pytest.approx((60 / 120 + 0) / 2)


def test_bad_options_are_one_line():
    with pytest.raises(Dis2Error, match=r"no class 'buildng' \(did you mean 'building'\?\)"):
        MeasureOptions(exclude=("buildng",)).excluded(ClassLegend(("road", "building"), ((0, 0, 0),) * 2))
    with pytest.raises(Dis2Error, match="names every class"):
        MeasureOptions(exclude=("c1", "c0")).excluded(legend(2))
    for option in ({"erode": -1}, {"tolerance": -1}, {"samples": -1}):
        with pytest.raises(Dis2Error, match="-1: it must be at least 0"):
            MeasureOptions(**option)


def test_calibration_equals_a_loop_over_pixels():
    g = np.random.default_rng(3)
    k, shape, bins = 4, (30, 31), 10
    p = g.dirichlet(np.full(k, 0.4), shape)
    label = g.integers(0, k, shape).astype(np.uint8)
    label[g.random(shape) < 0.2] = IGNORE
    confidence = np.rint(p.max(-1) * CONFIDENCE_ONE).astype(np.uint16)
    ruler = Ruler.of(MeasureOptions(bins=bins), legend(k))
    score = Reference.of(label, ruler).score(p.argmax(-1).astype(np.uint8), confidence)
    found = calibration_of(score.reliability)
    members = [[] for _ in range(bins)]
    for at in np.ndindex(shape):
        if label[at] != IGNORE:
            c = int(confidence[at]) / CONFIDENCE_ONE
            members[max(int(np.ceil(c * bins - 1e-12)) - 1, 0)].append((c, p[at].argmax() == label[at]))
    total = sum(map(len, members))
    ece = 0.0
    for b, own in zip(found.bins, members, strict=True):
        assert b.count == len(own)
        if own:
            c, a = np.mean([o[0] for o in own]), np.mean([o[1] for o in own])
            assert (b.confidence, b.accuracy) == (pytest.approx(c, abs=1e-6), pytest.approx(a, abs=1e-12))
            ece += len(own) / total * abs(a - c)
    assert found.ece == pytest.approx(ece, abs=1e-6)
    assert (found.bins[0].lower, found.bins[-1].upper) == (0.0, 1.0)


def test_bands_of_a_large_map_add_up(monkeypatch):
    g = np.random.default_rng(0)
    label, predicted = (g.integers(0, 3, (50, 20)).astype(np.uint8) for _ in range(2))
    confidence = g.integers(0, CONFIDENCE_ONE, (50, 20)).astype(np.uint16)
    reference = Reference.of(label, Ruler.of(MeasureOptions(), legend(3)))
    whole = reference.score(predicted, confidence)
    monkeypatch.setattr("dis2_jax.evaluation.scoring.ruler._BAND_PIXELS", 140)
    for a, b in zip(_arrays(whole), _arrays(reference.score(predicted, confidence)), strict=True):
        np.testing.assert_array_equal(a, b)


def _arrays(score: MapScore):
    return [score.confusion, score.eroded, score.boundary, score.reliability]


def random_tiles(*, tiles=7, k=3, seed=0):
    g = np.random.default_rng(seed)
    confusion = g.integers(0, 50, (tiles, k, k))
    confusion[:, -1] *= g.random(tiles)[:, None] < 0.3  # the last class is in few tiles
    return confusion


def test_resampled_ratios_equal_summed_confusions(monkeypatch):
    confusion = random_tiles()
    counts = class_counts_of(confusion)
    found = resampled_ratios(counts, samples=40, seed=5)
    drawn = np.random.default_rng(5).integers(0, 7, (40, 7))
    for s, tiles in enumerate(drawn):
        m = summarize(confusion[tiles].sum(0), ("a", "b", "c"))
        for name in ("miou", "mf1", "oa"):
            assert getattr(found, name)[s] == pytest.approx(getattr(m, name))
        iou = [np.nan if c.iou is None else c.iou for c in m.classes]
        np.testing.assert_allclose(found.iou[s], iou)
    monkeypatch.setattr(bootstrap, "_CHUNK", 50)
    again = resampled_ratios(counts, samples=40, seed=5)
    for f in dataclasses.fields(Ratios):
        np.testing.assert_array_equal(getattr(again, f.name), getattr(found, f.name), err_msg=f.name)


def test_intervals_are_percentiles_and_none_without_a_number():
    confusion = random_tiles(tiles=30)
    confusion[:, 1] = 0
    found = tile_intervals(class_counts_of(confusion), samples=400, seed=1)
    ratios = resampled_ratios(class_counts_of(confusion), samples=400, seed=1)
    assert found.miou == tuple(np.quantile(ratios.miou, [0.025, 0.975]))
    assert found.iou[1] is None
    inside = ratios.oa[(ratios.oa >= found.oa[0]) & (ratios.oa <= found.oa[1])]
    assert len(inside) == pytest.approx(380, abs=2)
    assert tile_intervals(np.zeros((0, 3, 3), np.int64), samples=10, seed=0) is None
    assert json.loads(json.dumps(found.to_dict(("a", "b", "c"))))["iou"]["b"] is None


def test_numbers_of_scikit_learn():
    """scikit-learn 1.9.1: cohen_kappa_score, f1, precision, recall, jaccard, accuracy of this matrix."""
    matrix = [[87, 14, 11, 10], [11, 78, 10, 15], [10, 13, 93, 12], [14, 12, 9, 101]]
    m = summarize(matrix, ("a", "b", "c", "d"))
    wanted = {
        "f1": [0.7131147540983607, 0.6753246753246753, 0.7410358565737052, 0.7372262773722628],
        "precision": [0.7131147540983607, 0.6666666666666666, 0.7560975609756098, 0.7318840579710145],
        "recall": [0.7131147540983607, 0.6842105263157895, 0.7265625, 0.7426470588235294],
        "iou": [0.554140127388535, 0.5098039215686274, 0.5886075949367089, 0.5838150289017341],
    }
    for name, values in wanted.items():
        assert [getattr(c, name) for c in m.classes] == pytest.approx(values, abs=1e-14)
    assert m.kappa == pytest.approx(0.6235301656467271, abs=1e-14)
    assert (m.oa, m.mf1) == (pytest.approx(0.718), pytest.approx(0.716675390842251))
    assert m.miou == pytest.approx(0.5590916681989013, abs=1e-14)
    batched = Ratios.of(class_counts_of(np.array([matrix])))
    assert (batched.miou[0], batched.mf1[0]) == (pytest.approx(m.miou), pytest.approx(m.mf1))
