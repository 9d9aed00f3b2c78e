"""One stored tile -> one row of a batch: geometry, noise, normalisation, padding."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from dis2_jax.config import DataConfig
from dis2_jax.data.augment import Geometry, Window, draw_geometry, photometric
from dis2_jax.data.batch import Batch
from dis2_jax.data.normalize import normalize
from dis2_jax.data.source import StoredTile
from dis2_jax.schema import IGNORE, DatasetCard


@dataclasses.dataclass(frozen=True)
class TrainSample:
    """Augment and normalise one tile; everything random comes from the record's own ``rng``."""

    card: DatasetCard
    data: DataConfig

    def __call__(self, tile: StoredTile, rng: np.random.Generator) -> Batch:
        """Return one row: ``Batch`` arrays without the batch axis."""
        geometry = draw_geometry(self.card.tile, self.data, rng)
        return _sample(tile, self.card, self.data, geometry, rng)


class Tiles(Protocol):
    """Stored tiles by number: a ``TileSource``, or a list."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> StoredTile: ...


@dataclasses.dataclass(frozen=True)
class EvalSample:
    """Row number -> whole normalised tile; rows behind the last tile are padding.

    ``order`` gives the record number of each row; None: as they are stored.
    """

    source: Tiles
    card: DatasetCard
    data: DataConfig
    order: Sequence[int] | None = None

    def __call__(self, row: int) -> Batch:
        """Return one row: ``Batch`` arrays without the batch axis."""
        if row >= len(self.source):
            return _padding(self.card)
        height, width = self.card.tile
        whole = Window(top=0, left=0, height=height, width=width)
        record = row if self.order is None else self.order[row]
        return _sample(self.source[record], self.card, self.data, whole, rng=None)


def _sample(
    tile: StoredTile,
    card: DatasetCard,
    data: DataConfig,
    geometry: Geometry,
    rng: np.random.Generator | None,
) -> Batch:
    """Make one row of a batch. Photometric noise only with ``rng``. Filler is never looked at."""
    label = geometry.label(tile["label"]).astype(np.int32)
    if not tile["available"].any():
        label = np.full_like(label, IGNORE)
    image: dict[str, np.ndarray] = {}
    for m, there in zip(card.modalities, tile["available"], strict=True):
        if not there:
            image[m.name] = np.zeros((*label.shape, m.channels), np.float32)
            continue
        stored = tile["image"][m.name]
        x = geometry.image(stored)
        if rng is not None and data.photometric and m.kind == "optical":
            x = photometric(x, m, data.photometric, rng, dtype=stored.dtype)
        image[m.name] = normalize(x, m, data.normalize)
    return Batch(
        image=image,
        label=label,
        available=tile["available"],
        valid=np.bool_(True),  # type: ignore[typeddict-item]  # a row: the batch axis comes later
        index=np.int32(tile["index"]),  # type: ignore[typeddict-item]
    )


def _padding(card: DatasetCard) -> Batch:
    return Batch(
        image={m.name: np.zeros((*card.tile, m.channels), np.float32) for m in card.modalities},
        label=np.full(card.tile, IGNORE, np.int32),
        available=np.zeros(len(card.modalities), bool),
        valid=np.bool_(False),  # type: ignore[typeddict-item]
        index=np.int32(-1),  # type: ignore[typeddict-item]
    )
