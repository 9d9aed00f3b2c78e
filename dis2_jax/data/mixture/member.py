"""One member's tiles in the terms of the mixture: its modalities' names, its classes, its tile size."""

from __future__ import annotations

import bisect
import itertools
import threading
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np

from dis2_jax.data.builders.cutting import Rect, count_tiles, nth_tile
from dis2_jax.data.builders.layers import pad_flat, pad_image
from dis2_jax.data.mixture.recipe import Member, card_digest
from dis2_jax.data.places import Place
from dis2_jax.data.scenes.index import INDEX_FILE
from dis2_jax.data.scenes.source import SceneSource
from dis2_jax.data.source import TileSource
from dis2_jax.data.tileset import StoredTile, TileSet
from dis2_jax.schema import IGNORE, DatasetCard, Dis2Error

_KEPT = 8
"""Tiles kept decoded: evaluation reads the windows of one tile one after the other."""


class MemberTiles:
    """One split of a member, cut to the joint tile. Raises ``Dis2Error`` as the member's own source does.

    Records are windows that cover each of its tiles once, row by row, the last ones padded (images mirrored, labels
    ignored). Draws are windows at a random place of a tile, as many per tile as fit into it.
    """

    def __init__(self, folder: Path, member: Member, split: str, card: DatasetCard) -> None:
        self.member = member
        self._card = card
        own = DatasetCard.load(folder)
        if card_digest(folder) != member.card:
            raise Dis2Error(f"{folder} has changed since it was mixed: run `dis2 data mix` again")
        self._names = {j: t for j, t in member.modalities.items() if j in card.modality_names}
        if not self._names:
            raise Dis2Error(
                f"member {member.name!r} has none of the modalities {', '.join(card.modality_names)}: "
                "choose others with data.modalities, or mix without it"
            )
        # A card holds two modalities or more, so a single one is read with its neighbours.
        seen = own.select(list(self._names.values())) if len(self._names) > 1 else own
        source: TileSet
        if (folder / INDEX_FILE).is_file():
            source = SceneSource(folder, split, seen)
        else:
            source = TileSource(folder, split, seen)
        self._source = source
        self._columns = {j: seen.modality_names.index(t) for j, t in self._names.items()}
        self._whole = Rect(0, 0, *own.tile)
        self._per_tile = count_tiles(self._whole, card.tile)
        self._repeats = max(1, own.tile[0] * own.tile[1] // (card.tile[0] * card.tile[1]))
        self._classes = np.full(IGNORE + 1, IGNORE, np.uint8)
        self._classes[: len(member.classes)] = member.classes
        self._start_cache()

    @property
    def draw_count(self) -> int:
        """Draws in an epoch."""
        return self._repeats * sum(d.count for d in self._source.draws)

    @property
    def dtypes(self) -> dict[str, np.dtype]:
        """By the mixture's names; what the member lacks is not there."""
        return {joint: self._source.dtypes[own] for joint, own in self._names.items()}

    def __len__(self) -> int:
        return self._per_tile * len(self._source)

    def record(self, index: int) -> StoredTile:
        """Read a window of the grid."""
        tile, window = divmod(index, self._per_tile)
        return self._convert(self._decoded(tile), nth_tile(self._whole, self._card.tile, window))

    def draw(self, number: int, rng: np.random.Generator) -> StoredTile:
        """Read a random window of a random tile."""
        tile = self._source.draw(number // self._repeats, rng)
        height, width = self._card.tile
        top = int(rng.integers(self._whole.height - height + 1))
        left = int(rng.integers(self._whole.width - width + 1))
        return self._convert(tile, Rect(top, left, height, width))

    def tile_id(self, index: int) -> str:
        """Name of a record: the member's, its tile's and, where that is cut, the corner in it."""
        tile, window = divmod(index, self._per_tile)
        at = nth_tile(self._whole, self._card.tile, window)
        corner = f"+{at.row}+{at.col}" if self._per_tile > 1 else ""
        return f"{self.member.name}-{self._source.tile_id(tile)}{corner}"

    def places(self) -> list[Place] | None:
        """Where the records lie in the member's scenes; None: not known."""
        tiles = self._source.places()
        if tiles is None:
            return None
        windows = [nth_tile(self._whole, self._card.tile, i) for i in range(self._per_tile)]
        return [_within(self.member.name, p, w) for p, w in itertools.product(tiles, windows)]

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k not in ("_cache", "_lock")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._start_cache()

    def _start_cache(self) -> None:
        self._cache: OrderedDict[int, StoredTile] = OrderedDict()
        self._lock = threading.Lock()

    def _decoded(self, tile: int) -> StoredTile:
        with self._lock:
            if tile in self._cache:
                return self._cache[tile]
        found = self._source[tile]
        if self._per_tile > 1:
            with self._lock:
                self._cache[tile] = found
                while len(self._cache) > _KEPT:
                    self._cache.popitem(last=False)
        return found

    def _convert(self, tile: StoredTile, window: Rect) -> StoredTile:
        rows = slice(window.row, window.row + window.height)
        cols = slice(window.col, window.col + window.width)
        size = self._card.tile
        image: dict[str, np.ndarray] = {}
        for m in self._card.modalities:
            there = self._names.get(m.name)
            image[m.name] = (
                np.zeros((*size, m.channels), np.uint8)
                if there is None
                else pad_image(tile["image"][there][rows, cols], size)
            )
        available = [
            m in self._columns and bool(tile["available"][self._columns[m]])
            for m in self._card.modality_names
        ]
        return StoredTile(
            image=image,
            label=pad_flat(self._classes[tile["label"][rows, cols]], size, IGNORE),
            available=np.array(available),
            tile_id=f"{self.member.name}-{tile['tile_id']}",
            index=tile["index"],
        )


def locate(ends: list[int], index: int) -> tuple[int, int]:
    """Return which group a number falls into, and its number there; ``ends`` are the groups' running totals."""
    k = bisect.bisect_right(ends, index)
    return k, index - (ends[k - 1] if k else 0)


def _within(member: str, place: Place, window: Rect) -> Place:
    """The part of a tile's place that a window of the tile shows; empty where it shows padding only."""
    row, col = min(window.row, place.height), min(window.col, place.width)
    return Place(
        f"{member}-{place.scene}",
        place.row + row,
        place.col + col,
        min(window.height, place.height - row),
        min(window.width, place.width - col),
    )
