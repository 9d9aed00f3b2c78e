"""The same tiles as ``tfds.core.GeneratorBasedBuilder`` classes, for code that works the TFDS way.

``SyntheticCity(data_dir=..., file_format="array_record").download_and_prepare()`` needs no TensorFlow. These
builders shuffle in memory as TFDS does (less than 1000 MiB per split without TensorFlow, STACK.md) and write
no dataset card; training reads what ``dis2 data prepare`` writes, which has the same features and opens with
``tfds.builder_from_directory``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from dis2_jax.data.builders.features import record_features
from dis2_jax.data.builders.ombria import OmbriaOptions, find_ombria, ombria_spec, ombria_tiles
from dis2_jax.data.builders.synthetic_city import (
    SyntheticCityOptions,
    synthetic_city_spec,
    synthetic_city_tiles,
)
from dis2_jax.data.builders.tiles import DatasetSpec, Tile, record


class _TileBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
    """Shared part: a ``spec`` gives the features, tiles give the examples."""

    VERSION = tfds.core.Version("1.0.0")
    spec: DatasetSpec

    def _info(self) -> Any:
        return tfds.core.DatasetInfo(
            builder=self, description=self.spec.description, features=record_features(self.spec)
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[str, dict[str, Any]]]]:
        return {split: self._generate_examples(tiles) for split, tiles in self.tiles().items()}

    def _generate_examples(self, tiles: Iterable[Tile]) -> Iterator[tuple[str, dict[str, Any]]]:
        for tile in tiles:
            yield tile.tile_id, record(self.spec, tile)

    def tiles(self) -> dict[str, Iterable[Tile]]:
        """Return the tiles of each split."""
        raise NotImplementedError


class SyntheticCity(_TileBuilder, skip_registration=True):  # type: ignore[call-arg]
    """The embedded demo data."""

    def __init__(self, *, options: SyntheticCityOptions | None = None, **kwargs: Any) -> None:
        self.options = options or SyntheticCityOptions()
        self.spec = synthetic_city_spec(self.options)
        super().__init__(**kwargs)

    def tiles(self) -> dict[str, Iterable[Tile]]:
        """Draw the scenes of each split."""
        return {split: synthetic_city_tiles(self.options, split) for split in self.options.scenes}


class Ombria(_TileBuilder, skip_registration=True):  # type: ignore[call-arg]
    """OMBRIA from its original folders; ``source`` holds OmbriaS1 and OmbriaS2."""

    def __init__(self, *, source: str | Path, holdout: int = 48, **kwargs: Any) -> None:
        self.chips = find_ombria(OmbriaOptions(Path(source), holdout=holdout))
        self.spec = ombria_spec(self.chips)
        super().__init__(**kwargs)

    def tiles(self) -> dict[str, Iterable[Tile]]:
        """Read the chips of each split."""
        return {split: ombria_tiles(self.chips, split) for split in self.chips.ids}
