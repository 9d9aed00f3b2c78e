"""Random tiles in place of a dataset that is not there: for measuring and planning a training step."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from dis2_jax.config import DataConfig
from dis2_jax.data.batch import Rows
from dis2_jax.data.normalize import statistics
from dis2_jax.data.pipeline import train_batch
from dis2_jax.data.places import Place
from dis2_jax.data.samples import Draw, TrainBatch
from dis2_jax.data.tileset import Draws, StoredTile
from dis2_jax.schema import ClassLegend, DatasetCard, Modality

UNREAD = ("valid", "index", "skipped")
"""Parts of a batch that the step does not read."""


@dataclasses.dataclass(frozen=True)
class RandomTiles:
    """A ``TileSet`` of one endless kind: normal images of the card's statistics, uniform labels, all available."""

    card: DatasetCard

    @property
    def draws(self) -> tuple[Draws, ...]:
        """One group; any number may be drawn."""
        return (Draws(2**31),)

    @property
    def dtypes(self) -> dict[str, np.dtype]:
        """float32: a card does not tell how its tiles are stored."""
        return {m.name: np.dtype(np.float32) for m in self.card.modalities}

    def __len__(self) -> int:
        return self.draws[0].count

    def __getitem__(self, index: int, /) -> StoredTile:
        return self.draw(index, np.random.default_rng(index))

    def draw(self, number: int, rng: np.random.Generator) -> StoredTile:
        """Make a tile."""
        labels = rng.integers(0, len(self.card.legend), self.card.tile, np.uint8)
        return StoredTile(
            image={m.name: _normal(m, self.card.tile, rng) for m in self.card.modalities},
            label=labels,
            available=np.ones(len(self.card.modalities), bool),
            tile_id=self.tile_id(number),
            index=number,
        )

    def tile_id(self, index: int) -> str:
        """Name of a tile."""
        return f"random_{index}"

    def places(self) -> tuple[Place, ...] | None:
        """Nowhere."""
        return None


def random_card(modalities: Sequence[tuple[str, int]], *, classes: int, tile: tuple[int, int]) -> DatasetCard:
    """Describe a dataset that is not there, of standard normal images: (name, channels) of each modality."""
    return DatasetCard(
        name="random",
        modalities=tuple(Modality(name, n, mean=(0.0,) * n, std=(1.0,) * n) for name, n in modalities),
        legend=ClassLegend(
            names=tuple(f"class_{k}" for k in range(classes)), colors=tuple((k, k, k) for k in range(classes))
        ),
        tile=tile,
        splits={},
    )


def random_batch(card: DatasetCard, data: DataConfig, *, tile: tuple[int, int], batch: int) -> dict[str, Any]:
    """``batch`` samples of ``tile`` (H, W) as the pipeline hands them to the step: numpy, keys as in ``Batch``."""
    return _read(_batcher(card, data, tile)([Draw(i, i) for i in range(batch)]))


def empty_batch(card: DatasetCard, data: DataConfig, *, tile: tuple[int, int]) -> dict[str, Any]:
    """One row of padding, of the shapes and types of ``random_batch``."""
    return _read(_batcher(card, data, tile).empty(1))


def _batcher(card: DatasetCard, data: DataConfig, tile: tuple[int, int]) -> TrainBatch:
    """On the device, samples are cut from whole stored tiles; on the host, the step never sees those.

    No workers: batches that leave reader processes are packed.
    """
    larger = all(a >= b for a, b in zip(card.tile, tile, strict=True))
    stored = card.tile if data.augment == "device" and larger else tile
    card = dataclasses.replace(card, tile=stored)
    return train_batch(RandomTiles(card), card, dataclasses.replace(data, crop=tile, workers=0))


def _read(rows: Rows) -> dict[str, Any]:
    return {key: value for key, value in rows.items() if key not in UNREAD}


def _normal(modality: Modality, tile: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    mean, std = statistics(modality)
    return rng.standard_normal((*tile, modality.channels), np.float32) * std + mean
