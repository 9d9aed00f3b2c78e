"""What a builder hands to ``dis2 data prepare``: a dataset as a list of jobs, and the tiles of each.

A job is the unit that is done in one process, kept when the run is killed, and made again when one of its inputs
has changed. It should take seconds to minutes: a scene, a part of a large one (``cutting.bands``), or some hundred
chips.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from dis2_jax.data.builders.tiles import DatasetSpec, Tile

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Job:
    """A scene or a bundle of chips of one split. Small: paths and rectangles, no arrays; its repr tells all of it.

    ``id`` is unique in its split. ``inputs`` are the files that ``tiles`` will read: they are checksummed into the
    card. ``detail`` is the builder's own (frozen dataclasses, tuples, numbers, text).
    """

    id: str
    split: str
    inputs: tuple[Path, ...] = ()
    detail: Any = None


@dataclasses.dataclass(frozen=True)
class Dropped:
    """In place of a tile that was cut and is not kept; counted by ``reason`` over all jobs.

    ``reason`` ends the sentence "N tiles were dropped: ...".
    """

    reason: str


@dataclasses.dataclass(frozen=True)
class Noted:
    """Something that the user should know of the job's inputs; counts of equal texts are summed over all jobs.

    ``text`` follows the number: "12 pixels of colour 1,2,3 are no class and were ignored".
    """

    text: str
    count: int = 1


class SceneDataset(Protocol):
    """A dataset that can be prepared. Picklable; ``jobs`` runs once, ``tiles`` in worker processes on any machine."""

    @property
    def spec(self) -> DatasetSpec:
        """What the dataset is."""

    @property
    def options(self) -> Any:
        """What decides the tiles besides the job; its repr tells all of it (frozen dataclasses do)."""

    @property
    def root(self) -> Path | None:
        """Folder that the card names inputs relative to; None where there are no inputs."""

    def jobs(self) -> Sequence[Job]:
        """Return all jobs, always in the same order, which is that of the records; ``train`` first.

        Raises ``Dis2Error`` for inputs that cannot be used.
        """

    def tile_count(self, job: Job) -> int:
        """Return how many tiles the job cuts, before any is dropped."""

    def tiles(self, job: Job) -> Iterator[Tile | Dropped | Noted]:
        """Yield the job's tiles, always the same in the same order. ``Dis2Error`` names a damaged file."""

    def notes(self) -> Sequence[str]:
        """Return what the user should know before any tile is read, a line each."""


def bundles(items: Sequence[T], *, size: int = 64) -> Iterator[tuple[T, ...]]:
    """Cut a list of small things, such as chips, into jobs' worth."""
    for start in range(0, len(items), size):
        yield tuple(items[start : start + size])


def tiles_of(dataset: SceneDataset, split: str) -> Iterator[Tile]:
    """Yield a split's tiles without preparing anything."""
    for job in dataset.jobs():
        if job.split == split:
            yield from (item for item in dataset.tiles(job) if isinstance(item, Tile))
