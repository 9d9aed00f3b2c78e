"""One strategy on eight virtual devices, in a process of its own: three steps, and where their state lay.

``python sharding_case.py OUT STRATEGY AXES REMAT DROPOUT BATCH DTYPE`` writes ``OUT/<name>.npz`` (values), ``.txt``
(specs) and ``.json`` (collectives and memory).
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np

from dis2_jax.config import Config, LossConfig, ModelConfig, OptimizerConfig, ShardingConfig, TrainConfig
from dis2_jax.models.layout import active
from dis2_jax.schema import ClassLegend, DatasetCard, Modality, Scenario

DEVICES = 8
STEPS = 3
BATCH = 8
TILE = (32, 16)
"""Level 4 has one row for each of two devices."""
CARD = DatasetCard(
    name="x",
    modalities=(Modality("rgb", 3, kind="optical"), Modality("ndsm", 1, kind="height")),
    legend=ClassLegend(("a", "b", "c", "d"), ((0, 0, 0),) * 4),
    tile=TILE,
    splits={"train": BATCH},
)
CONFIG = Config(
    model=ModelConfig(width=8, depth=1, feed_forward=16, students="rgb", dtype="float64"),
    loss=LossConfig(distillation=1.0),
    # The third step leaves a half-filled accumulation: its gradients are compared as they are.
    optimizer=OptimizerConfig(clip_norm=1.0, ema=0.9, accumulate=2),
    train=TrainConfig(steps=20),
)


@dataclasses.dataclass(frozen=True)
class Case:
    """What a process does."""

    strategy: str
    axes: str = ""
    remat: str = "none"
    dropout: float = 0.1
    batch: int = BATCH
    dtype: str = "float64"

    @property
    def name(self) -> str:
        """File name."""
        remat = "" if self.remat == "none" else self.remat
        batch = "" if self.batch == BATCH else f"batch{self.batch}"
        dtype = "" if self.dtype == "float64" else self.dtype
        axes = self.axes.replace(":", "").split(",")
        return "-".join(filter(None, [self.strategy, *axes, remat, batch, dtype]))

    @property
    def state_dtype(self) -> str:
        """Of parameters and all that goes with them."""
        return "float64" if self.dtype == "float64" else "float32"

    @property
    def config(self) -> Config:
        """``CONFIG`` as the case has it."""
        return dataclasses.replace(
            CONFIG,
            sharding=ShardingConfig(self.strategy, axes=self.axes, remat=self.remat),  # type: ignore[arg-type]
            model=dataclasses.replace(CONFIG.model, dropout=self.dropout, dtype=self.dtype),  # type: ignore[arg-type]
        )


def run_case(out: Path, case: Case) -> None:
    """Start the process and wait; its errors are the caller's."""
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": str(DEVICES),
        "JAX_ENABLE_X64": str(int(case.dtype == "float64")),
        # On a machine with much else to do, a device's thread may reach a collective a minute after the others.
        "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_collective_call_terminate_timeout_seconds=600",
    }
    command = [sys.executable, __file__, str(out), *map(str, dataclasses.astuple(case))]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def batches(size: int) -> list[dict[str, Any]]:
    """Another batch for each step; a tile without its height, and rows that are ignored."""
    g = np.random.default_rng(0)
    found = []
    for _ in range(STEPS):
        shape = (size, *TILE)
        batch = {
            "image": {m.name: g.standard_normal((*shape, m.channels)) for m in CARD.modalities},
            "label": g.integers(0, len(CARD.legend), shape).astype(np.int32),
            "available": np.ones((size, 2), bool),
        }
        batch["available"][size // 2 - 1, 1] = False
        batch["label"][:2, :5] = 255
        found.append(batch)
    return found


def filled(shapes: Any, dtype: str) -> Any:
    """Values for a state of these shapes: parameters of the usual size, ones for the second moments."""
    g = np.random.default_rng(1)

    def value(path: Any, leaf: Any) -> np.ndarray:
        if not np.issubdtype(leaf.dtype, np.floating):
            return np.zeros(leaf.shape, leaf.dtype)
        name = jax.tree_util.keystr(path)
        if path[0].name in ("params", "ema"):
            if "scale" in name:
                return np.ones(leaf.shape, dtype)
            fan_in = max(np.prod(leaf.shape[:-1]), 1)
            return (g.standard_normal(leaf.shape) / np.sqrt(fan_in)).astype(dtype)
        return np.full(leaf.shape, float("var" in name), dtype)

    return jax.tree_util.tree_map_with_path(value, shapes)


def named(tree: Any) -> dict[str, Any]:
    """Leaves by path, ``params/full/...``."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def spec_line(name: str, shape: tuple[int, ...], spec: Any) -> str:
    """One array."""
    dims = ["-" if d is None else d if isinstance(d, str) else " x ".join(d) for d in spec]
    return f"  {name} {'x'.join(map(str, shape))}: {', '.join(dims) or 'whole'}"


def spec_text(state: Any, batch: Any, mesh: Any, activations: dict[tuple[str, tuple[int, ...]], Any]) -> str:
    """The specs in force: what is split and how; what is not listed is whole on every device.

    Those of activations are what the step was constrained to when it was traced.
    """
    lines = ["mesh " + ", ".join(f"{name} {size}" for name, size in mesh.shape.items())]
    for title, tree in (("batch", batch), ("state", state)):
        leaves = named(tree)
        split = {k: v for k, v in leaves.items() if not v.sharding.is_fully_replicated}
        lines.append(f"{title}: {len(split)} of {len(leaves)} leaves are split")
        for key, leaf in split.items():
            assert leaf.sharding.mesh == mesh
            lines.append(spec_line(key, leaf.shape, leaf.sharding.spec))
    if activations:
        lines.append("activations:")
        lines += [spec_line(name, shape, spec) for (name, shape), spec in sorted(activations.items())]
    return "\n".join(lines) + "\n"


def main(out: Path, case: Case) -> None:
    """Take the steps, and write what came of them."""
    from dis2_jax.sharding.collectives import parse_collectives
    from dis2_jax.sharding.mesh import put_batch
    from dis2_jax.sharding.placement import make_placement
    from dis2_jax.training.optimizer import make_optimizer
    from dis2_jax.training.state import build_model, create_state
    from dis2_jax.training.step import make_train_step

    assert jax.device_count() == DEVICES
    config = case.config
    placement = make_placement(config.sharding)
    model = build_model(config.model, CARD, tile=TILE, remat=config.sharding.remat)
    optimizer = make_optimizer(config.optimizer, steps=config.train.steps)
    create = functools.partial(create_state, model, optimizer, seed=0, ema=True, accumulate=True)
    shapes = jax.eval_shape(create)
    state = jax.device_put(filled(shapes, case.state_dtype), placement.shardings(shapes))
    step: Any = make_train_step(model, optimizer, config, steps_per_epoch=5)
    values: dict[str, Any] = {}
    activations = record_activations()
    compiled: Any = None
    with active(placement):
        for i, batch in enumerate(batches(case.batch)):
            placed = put_batch(batch, placement.mesh)
            compiled = compiled or step.lower(state, placed, (Scenario(("rgb",)),)).compile()
            state, metrics = compiled(state, placed)
            values |= {f"step {i}: {k}": np.asarray(v) for k, v in metrics.items()}
            if i == 0:
                values |= {
                    f"gradients/{k}": np.asarray(v) for k, v in named(state.accumulated.gradients).items()
                }
    values |= {k: np.asarray(v) for k, v in named(state).items()}
    if case == Case("fsdp"):
        check_restored_elsewhere(out, state, placement)
        check_initialised_in_parts(shapes, placement, create)
    np.savez(out / f"{case.name}.npz", **values)
    (out / f"{case.name}.txt").write_text(spec_text(state, placed, placement.mesh, activations))
    memory = compiled.memory_analysis()
    found = {
        "collectives": [dataclasses.asdict(c) for c in parse_collectives(compiled.as_text())],
        "arguments": memory.argument_size_in_bytes,
        "temporaries": memory.temp_size_in_bytes,
    }
    (out / f"{case.name}.json").write_text(json.dumps(found))


def record_activations() -> dict[tuple[str, tuple[int, ...]], Any]:
    """Specs by name and shape, from now on."""
    from dis2_jax.sharding.partitioned import Placement

    found: dict[tuple[str, tuple[int, ...]], Any] = {}
    ask = Placement.activation_spec

    def spy(self: Placement, name: str, shape: tuple[int, ...]) -> Any:
        spec = ask(self, name, shape)
        if self.devices_share_tiles:
            found[name, shape] = spec
        return spec

    Placement.activation_spec = spy  # type: ignore[method-assign]
    return found


def check_restored_elsewhere(out: Path, state: Any, placement: Any) -> None:
    """Saved as it is and restored under dp, saved again and restored here: the same bits, each in its place."""
    from dis2_jax.sharding.placement import make_placement
    from dis2_jax.training.checkpoint import Checkpoints, with_sharding

    dp, start = make_placement(ShardingConfig("dp")), state
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), state)
    for i, where in enumerate((dp, placement)):
        shardings = where.shardings(shapes)
        with Checkpoints(out / f"checkpoints{i}", config=CONFIG, card=CARD) as checkpoints:
            checkpoints.save(state, step=STEPS, position=STEPS)
            checkpoints.wait()
            restored = checkpoints.restore_last(with_sharding(shapes, shardings))
        assert restored is not None
        state = restored.state
        assert jax.tree.map(lambda x: x.sharding, state) == shardings
        jax.tree.map(np.testing.assert_array_equal, state, start)


def check_initialised_in_parts(shapes: Any, placement: Any, create: Any) -> None:
    """A device never holds more of the initial state than its share of it, and a little."""
    from dis2_jax.training.state import initializer

    compiled = initializer(create, placement.shardings(shapes)).lower().compile()
    leaves, where = jax.tree.leaves(shapes), jax.tree.leaves(placement.shardings(shapes))
    whole = sum(x.size * x.dtype.itemsize for x in leaves)
    own = sum(
        int(np.prod(w.shard_shape(x.shape))) * x.dtype.itemsize for x, w in zip(leaves, where, strict=True)
    )
    memory = compiled.memory_analysis()
    assert own < whole / 3
    assert memory.output_size_in_bytes + memory.temp_size_in_bytes < own + whole / 8


if __name__ == "__main__":
    strategy, axes, remat, dropout, batch, dtype = sys.argv[2:]
    main(Path(sys.argv[1]), Case(strategy, axes, remat, float(dropout), int(batch), dtype))
