"""One stored tile -> one row of a batch: geometry, noise, normalisation, padding."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from dis2_jax.config import DataConfig
from dis2_jax.data.augment import Geometry, Window, draw_geometry, photometric
from dis2_jax.data.batch import Batch, Rows
from dis2_jax.data.normalize import normalize
from dis2_jax.data.skips import fault_text, read_draw, read_record, without_texts
from dis2_jax.data.tileset import StoredTile, TileSet
from dis2_jax.schema import IGNORE, DatasetCard


@dataclasses.dataclass(frozen=True)
class TrainSample:
    """Draw number -> augmented, normalised tile; everything random comes from the draw's own ``rng``."""

    source: TileSet
    card: DatasetCard
    data: DataConfig

    def __call__(self, number: int, rng: np.random.Generator) -> Rows:
        """Return one row: arrays without the batch axis."""
        tile, fault = read_draw(self.source, number, rng, self.data)
        geometry = draw_geometry(self.card.tile, self.data, rng)
        return _row(_sample(tile, self.card, self.data, geometry, rng), fault)


@dataclasses.dataclass(frozen=True)
class EvalSample:
    """Row number -> whole normalised tile; rows behind the last tile, or of a skipped one, are padding.

    ``order`` gives the record number of each row; None: as they are stored.
    """

    source: TileSet
    card: DatasetCard
    data: DataConfig
    order: Sequence[int] | None = None

    def __call__(self, row: int) -> Rows:
        """Return one row: arrays without the batch axis."""
        if row >= len(self.source):
            return _row(_padding(self.card), "")
        tile, fault = read_record(self.source, row if self.order is None else self.order[row], self.data)
        return _row(_padding(self.card) if tile is None else _whole(tile, self.card, self.data), fault)


def stack_tiles(tiles: Sequence[StoredTile], card: DatasetCard, data: DataConfig, *, size: int) -> Batch:
    """Normalise whole tiles as evaluation does, and fill up with padding rows to ``size``."""
    rows = [_row(_whole(t, card, data), "") for t in tiles]
    return without_texts(stack_rows(rows + [_row(_padding(card), "")] * (size - len(rows))))


def stack_rows(rows: Sequence[Rows]) -> Rows:
    """Put rows together as Grain's ``batch`` does."""
    return Rows(
        image={n: np.stack([r["image"][n] for r in rows]) for n in rows[0]["image"]},
        label=np.stack([r["label"] for r in rows]),
        available=np.stack([r["available"] for r in rows]),
        valid=np.stack([r["valid"] for r in rows]),
        index=np.stack([r["index"] for r in rows]),
        skipped=np.stack([r["skipped"] for r in rows]),
    )


def _whole(tile: StoredTile, card: DatasetCard, data: DataConfig) -> Batch:
    height, width = card.tile
    return _sample(tile, card, data, Window(top=0, left=0, height=height, width=width), rng=None)


def _row(row: Batch, fault: str) -> Rows:
    return Rows(**row, skipped=fault_text(fault))


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
