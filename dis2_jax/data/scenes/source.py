"""The tiles of an index of scenes: windows on a grid for evaluation, random ones for training."""

from __future__ import annotations

import bisect
import dataclasses
import itertools
from pathlib import Path
from typing import Any

import numpy as np

from dis2_jax.data.builders.cutting import Rect, count_tiles, nth_tile
from dis2_jax.data.builders.tiles import Tile
from dis2_jax.data.places import Place
from dis2_jax.data.scenes.area import WindowSampler
from dis2_jax.data.scenes.index import Part, SceneIndex
from dis2_jax.data.scenes.opened import OpenScene
from dis2_jax.data.scenes.pool import ScenePool
from dis2_jax.data.tileset import Draws, StoredTile, check_same_card, check_split
from dis2_jax.schema import IGNORE, DatasetCard, Dis2Error

_REDRAWS = 4
"""Windows tried after one without a labelled pixel of any modality."""


class SceneSource:
    """One split of a folder that ``dis2 data index`` wrote, a ``TileSet``.

    Records are the tiles that ``dis2 data prepare folder`` would cut, also those without data, which it drops.
    Draws are windows at random places (see ``WindowSampler``). Raises ``Dis2Error`` on opening as ``TileSource``
    does; on reading for a file that cannot be read, has changed, or holds unknown label codes.
    """

    def __init__(self, dataset_dir: str | Path, split: str, card: DatasetCard) -> None:
        self.dir = Path(dataset_dir)
        self.split = split
        self.card = card
        stored = DatasetCard.load(self.dir)
        check_same_card(self.dir, stored, card)
        check_split(self.dir, stored, split)
        self._index = SceneIndex.load(self.dir)
        if split not in self._index.parts or self._index.count(split) != stored.splits[split]:
            raise Dis2Error(f"{self.dir}: its card and its index disagree on split {split!r}: index it again")
        self._overlap = self._index.overlaps.get(split, 0)
        counts = [count_tiles(p.rect, card.tile, overlap=self._overlap) for p in self._parts]
        self._ends = list(itertools.accumulate(counts))
        self._sampler = WindowSampler([(p.rect, p.area) for p in self._parts], card.tile)
        self._dtypes = dict(zip(stored.modality_names, self._index.dtypes, strict=True))
        wanted = tuple(m for m in self._index.reading.modalities if m.name in card.modality_names)
        self._reading = dataclasses.replace(self._index.reading, modalities=wanted)
        self._pool = ScenePool(self._open)

    @property
    def draws(self) -> tuple[Draws, ...]:
        """As many windows as tiles fit into the valid area."""
        return (Draws(self._sampler.count),)

    @property
    def dtypes(self) -> dict[str, np.dtype]:
        """As the index says."""
        return {n: np.dtype(self._dtypes[n]) for n in self.card.modality_names}

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> StoredTile:
        part, window = self._locate(index)
        return self._stored(self._read(part, window, f"record {index}"), index)

    def draw(self, number: int, rng: np.random.Generator) -> StoredTile:
        """Read a random window; another one where it holds nothing to learn from, a few times over."""
        k, window = self._sampler.draw(number, rng)
        tile = self._read(self._parts[k], window, f"draw {number}")
        for _ in range(_REDRAWS):
            if tile.images and (tile.label != IGNORE).any():
                break
            k, window = self._sampler.at(rng.random(), rng)
            tile = self._read(self._parts[k], window, f"draw {number}")
        return self._stored(tile, number)

    def tile_id(self, index: int) -> str:
        """Return the name of a record: its scene and corner."""
        part, window = self._locate(index)
        return f"{self._index.scenes[part.scene].id}_y{window.row:05d}_x{window.col:05d}"

    def places(self) -> tuple[Place, ...]:
        """Where the records lie in their scenes."""
        found = []
        for i in range(len(self)):
            part, window = self._locate(i)
            found.append(Place(self._index.scenes[part.scene].id, *window.window))
        return tuple(found)

    def __getstate__(self) -> dict[str, Any]:
        return {
            k: v for k, v in self.__dict__.items() if k != "_pool"
        }  # open files do not travel to a worker

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._pool = ScenePool(self._open)

    @property
    def _parts(self) -> tuple[Part, ...]:
        return self._index.parts[self.split]

    def _locate(self, index: int) -> tuple[Part, Rect]:
        if not 0 <= index < len(self):
            raise IndexError(f"{self.dir}: split {self.split!r} has records 0..{len(self) - 1}, not {index}")
        k = bisect.bisect_right(self._ends, index)
        first = self._ends[k - 1] if k else 0
        part = self._parts[k]
        return part, nth_tile(part.rect, self.card.tile, index - first, overlap=self._overlap)

    def _open(self, scene: int) -> OpenScene:
        found = OpenScene(self._reading, self._index.files(scene))
        files = self._index.scenes[scene].files
        for name, header in found.headers.items():
            file = files[name]
            if file.differs(header):
                found.close()
                raise Dis2Error(
                    f"{file.path} of scene {found.files.id!r} is another file than when {self.dir} was indexed: "
                    "run `dis2 data index` again"
                )
        return found

    def _read(self, part: Part, window: Rect, what: str) -> Tile:
        try:
            with self._pool.borrow(part.scene) as scene:
                return scene.tile(window, self._dtypes)
        except Dis2Error as e:
            where = f"{what} of split {self.split!r} (row {window.row}, column {window.col})"
            raise Dis2Error(f"{e} [{where}]") from e

    def _stored(self, tile: Tile, index: int) -> StoredTile:
        blank = {m.name: np.zeros((*self.card.tile, m.channels), np.uint8) for m in self.card.modalities}
        return StoredTile(
            image={m: tile.images.get(m, blank[m]) for m in blank},
            label=tile.label,
            available=np.array([m.name in tile.images for m in self.card.modalities]),
            tile_id=tile.tile_id,
            index=index,
        )
