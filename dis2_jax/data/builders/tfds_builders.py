"""The same tiles as ``tfds.core.GeneratorBasedBuilder`` classes, for code that works the TFDS way.

``SyntheticCity(data_dir=..., file_format="array_record").download_and_prepare()`` needs no TensorFlow. These
builders shuffle in memory as TFDS does (less than 1000 MiB per split without TensorFlow, STACK.md) and write
no dataset card; training reads what ``dis2 data prepare`` writes, which has the same features and opens with
``tfds.builder_from_directory``.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from dis2_jax.data.builders.features import record_features
from dis2_jax.data.builders.ombria import OmbriaOptions, find_ombria
from dis2_jax.data.builders.scene_jobs import SceneDataset, tiles_of
from dis2_jax.data.builders.synthetic_city import SyntheticCity as City
from dis2_jax.data.builders.synthetic_city import SyntheticCityOptions
from dis2_jax.data.builders.tiles import record


class _TileBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
    """Any dataset that ``dis2 data prepare`` knows."""

    VERSION = tfds.core.Version("1.0.0")

    def __init__(self, dataset: SceneDataset, **kwargs: Any) -> None:
        self.dataset = dataset
        super().__init__(**kwargs)

    def _info(self) -> Any:
        spec = self.dataset.spec
        return tfds.core.DatasetInfo(
            builder=self, description=spec.description, features=record_features(spec)
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[str, dict[str, Any]]]]:
        splits = dict.fromkeys(job.split for job in self.dataset.jobs())
        return {split: self._generate_examples(split) for split in splits}

    def _generate_examples(self, split: str) -> Iterator[tuple[str, dict[str, Any]]]:
        for tile in tiles_of(self.dataset, split):
            yield tile.tile_id, record(self.dataset.spec, tile)


class SyntheticCity(_TileBuilder, skip_registration=True):  # type: ignore[call-arg]
    """The embedded demo data."""

    def __init__(self, *, options: SyntheticCityOptions | None = None, **kwargs: Any) -> None:
        super().__init__(City(options or SyntheticCityOptions()), **kwargs)


class Ombria(_TileBuilder, skip_registration=True):  # type: ignore[call-arg]
    """OMBRIA from its original folders; ``source`` holds OmbriaS1 and OmbriaS2."""

    def __init__(self, *, source: str | Path, holdout: int = 48, **kwargs: Any) -> None:
        super().__init__(find_ombria(OmbriaOptions(Path(source), holdout=holdout)), **kwargs)
