"""Stored tiles -> batches: geometry, noise, normalisation, padding. A batch is allocated once and filled row by row."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from dis2_jax.config import DataConfig
from dis2_jax.data.augment import Geometry, Window, crop_size, draw_geometry
from dis2_jax.data.batch import Batch, Rows
from dis2_jax.data.network_input import byte_table, write_input
from dis2_jax.data.skips import no_faults, put_fault, read_draw, read_record, without_texts
from dis2_jax.data.tileset import StoredTile, TileSet
from dis2_jax.data.tone import Tone, draw_tone
from dis2_jax.schema import IGNORE, DatasetCard


@dataclasses.dataclass(frozen=True)
class Draw:
    """A draw number, and the seed of everything random about its sample."""

    number: int
    seed: int


def seeded(number: int, rng: np.random.Generator) -> Draw:
    """Fix what is random of a draw before it meets others in a batch; for Grain's ``random_map``."""
    return Draw(int(number), int(rng.integers(2**63)))


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """What was drawn for one sample: its place on the tile, and the tones of its optical modalities."""

    geometry: Geometry
    tones: Mapping[str, Tone]


def draw_augmentation(
    tile: StoredTile, card: DatasetCard, data: DataConfig, rng: np.random.Generator
) -> Augmentation:
    """Draw how a training sample is made of ``tile``."""
    geometry = draw_geometry(card.tile, data, rng)
    tones = {
        m.name: draw_tone(m, data.photometric, rng, dtype=tile["image"][m.name].dtype)
        for m, there in zip(card.modalities, tile["available"], strict=True)
        if there and data.photometric and m.kind == "optical"
    }
    return Augmentation(geometry, tones)


@dataclasses.dataclass(frozen=True)
class TrainBatch:
    """Draws -> a batch of augmented, normalised tiles."""

    source: TileSet
    card: DatasetCard
    data: DataConfig

    def __call__(self, draws: Sequence[Draw]) -> Rows:
        """Return the rows in the order of the draws."""
        rows = self.empty(len(draws))
        self.fill(rows, draws)
        return rows

    def fill(self, rows: Rows, draws: Sequence[Draw]) -> None:
        """Overwrite all of ``rows``, which may be those of an earlier batch."""
        for i, draw in enumerate(draws):
            rng = np.random.default_rng(draw.seed)
            tile, fault = read_draw(self.source, draw.number, rng, self.data)
            put_fault(rows, i, fault)
            self.put(rows, i, tile, rng)

    def empty(self, count: int) -> Rows:
        """Return rows for ``fill`` and ``put``."""
        return empty_rows(count, self.card, size=crop_size(self.data, self.card.tile))

    def copied(self, rows: Rows) -> Rows:
        """Return what training gets of ``rows`` that are about to be used again."""
        return copied(rows)

    def put(self, rows: Rows, i: int, tile: StoredTile, rng: np.random.Generator) -> None:
        """Make row ``i`` a sample of ``tile``."""
        put_tile(rows, i, tile, self.card, self.data, draw_augmentation(tile, self.card, self.data, rng))


@dataclasses.dataclass(frozen=True)
class EvalBatch:
    """Row numbers -> a batch of whole normalised tiles.

    Rows behind the last tile, or of a skipped one, are padding. ``order`` gives the record number of each row;
    None: as they are stored.
    """

    source: TileSet
    card: DatasetCard
    data: DataConfig
    order: Sequence[int] | None = None

    def __call__(self, numbers: Sequence[int]) -> Rows:
        """Return the rows in the order of the numbers."""
        rows = empty_rows(len(numbers), self.card, size=self.card.tile)
        for i, row in enumerate(numbers):
            tile = None
            if row < len(self.source):
                record = int(row) if self.order is None else self.order[row]
                tile, fault = read_record(self.source, record, self.data)
                put_fault(rows, i, fault)
            if tile is None:
                pad_row(rows, i)
            else:
                put_tile(rows, i, tile, self.card, self.data, whole(self.card))
        return rows


def stack_tiles(tiles: Sequence[StoredTile], card: DatasetCard, data: DataConfig, *, size: int) -> Batch:
    """Normalise whole tiles as evaluation does, and fill up with padding rows to ``size``."""
    rows = empty_rows(size, card, size=card.tile)
    for i, tile in enumerate(tiles):
        put_tile(rows, i, tile, card, data, whole(card))
    for i in range(len(tiles), size):
        pad_row(rows, i)
    return without_texts(rows)


def whole(card: DatasetCard) -> Augmentation:
    """All of a tile, as it is."""
    return Augmentation(Window(top=0, left=0, height=card.tile[0], width=card.tile[1]), {})


def empty_rows(
    count: int, card: DatasetCard, *, size: tuple[int, int], packed: Collection[str] | None = None
) -> Rows:
    """Return ``count`` rows of ``size`` = (height, width), each to be filled by ``put_tile`` or ``pad_row``.

    ``packed``: modalities that are left as bytes (see ``PackedTrainBatch``), as labels then are; None: none at all.
    """
    dtypes = {m.name: np.uint8 if m.name in (packed or ()) else np.float32 for m in card.modalities}
    return Rows(
        image={m.name: np.empty((count, *size, m.channels), dtypes[m.name]) for m in card.modalities},
        label=np.empty((count, *size), np.int32 if packed is None else np.uint8),
        available=np.zeros((count, len(card.modalities)), bool),
        valid=np.zeros(count, bool),
        index=np.full(count, -1, np.int32),
        skipped=no_faults(count),
    )


def copied(arrays: Any) -> Any:
    """Return copies of the arrays in nested dictionaries."""
    return {k: copied(v) for k, v in arrays.items()} if isinstance(arrays, dict) else np.array(arrays)


def pad_row(rows: Rows, i: int) -> None:
    """Make row ``i`` of new rows a padding row: see ``Batch``."""
    rows["label"][i] = IGNORE
    for image in rows["image"].values():
        image[i] = 0


def put_tile(
    rows: Rows,
    i: int,
    tile: StoredTile,
    card: DatasetCard,
    data: DataConfig,
    augmentation: Augmentation,
) -> None:
    """Make row ``i`` of new rows a sample of ``tile``. Filler of absent modalities is never looked at."""
    geometry = augmentation.geometry
    rows["label"][i] = geometry.label(tile["label"]) if tile["available"].any() else IGNORE
    for m, there in zip(card.modalities, tile["available"], strict=True):
        row = rows["image"][m.name][i]
        if not there:
            row[...] = 0
            if m.name in rows.get("tables", ()):
                rows["tables"][m.name][i] = 0
            continue
        x = geometry.image(tile["image"][m.name])
        tone = augmentation.tones.get(m.name)
        if m.name in rows.get("tables", ()):
            row[...] = x
            rows["tables"][m.name][i] = byte_table(m, data.normalize, tone=tone)
        else:
            write_input(x, m, data.normalize, row, tone=tone)
    rows["available"][i] = tile["available"]
    rows["valid"][i] = True
    rows["index"][i] = tile["index"]
