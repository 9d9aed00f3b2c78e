"""Fixtures that several test files share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings

from dis2_jax.data.builders.tiles import DatasetSpec, Tile
from dis2_jax.data.builders.writer import write_dataset
from dis2_jax.schema import IGNORE, ClassLegend, DatasetCard, Modality

# Read when JAX first meets a device: compiling takes nearly all of the tests' time, and this halves it.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")

# No test is about time, and a loaded machine takes longer than Hypothesis allows an example.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

MINI_SPEC = DatasetSpec(
    name="mini",
    modalities=(
        Modality("rgb", 3, kind="optical", bands=("red", "green", "blue")),
        Modality("ndsm", 1, kind="height", unit="m"),
    ),
    dtypes=("uint8", "float32"),
    legend=ClassLegend(
        names=("ground", "building", "tree"), colors=((255, 255, 255), (0, 0, 255), (0, 255, 0))
    ),
    tile=(32, 32),
)
MINI_SPLITS = {"train": 10, "validation": 4, "test": 3}
MINI_WITHOUT_NDSM = 2
"""Train tile in which the height is absent."""


def mini_tiles(split: str) -> Iterator[Tile]:
    """Blocks of 8 px of a class, with its colour and height; one row is ignored."""
    g = np.random.default_rng(sum(split.encode()))
    colors = np.array([[200, 190, 180], [190, 180, 190], [60, 140, 60]])
    heights = np.array([0.0, 8.0, 6.0])
    for i in range(MINI_SPLITS[split]):
        label = np.kron(g.integers(0, 3, (4, 4)), np.ones((8, 8))).astype(np.uint8)
        rgb = (colors[label] + g.integers(-30, 30, (32, 32, 3))).astype(np.uint8)
        ndsm = (heights[label] + g.normal(0, 0.5, (32, 32))).astype(np.float32)[..., None]
        label[-1] = IGNORE
        absent = split == "train" and i == MINI_WITHOUT_NDSM
        yield Tile(f"{split}-{i}", {"rgb": rgb} if absent else {"rgb": rgb, "ndsm": ndsm}, label)


def write_mini(out: Path, **options: int) -> Path:
    """Write the miniature dataset to ``out``; ``options`` go to ``write_dataset``."""
    write_dataset(MINI_SPEC, {s: mini_tiles(s) for s in MINI_SPLITS}, out, **options)
    return out


@pytest.fixture(scope="session")
def mini_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prepared, 32-px tiles: rgb uint8, ndsm float32, 3 classes; train 10, validation 4, test 3 tiles."""
    return write_mini(tmp_path_factory.mktemp("prepared") / "mini")


@pytest.fixture(scope="session")
def mini_card(mini_dataset: Path) -> DatasetCard:
    return DatasetCard.load(mini_dataset)
