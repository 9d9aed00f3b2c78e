"""The tiles of a mixture, as one split of one dataset."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np

from dis2_jax.data.mixture.member import MemberTiles, locate
from dis2_jax.data.mixture.recipe import Mixture, member_split
from dis2_jax.data.places import Place
from dis2_jax.data.tileset import Draws, StoredTile, check_same_card, check_split
from dis2_jax.schema import DatasetCard, Dis2Error


class MixtureSource:
    """One split of a folder that ``dis2 data mix`` wrote, a ``TileSet``: the members' tiles one after the other.

    Splits are ``train``, ``validation``, ``test``, and of each one member alone, such as ``test-ombria``. Raises
    ``Dis2Error`` on opening as ``TileSource`` does, and for a member that moved or changed.
    """

    def __init__(self, dataset_dir: str | Path, split: str, card: DatasetCard) -> None:
        self.dir = Path(dataset_dir)
        self.split = split
        self.card = card
        stored = DatasetCard.load(self.dir)
        check_same_card(self.dir, stored, card)
        check_split(self.dir, stored, split)
        self._members = [
            MemberTiles(self.dir / m.dir, m, base, card)
            for m in Mixture.load(self.dir).members
            for base in DatasetCard.load(self.dir / m.dir).splits
            if split in (base, member_split(base, m.name))
        ]
        self._ends = list(itertools.accumulate(map(len, self._members)))
        self._draw_ends = list(itertools.accumulate(m.draw_count for m in self._members))
        if not self._ends or self._ends[-1] != stored.splits[split]:
            raise Dis2Error(f"{self.dir}: split {split!r} is not what it was: run `dis2 data mix` again")

    @property
    def draws(self) -> tuple[Draws, ...]:
        """One group per member."""
        return tuple(Draws(m.draw_count, m.member.weight) for m in self._members)

    @property
    def dtypes(self) -> dict[str, np.dtype]:
        """What holds the values of every member."""
        found: dict[str, np.dtype] = {}
        for member in self._members:
            for name, dtype in member.dtypes.items():
                found[name] = np.result_type(found.get(name, dtype), dtype)
        return {m.name: found.get(m.name, np.dtype(np.uint8)) for m in self.card.modalities}

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> StoredTile:
        if not 0 <= index < len(self):
            raise IndexError(f"{self.dir}: split {self.split!r} has records 0..{len(self) - 1}, not {index}")
        k, own = locate(self._ends, index)
        return StoredTile(**{**self._members[k].record(own), "index": index})

    def draw(self, number: int, rng: np.random.Generator) -> StoredTile:
        """Read a random window of a member's tile."""
        k, own = locate(self._draw_ends, number)
        return StoredTile(**{**self._members[k].draw(own, rng), "index": number})

    def tile_id(self, index: int) -> str:
        """Return the name of a record, which starts with its member's."""
        k, own = locate(self._ends, index)
        return self._members[k].tile_id(own)

    def places(self) -> tuple[Place, ...] | None:
        """Where the records lie in their scenes; None unless every member knows."""
        found = [m.places() for m in self._members]
        return tuple(itertools.chain.from_iterable(p for p in found if p)) if all(found) else None
