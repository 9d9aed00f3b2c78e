"""Eight devices do what one does. In a process of its own: the number of CPU devices is fixed at start-up."""

from __future__ import annotations

import os
import subprocess
import sys

import jax
import numpy as np
import pytest

from dis2_jax.schema import Dis2Error
from dis2_jax.sharding.mesh import batch_sharding, check_batch_size, data_mesh, put_batch

DEVICES = 8


def test_batch_must_split_over_the_devices() -> None:
    mesh = jax.sharding.AbstractMesh((DEVICES,), ("data",))
    check_batch_size(16, mesh)
    with pytest.raises(Dis2Error, match=r"a batch of 12 .* 8 devices: set config.data.batch_size to 8 or 16"):
        check_batch_size(12, mesh)
    with pytest.raises(Dis2Error, match=r"a batch of 4 .* set config.data.batch_size to 8$"):
        check_batch_size(4, mesh)


def test_put_batch_keeps_values() -> None:
    mesh = data_mesh()
    batch = {"image": {"a": np.arange(24.0).reshape(mesh.size, 24 // mesh.size)}}
    placed = put_batch(batch, mesh)
    np.testing.assert_array_equal(placed["image"]["a"], batch["image"]["a"])
    assert placed["image"]["a"].sharding == batch_sharding(mesh)


def test_one_step_on_eight_devices_equals_one_device() -> None:
    """Losses, norms, parameters and running statistics, in float64: the batch statistics are global."""
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": str(DEVICES),
        "JAX_ENABLE_X64": "1",
    }
    done = subprocess.run(
        [sys.executable, __file__], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def compare() -> None:
    """Run one step both ways, in this process."""
    import functools

    from dis2_jax.config import Config, ModelConfig
    from dis2_jax.models.dis2 import DIS2
    from dis2_jax.schema import Scenario
    from dis2_jax.sharding.mesh import replicated
    from dis2_jax.training.optimizer import make_optimizer
    from dis2_jax.training.state import create_state
    from dis2_jax.training.step import make_train_step

    assert jax.device_count() == DEVICES
    config = Config(model=ModelConfig(width=8, dtype="float64", depth=1, feed_forward=16))
    model = DIS2(
        modalities=(("rgb", 3), ("ndsm", 1)),
        num_classes=3,
        students=(("rgb",),),
        tile=(16, 16),
        width=8,
        depth=1,
        feed_forward=16,
        dtype=jax.numpy.float64,
    )
    optimizer = make_optimizer(config.optimizer, steps=10)
    step = make_train_step(model, optimizer, config, steps_per_epoch=5)
    g = np.random.default_rng(0)
    shape = (DEVICES, 16, 16)
    batch = {
        "image": {"rgb": g.standard_normal((*shape, 3)), "ndsm": g.standard_normal((*shape, 1))},
        "label": g.integers(0, 3, shape).astype(np.int32),
        "available": np.ones((DEVICES, 2), bool),
    }
    batch["available"][3, 1] = False
    batch["label"][:2, :5] = 255
    create = functools.partial(create_state, model, optimizer, seed=0)
    double = jax.jit(lambda: jax.tree.map(_double, create()))
    mesh = data_mesh()
    results = []
    for sharding, placed in (
        (jax.sharding.SingleDeviceSharding(jax.devices()[0]), batch),
        (replicated(mesh), put_batch(batch, mesh)),
    ):
        state = jax.device_put(double(), sharding)
        state, metrics = step(state, placed, (Scenario(("rgb",)),))
        assert all(x.sharding.is_fully_replicated for x in jax.tree.leaves(state))
        results.append(jax.device_get((metrics, state.params, state.batch_stats)))
    check_that_augmenting_moves_nothing(mesh)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-6, atol=1e-9)
    jax.tree.map(close, *results)


def check_that_augmenting_moves_nothing(mesh: jax.sharding.Mesh) -> None:
    """A batch split over devices is augmented where it lies."""
    from test_device_augment import FREE, WIDE, Tiles

    from dis2_jax.data.raw_batch import RawTrainBatch
    from dis2_jax.data.samples import Draw
    from dis2_jax.training.augment import device_augment

    raw = RawTrainBatch(Tiles(), WIDE, FREE)([Draw(i % 4, seed=i) for i in range(DEVICES)])
    placed = put_batch({k: v for k, v in raw.items() if k not in ("skipped", "valid", "index")}, mesh)
    program = jax.jit(device_augment(WIDE, FREE)).lower(placed).compile()
    for collective in ("all-gather", "all-reduce", "all-to-all", "collective-permute"):
        assert collective not in program.as_text()
    assert program(placed)["label"].sharding.is_equivalent_to(batch_sharding(mesh), 3)


def _double(x: jax.Array) -> jax.Array:
    return x.astype("float64") if x.dtype == "float32" else x


if __name__ == "__main__":
    compare()
