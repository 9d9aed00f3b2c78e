"""Stand-ins: a linear model with DIS2's interface, and a training workdir without a training."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from dis2_jax import config_file
from dis2_jax.config import Config, DataConfig, ModelConfig, TrainConfig
from dis2_jax.models.dis2 import DIS2
from dis2_jax.schema import DatasetCard
from dis2_jax.training.checkpoint import Checkpoints, Trained
from dis2_jax.training.optimizer import make_optimizer
from dis2_jax.training.state import TrainState, build_model, create_state
from dis2_jax.training.workdir import train_tile, write_card

SMALL = ModelConfig(width=8, heads=2, depth=1, feed_forward=16)


class Fake(nn.Module):
    """One linear map per scenario: what evaluation needs of a model and nothing else."""

    modalities: tuple[tuple[str, int], ...] = (("rgb", 3), ("ndsm", 1))
    students: tuple[tuple[str, ...], ...] = (("rgb",), ("ndsm",))
    num_classes: int = 3
    position: str = "sincos"
    tile: tuple[int, int] = (32, 32)
    names = DIS2.names
    scenarios = DIS2.scenarios

    def predict(self, images, *, scenario):
        assert set(images) == set(scenario.available)
        weights = self.variables["params"][str(scenario)]
        x = jnp.concatenate([images[m] for m in scenario.available], axis=-1)
        return nn.softmax(x @ weights)


def fake_variables(model=None):
    model = model or Fake()
    g = np.random.default_rng(0)
    sets = [tuple(m for m, _ in model.modalities), *model.students]
    widths = [sum(c for m, c in model.modalities if m in s) for s in sets]
    return {
        "params": {
            "+".join(s): g.standard_normal((c, 3)).astype(np.float32)
            for s, c in zip(sets, widths, strict=True)
        }
    }


def filled(make: Callable[[], Any]) -> Any:
    """Values for what ``make()`` would return, without the minute that running an initialiser takes."""
    g = np.random.default_rng(5)

    def fill(path: Any, leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        if not np.issubdtype(leaf.dtype, np.floating):
            return np.zeros(leaf.shape, leaf.dtype)
        z = g.standard_normal(leaf.shape, leaf.dtype)
        return 1 + np.abs(z) if "var" in jax.tree_util.keystr(path) else z / 10

    return jax.tree_util.tree_map_with_path(fill, jax.eval_shape(make))


def make_run(
    workdir: Path, *, card: DatasetCard, dataset: Path | str = "", step: int = 3, **train: int
) -> TrainState:
    """Write config, card and one checkpoint; return the state that it holds."""
    config = Config(
        data=DataConfig(dir=str(dataset)), model=SMALL, train=dataclasses.replace(TrainConfig(), **train)
    )
    network = build_model(SMALL, card, tile=train_tile(config, card))
    optimizer = make_optimizer(config.optimizer, steps=step)
    state: TrainState = filled(lambda: create_state(network, optimizer, seed=0))
    workdir.mkdir(parents=True, exist_ok=True)
    config_file.write(config, workdir)
    write_card(card, workdir)
    with Checkpoints(workdir, config=config, card=card) as checkpoints:
        checkpoints.save(state, step=step, position=step, metric=0.5)
    return state


def stand_in_run(model: Any, *, card: DatasetCard, dataset: Path | str) -> Trained:
    """Return what loading a run with ``Fake`` weights would, with no checkpoint and nothing traced."""
    train = dataclasses.replace(TrainConfig(), eval_batch_size=2, seed=6)
    config = Config(data=DataConfig(dir=str(dataset)), model=SMALL, train=train)
    return Trained(model, fake_variables(), config, card, 12)
