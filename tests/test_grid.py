"""Windows of a scene: cover it, overlap, blend to the whole; panels change nothing."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dis2_jax.inference.blend import PanelSums
from dis2_jax.inference.grid import Axis, SceneGrid
from dis2_jax.schema import IGNORE, Dis2Error


@st.composite
def axes(draw):
    window = draw(st.integers(1, 40))
    return Axis(draw(st.integers(1, 300)), window, draw(st.integers(0, window - 1)))


@given(axes())
def test_windows_cover_an_axis_and_overlap(axis):
    starts = axis.starts
    assert starts[0] == 0
    assert starts[-1] == max(0, axis.size - axis.window)
    assert all(a < b <= a + axis.window - axis.overlap for a, b in itertools.pairwise(starts))
    assert [p for first, end in axis.strips for p in range(first, end)] == list(range(axis.size))
    for i, (first, end) in enumerate(axis.strips):
        touching = [j for j, s in enumerate(starts) if s < end and s + axis.window > first]
        assert touching[0] == axis.first_touching(i)
        assert touching[-1] == i


@given(axes(), axes(), st.integers(1, 200))
def test_panels_hold_every_window_that_touches_them_and_stay_narrow(rows, columns, limit):
    overlap = min(rows.overlap, columns.overlap)
    grid = SceneGrid.of(
        (rows.size, columns.size), window=(rows.window, columns.window), overlap=overlap, max_columns=limit
    )
    axis = grid.columns
    assert [c for p in grid.panels for c in range(p.left, p.right)] == list(range(axis.size))
    for panel in grid.panels:
        touching = [s for s in axis.starts if s < panel.right and s + axis.window > panel.left]
        assert list(panel.starts) == touching
        left, right = panel.read(axis)
        assert left <= panel.left < panel.right <= right <= axis.size
        # overlaps above a half need several windows on either side of a panel's first
        assert right - left <= max(grid.max_columns, 3 * axis.window)


@pytest.mark.parametrize("overlap", [-1, 32, 40])
def test_an_overlap_must_leave_a_step(overlap):
    with pytest.raises(Dis2Error, match=f"overlap of {overlap} pixels"):
        SceneGrid.of((100, 100), window=(32, 48), overlap=overlap, max_columns=1000)


def test_weights_of_neighbours_add_up_to_one():
    w = Axis(500, 64, 24).weights()
    np.testing.assert_allclose(w[-24:] + w[:24], 1, atol=1e-6)
    assert (w[24:-24] == 1).all()
    assert w.min() > 0
    np.testing.assert_array_equal(w, w[::-1])


@given(axes(), st.integers(1, 60), st.integers(0, 3))
def test_blending_windows_of_one_map_gives_that_map(rows, width, seed):
    g = np.random.default_rng(seed)
    truth = g.dirichlet([1, 1, 1], (rows.size, width)).astype(np.float32)
    seen = g.random((rows.size, width)) < 0.9
    columns = Axis(width, min(16, width), min(16, width) // 2)
    sums = PanelSums(rows, columns, width=width, classes=3, scenarios=2)
    for s, (top, bottom) in enumerate(rows.strips):
        sums.see(seen[top : top + rows.window])
        for left in columns.starts:
            part = np.zeros((rows.window, columns.window, 3), np.float32)  # past the scene: never used
            real = truth[top : top + rows.window, left : left + columns.window]
            part[: len(real), : real.shape[1]] = real
            sums.add(part, left=left, scenario=s % 2)
        strip = sums.finish(bottom - top, columns=slice(0, width))
        np.testing.assert_array_equal(strip.answered, seen[top:bottom])
        ok = strip.answered
        np.testing.assert_allclose(strip.probabilities[ok], truth[top:bottom][ok], atol=2e-5)
        assert (strip.classes[~ok] == IGNORE).all()
        assert np.isnan(strip.confidence[~ok]).all()
        assert np.isnan(strip.entropy[~ok]).all()
        p = truth[top:bottom][ok].astype(float)
        np.testing.assert_allclose(
            strip.entropy[ok], -(p * np.log(p)).sum(-1) / np.log(3), rtol=1e-3, atol=1e-3
        )
        np.testing.assert_allclose(strip.confidence[ok], p.max(-1), atol=2e-5)
