"""Published state dicts: names, shapes, layouts, files, and the two commands."""

from __future__ import annotations

import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from dis2_jax.interop import names
from dis2_jax.models.dis2 import DIS2

MODEL = DIS2(
    modalities=(("rgb", 3), ("ndsm", 1)),
    num_classes=3,
    students=(("rgb",), ("ndsm",)),
    tile=(32, 48),
    width=8,
)


def fake_state_dict(model=MODEL):
    """Every published name with random numbers, and what nothing uses."""
    shapes = {name: link.shape for link in names.links(model) for name in link.published}
    shapes |= names.unused_shapes(model)

    def fill(name, shape):
        if name.endswith("num_batches_tracked"):
            return np.asarray(7, np.int64)
        generator = np.random.default_rng(zlib.crc32(name.encode()))
        z = generator.standard_normal(shape).astype(np.float32)
        return np.abs(z) + 0.5 if name.endswith("running_var") else z / max(1, np.sqrt(np.prod(shape[1:])))

    return {name: np.asarray(fill(name, shape)) for name, shape in shapes.items()}


def abstract_variables(model):
    images = {m: jnp.zeros((1, *model.tile, c)) for m, c in model.modalities}
    init = lambda key: model.init(key, images, students=model.scenarios[1:], train=False)  # noqa: E731
    return jax.eval_shape(init, jax.random.key(0))


@pytest.mark.parametrize("pool", ["attention", "mean"])
def test_every_variable_has_one_published_name_and_its_shape(pool):
    model = MODEL.clone(pool=pool, depth=1, feed_forward=24, parent=None)
    ours = traverse_util.flatten_dict(dict(abstract_variables(model)), sep="/")
    paths = names.paths(names.links(model))
    assert len(paths) == len(set(paths))
    assert set(paths) == set(ours)
    made = traverse_util.flatten_dict(names.to_variables(fake_state_dict(model), model=model), sep="/")
    assert {p: a.shape for p, a in made.items()} == {p: a.shape for p, a in ours.items()}
    published = [n for link in names.links(model) for n in link.published]
    assert len(published) == len(set(published))
    assert not set(published) & set(names.unused_shapes(model))
