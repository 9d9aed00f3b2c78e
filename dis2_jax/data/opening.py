"""Open a split of any dataset folder: prepared shards, an index of scenes, or a mixture."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from dis2_jax.data.mixture.recipe import MIXTURE_FILE
from dis2_jax.data.mixture.source import MixtureSource
from dis2_jax.data.scenes.index import INDEX_FILE
from dis2_jax.data.scenes.source import SceneSource
from dis2_jax.data.source import TileSource
from dis2_jax.data.tileset import TileSet
from dis2_jax.schema import DatasetCard, Dis2Error

Kind = Literal["prepared", "scenes", "mixture"]

_MADE_BY = {
    "prepared": "`dis2 data prepare`",
    "scenes": "`dis2 data index`",
    "mixture": "`dis2 data mix`",
}


def kind_of(dataset_dir: str | Path) -> Kind:
    """Tell by its files what a dataset folder is."""
    if (Path(dataset_dir) / INDEX_FILE).is_file():
        return "scenes"
    return "mixture" if (Path(dataset_dir) / MIXTURE_FILE).is_file() else "prepared"


def open_tiles(
    dataset_dir: str | Path, split: str, card: DatasetCard, *, kind: Kind | Literal["auto"] = "auto"
) -> TileSet:
    """Open a split; ``card`` may be a selection of the dataset's modalities.

    Raises ``Dis2Error`` when the folder is not of the ``kind`` wanted (``data.source``), the split is unknown or
    empty, the card is another dataset's, or files are missing or damaged.
    """
    found = kind_of(dataset_dir)
    if kind not in ("auto", found) and Path(dataset_dir).is_dir():
        raise Dis2Error(
            f"config data.source = {kind!r}, but {dataset_dir} was made by {_MADE_BY[found]}: make it with"
            f" {_MADE_BY[kind]}, or set data.source = 'auto'"
        )
    if found == "scenes":
        return SceneSource(dataset_dir, split, card)
    if found == "mixture":
        return MixtureSource(dataset_dir, split, card)
    return TileSource(dataset_dir, split, card)
