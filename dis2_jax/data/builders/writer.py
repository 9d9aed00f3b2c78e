"""Tiles that Python code has at hand -> a prepared dataset, without source files and without resuming."""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from dis2_jax.data.builders.features import DEFAULT_ENCODING, Encoding
from dis2_jax.data.builders.scene_jobs import Job
from dis2_jax.data.builders.tiles import DatasetSpec, Tile
from dis2_jax.data.prepare import prepare
from dis2_jax.data.preparing.shards import SHARD_BYTES
from dis2_jax.schema import DatasetCard


def write_dataset(
    spec: DatasetSpec,
    splits: Mapping[str, Iterable[Tile]],
    out: str | Path,
    *,
    overwrite: bool = False,
    shard_bytes: int = SHARD_BYTES,
    encoding: Encoding = DEFAULT_ENCODING,
) -> DatasetCard:
    """Write all tiles of all splits, one at a time in their order, to the folder ``out`` and return its card.

    Raises what ``prepare`` raises.
    """
    dataset = _GivenTiles(spec, splits, uuid.uuid4().hex)
    return prepare(dataset, out, overwrite=overwrite, shard_bytes=shard_bytes, encoding=encoding).card


@dataclasses.dataclass(frozen=True)
class _GivenTiles:
    """A ``SceneDataset`` with a job per split."""

    spec: DatasetSpec
    splits: Mapping[str, Iterable[Tile]]
    options: str
    """Unlike any other: nobody can tell whether a killed call had the same tiles."""
    root: None = None

    def jobs(self) -> list[Job]:
        return [Job(id=split, split=split) for split in self.splits]

    def tile_count(self, job: Job) -> int:
        return 0

    def tiles(self, job: Job) -> Iterator[Tile]:
        yield from self.splits[job.split]

    def notes(self) -> tuple[str, ...]:
        return ()
