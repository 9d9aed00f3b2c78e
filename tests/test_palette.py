"""Class colours of the report: far enough apart for colour-blind readers, and otherwise the dataset's."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from dis2_jax.data.synthetic import LEGEND
from dis2_jax.evaluation.pictures.palette import LEAST, as_seen, readable
from dis2_jax.schema import ClassLegend

COLOR = st.tuples(*[st.integers(0, 255)] * 3)


def of(colors) -> ClassLegend:
    return ClassLegend(names=tuple(f"c{i}" for i in range(len(colors))), colors=tuple(colors))


def closest(legend: ClassLegend) -> float:
    """Smallest distance of two classes in any kind of vision."""
    seen = as_seen(np.array(legend.colors))
    i, j = np.triu_indices(len(legend), 1)
    return float(np.linalg.norm(seen[:, i] - seen[:, j], axis=-1).min())


def test_isprs_colours_are_moved_as_far_as_needed():
    assert closest(LEGEND) < 10, "tree and car, or road and grass, look alike to some"
    found = readable(LEGEND)
    assert closest(found) >= LEAST
    assert found.names == LEGEND.names
    assert found.colors[:2] == LEGEND.colors[:2]
    assert readable(found) == found


@settings(max_examples=25)
@given(st.lists(COLOR, min_size=2, max_size=12))
def test_any_dozen_colours(colors):
    found = readable(of(colors))
    assert closest(found) >= LEAST
    assert found.colors[0] == colors[0]
    if closest(of(colors)) >= LEAST:
        assert found.colors == tuple(colors)


def test_more_classes_than_there_are_colours_apart():
    found = readable(of([(0, 0, 0)] * 60))
    assert len(set(found.colors)) == 60


def test_what_is_seen():
    """Red in CIELAB under D65 (53.24, 80.09, 67.20); greys look the same to everyone."""
    np.testing.assert_allclose(as_seen(np.array([(255, 0, 0)]))[0, 0], (53.24, 80.09, 67.20), atol=0.01)
    grey = as_seen(np.array([(128, 128, 128)]))[:, 0]
    np.testing.assert_allclose(grey, np.broadcast_to(grey[0], (4, 3)), atol=0.01)
