"""The files of ``dis2 diagnose`` and ``dis2 degrade``: exact inverses, and what is derived from the counts."""

import dataclasses
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dis2_jax.evaluation.degrade.results import CLEAN, Degraded, DegradedRow, crossing
from dis2_jax.evaluation.diagnostics.results import FILLS, LEVELS, Diagnostics, FillScore, Similarity
from dis2_jax.schema import Dis2Error

CLASSES = ("ground", "tree")


def square(right):
    """``right`` of 100 pixels right in both classes: IoU = right / (200 - right) each."""
    return ((right, 100 - right), (100 - right, right))


def diagnostics(**changes):
    right = {"compensation": 80, "zeros": 60, "specific": 90}
    similarities = tuple(
        Similarity("rgb", fill, level, 0.1 * i, 0.2, 1 / 3, None, 512, 128)
        for fill in FILLS
        for i, level in enumerate(LEVELS)
    )
    scores = (
        FillScore("rgb+ndsm", None, (), 4, square(95), CLASSES),
        *(FillScore("rgb", f, ("ndsm",), 4, square(right[f]), CLASSES) for f in FILLS),
    )
    values = {"step": 7, "checkpoint": "best", "recipe": "ours", "seed": 3, **changes}
    return Diagnostics(
        "city", "test", CLASSES, ("rgb", "ndsm"), 4, 0, 32, similarities, scores, ("a.png",), **values
    )


def degraded(mious=((0.0, 95), (1.0, 80), (2.0, 50)), **changes):
    def row(kind, severity, branch, right, modality="ndsm"):
        return DegradedRow(kind, modality, severity, branch, 4, square(right), CLASSES)

    rows = (
        row(CLEAN, 0.0, "rgb+ndsm", mious[0][1], ""),
        row(CLEAN, 0.0, "rgb", 70, ""),
        row(CLEAN, 0.0, "ndsm", 60, ""),
        *(row("noise", s, "rgb+ndsm", right) for s, right in mious[1:]),
        *(row("noise", s, "ndsm", right // 2) for s, right in mious[1:]),
    )
    units = {"noise": "standard deviations"}
    return Degraded("city", "test", CLASSES, ("rgb", "ndsm"), 4, 0, units, rows, **changes)


@pytest.mark.parametrize("found", [diagnostics(), degraded(), degraded(step=9, checkpoint="last", seed=1)])
def test_json_is_an_exact_inverse(found, tmp_path):
    path = tmp_path / "found.json"
    path.write_text(found.to_json())
    assert type(found).load(path) == found
    path.write_text(found.to_json()[:200])
    with pytest.raises(Dis2Error, match=r"found.json: not "):
        type(found).load(path)
    with pytest.raises(Dis2Error, match=r"dis2 (diagnose|degrade)"):
        type(found).load(tmp_path / "none.json")


def iou(right):
    return right / (200 - right)


def test_recovery_and_falls_follow_from_the_counts():
    found = diagnostics()
    (recovery,) = found.recoveries
    assert recovery.of_full == pytest.approx((iou(80) - iou(60)) / (iou(95) - iou(60)))
    assert recovery.of_specific == pytest.approx((iou(80) - iou(60)) / (iou(90) - iou(60)))
    worse = dataclasses.replace(recovery, specific=0.0)
    assert worse.of_specific is None, "no share of a way that goes down"
    assert [(f.scenario, f.missing, f.class_name) for f in found.falls] == [
        ("rgb", ("ndsm",), "ground"),
        ("rgb", ("ndsm",), "tree"),
    ]
    assert found.falls[0].fall == pytest.approx(iou(95) - iou(80))
    told = json.loads(found.to_json())
    assert told["falls"][0]["fall"] == found.falls[0].fall
    assert told["scores"][0]["miou"] == found.full.metrics.miou
    assert found.similarity("rgb", "f2", "zeros").relative_l2 == pytest.approx(0.1)
    with pytest.raises(Dis2Error, match="no level 'f9'"):
        found.similarity("rgb", "f9")
    with pytest.raises(Dis2Error, match="no scenario 'sar'"):
        found.score("sar")


def test_switch_is_where_the_curve_meets_the_student_that_ignores_the_modality():
    found = degraded()
    full, alone = found.switches
    assert (full.fallback, full.fallback_miou) == ("rgb", iou(70))
    assert full.severity == pytest.approx(1 + (iou(80) - iou(70)) / (iou(80) - iou(50)))
    assert (alone.branch, alone.fallback, alone.severity) == ("ndsm", None, None), "nothing to switch to"
    assert [r.severity for r in found.curve("noise", "ndsm", "rgb+ndsm")] == [0, 1, 2]
    never = degraded(mious=((0.0, 95), (2.0, 80)))
    assert never.switches[0].severity is None
    assert never.switches[0].highest == 2
    assert degraded(mious=((0.0, 60), (2.0, 80))).switches[0].severity == 0, "worse from the start"
    with pytest.raises(Dis2Error, match="no curve of rgb with noise"):
        found.curve("noise", "ndsm", "rgb")


def test_fallback_without_an_exact_student_is_the_best_one_inside():
    def clean(branch, right):
        return DegradedRow(CLEAN, "", 0.0, branch, 4, square(right), CLASSES)

    rows = (clean("a+b+c", 90), clean("a", 60), clean("b", 70), clean("c", 80))
    found = dataclasses.replace(degraded(), modalities=("a", "b", "c"), rows=rows)
    assert found.fallback("c", "a+b+c").branch == "b"
    assert dataclasses.replace(found, rows=(*rows, clean("a+b", 50))).fallback("c", "a+b+c").branch == "a+b"


@settings(max_examples=60)
@given(
    values=st.lists(st.floats(0, 1), min_size=2, max_size=6),
    level=st.floats(0, 1),
)
def test_crossing_lies_on_the_line(values, level):
    points = [(float(i), v) for i, v in enumerate(values)]
    at = crossing(points, level)
    if at is None:
        assert min(values) > level
    elif at > 0:
        i = min(int(at), len(values) - 2)
        assert all(v > level for v in values[:i])
        line = values[i] + (at - i) * (values[i + 1] - values[i])
        assert line == pytest.approx(level, abs=1e-6)
