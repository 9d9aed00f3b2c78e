"""What the pipeline reads tiles from, whatever lies behind it: shards, scenes or a mixture of both."""

from __future__ import annotations

import dataclasses
from typing import Protocol, TypedDict

import numpy as np

from dis2_jax.data.places import Place
from dis2_jax.schema import DatasetCard, Dis2Error, nearest


class StoredTile(TypedDict):
    """One tile before augmentation and normalisation; the arrays may be read-only.

    ``image``: modality -> ``[H, W, C]`` in the stored dtype (filler where absent); ``label``: uint8 ``[H,
    W]``; ``available``: bool ``[M]`` in the card's order; ``tile_id``; ``index``: record number in the split.
    """

    image: dict[str, np.ndarray]
    label: np.ndarray
    available: np.ndarray
    tile_id: str
    index: int


@dataclasses.dataclass(frozen=True)
class Draws:
    """``count`` draw numbers that an epoch uses once each; ``weight``: their share of a training batch."""

    count: int
    weight: float = 1.0


class TileSet(Protocol):
    """The tiles of one split. May be read from several threads and sent to worker processes.

    Evaluation reads records ``0 .. len - 1``, each once. Training reads draws: numbers ``0 .. n - 1``, n the sum
    of the counts in ``draws``, that may be records or mean something that ``rng`` settles. Reading raises
    ``Dis2Error`` that names file and record.
    """

    @property
    def draws(self) -> tuple[Draws, ...]:
        """Groups of draw numbers, one after the other."""
        ...

    @property
    def dtypes(self) -> dict[str, np.dtype]:
        """Modality -> a dtype that holds all of its tiles exactly, those of the training above all."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> StoredTile: ...

    def draw(self, number: int, rng: np.random.Generator) -> StoredTile:
        """Read a training tile; the same one for the same number and state of ``rng``."""
        ...

    def tile_id(self, index: int) -> str:
        """Name of a record."""
        ...

    def places(self) -> tuple[Place, ...] | None:
        """Where the records lie in their scenes, in their order; None: not known."""
        ...


def check_same_card(folder: object, stored: DatasetCard, card: DatasetCard) -> None:
    """Raise ``Dis2Error`` for a card that is not (a selection of) the folder's own: a run on another dataset."""
    have = {m.name: m.channels for m in stored.modalities}
    for m in card.modalities:
        if m.name not in have:
            raise Dis2Error(
                f"{folder} has no modality {m.name!r}{nearest(m.name, have)}; it has {', '.join(have)}"
            )
        if m.channels != have[m.name]:
            raise Dis2Error(f"{folder}: modality {m.name!r} has {have[m.name]} channels, not {m.channels}")
    if card.legend.names != stored.legend.names:
        raise Dis2Error(
            f"{folder} has classes {', '.join(stored.legend.names)}, not {', '.join(card.legend.names)}: "
            "give the dataset that the run was made with"
        )
    if card.tile != stored.tile:
        raise Dis2Error(f"{folder} has tiles of {stored.tile}, not {card.tile}: load its own card")
    if [n for n in stored.modality_names if n in card.modality_names] != list(card.modality_names):
        raise Dis2Error(
            f"{folder} has modalities in the order {', '.join(stored.modality_names)}, "
            f"not {', '.join(card.modality_names)}"
        )


def check_split(folder: object, stored: DatasetCard, split: str) -> None:
    """Raise ``Dis2Error`` for a split that the dataset does not have or that is empty."""
    if split not in stored.splits:
        known = ", ".join(stored.splits) or "none"
        raise Dis2Error(f"{folder} has no split {split!r}{nearest(split, stored.splits)}; it has {known}")
    if stored.splits[split] == 0:
        raise Dis2Error(f"{folder}: split {split!r} is empty: prepare it with at least one tile")
