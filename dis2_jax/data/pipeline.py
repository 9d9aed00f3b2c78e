"""Prepared dataset -> numpy batches, with Grain.

The data position of a whole job is one integer, the number of global batches handed out. The tiles of batch
``i`` and everything random about them follow from (seed, i) alone, so a stream opened at any position, on any
number of hosts or workers, continues as one that never stopped. Two things keep it so: batching is part of
the random-access ``MapDataset`` (after it, batches would depend on the workers), and nothing is filtered.

Grain's own ``ElasticIterator`` is not used because it takes no ``worker_init_fn`` and deals single tiles
round the hosts; here host ``p`` of ``n`` gets rows ``p * B/n ...`` of each global batch, so the order inside
a batch is the same too.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
from collections.abc import Iterator, Sequence
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

import grain
import numpy as np

from dis2_jax.config import DataConfig
from dis2_jax.data.augment import Geometry, Window, crop_size, draw_geometry, photometric
from dis2_jax.data.batch import Batch
from dis2_jax.data.normalize import normalize, statistics
from dis2_jax.data.source import StoredTile, TileSource
from dis2_jax.schema import IGNORE, DatasetCard, Dis2Error

PREFETCH = 4
"""Batches made ahead of the training step, in each reader process."""


def open_train_stream(
    dataset_dir: str | Path,
    card: DatasetCard,
    data: DataConfig,
    *,
    seed: int,
    position: int = 0,
    process_index: int = 0,
    process_count: int = 1,
) -> TrainStream:
    """Open this host's share of the endless training batches, behind the first ``position`` global ones.

    An epoch is every tile of ``data.train_split`` once, or ``data.samples_per_epoch`` tiles drawn afresh
    without replacement, in a new random order each time. Batches run on over the end of an epoch: no tile is
    dropped and every batch is full. Where ``samples_per_epoch`` is not below the number of tiles, it only
    sets ``steps_per_epoch``.

    With ``data.workers`` above 0 tiles are made in that many spawned processes: the calling script needs the
    ``if __name__ == "__main__":`` guard, and the stream must be closed. Otherwise threads of this process
    make them.

    Raises ``Dis2Error`` for a dataset that cannot be read or disagrees with ``card`` (see ``TileSource``), a
    crop that does not fit, and a batch size that ``process_count`` does not divide.
    """
    local = _local_batch(data.batch_size, process_index, process_count, key="data.batch_size")
    if position < 0 or not 0 <= seed < 2**32:
        raise Dis2Error(
            f"data position {position} and seed {seed} must not be negative, the seed below 2**32"
        )
    source = TileSource(dataset_dir, data.train_split, card)
    crop_size(data, card.tile)
    _check_statistics(card, data)
    epoch = data.samples_per_epoch or len(source)
    tiles = grain.MapDataset.source(source).seed(seed).shuffle()
    if epoch < len(source):
        tiles = tiles[:epoch]
    batches = tiles.repeat().random_map(_TrainSample(card, data)).batch(local, drop_remainder=True)
    return TrainStream(
        batches[position * process_count + process_index :: process_count],
        workers=data.workers,
        position=position,
        steps_per_epoch=-(-epoch // data.batch_size),
    )


class TrainStream(Iterator[Batch]):
    """Endless iterator of one host's share ``[B / process_count, ...]`` of the global batches; close it.

    ``position``: global batches handed out so far. ``steps_per_epoch``: batches in an epoch, rounded up. Also
    a context manager. ``next`` raises ``Dis2Error`` when a shard turns out corrupt or a reader process was
    killed.
    """

    def __init__(self, batches: Any, *, workers: int, position: int, steps_per_epoch: int) -> None:
        self.position = position
        self.steps_per_epoch = steps_per_epoch
        self._workers = workers
        stream = batches.to_iter_dataset(_read_options())
        if workers:
            _parse_flags()
            options = grain.multiprocessing.MultiprocessingOptions(
                num_workers=workers, per_worker_buffer_size=max(1, PREFETCH // workers)
            )
            stream = stream.mp_prefetch(options, worker_init_fn=_ignore_signals)
        self._iterator = iter(stream)
        self._started = False

    def __iter__(self) -> TrainStream:
        return self

    def __next__(self) -> Batch:
        try:
            batch: Batch = self._first() if not self._started else next(self._iterator)
        except RuntimeError as e:
            if not self._workers or "terminated unexpectedly" not in str(e):
                raise
            raise Dis2Error(
                f"a reader process died ({e}): out of memory, or a script without an "
                "`if __name__ == '__main__':` guard? data.workers = 0 reads in this process"
            ) from e
        self.position += 1
        return batch

    def __enter__(self) -> TrainStream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop threads and reader processes. The stream cannot be used any more."""
        self._iterator.close()

    def _first(self) -> Batch:
        self._started = True
        with _signals_held() if self._workers else contextlib.nullcontext():
            batch: Batch = next(self._iterator)
        return batch


def eval_batches(
    dataset_dir: str | Path,
    card: DatasetCard,
    data: DataConfig,
    *,
    split: str,
    batch_size: int,
    process_index: int = 0,
    process_count: int = 1,
) -> Iterator[Batch]:
    """Return every tile of ``split`` once, in order, whole and unchanged, as batches of ``batch_size`` tiles.

    The last batch is filled up with padding rows (see ``Batch``). With several hosts each gets ``batch_size /
    process_count`` rows of every global batch, all of them the same number of batches. Same errors as
    ``open_train_stream``, raised here and not at the first batch.
    """
    local = _local_batch(batch_size, process_index, process_count, key="train.eval_batch_size")
    source = TileSource(dataset_dir, split, card)
    crop_size(dataclasses.replace(data, crop=(0, 0)), card.tile)
    _check_statistics(card, data)
    rows = -(-len(source) // batch_size) * batch_size
    tiles = grain.MapDataset.range(rows).map(_EvalSample(source, card, data))
    batches = tiles.batch(local, drop_remainder=True)[process_index::process_count]
    return _drain(batches.to_iter_dataset(_read_options()))


def load_batch(
    dataset_dir: str | Path, card: DatasetCard, data: DataConfig, *, split: str, indices: Sequence[int]
) -> Batch:
    """Return chosen tiles of ``split`` as one batch, prepared as ``eval_batches`` does; for pictures."""
    source = TileSource(dataset_dir, split, card)
    sample = _EvalSample(source, card, data)
    if not indices:
        raise Dis2Error("load_batch: give at least one tile index")
    for i in indices:
        if not 0 <= i < len(source):
            raise Dis2Error(f"{dataset_dir}: split {split!r} has tiles 0..{len(source) - 1}, not {i}")
    rows = [sample(i) for i in indices]
    return Batch(
        image={n: np.stack([r["image"][n] for r in rows]) for n in card.modality_names},
        label=np.stack([r["label"] for r in rows]),
        available=np.stack([r["available"] for r in rows]),
        valid=np.stack([r["valid"] for r in rows]),
        index=np.stack([r["index"] for r in rows]),
    )


@dataclasses.dataclass(frozen=True)
class _TrainSample:
    """Augment and normalise one tile; everything random comes from the record's own ``rng``."""

    card: DatasetCard
    data: DataConfig

    def __call__(self, tile: StoredTile, rng: np.random.Generator) -> Batch:
        geometry = draw_geometry(self.card.tile, self.data, rng)
        return _sample(tile, self.card, self.data, geometry, rng)


@dataclasses.dataclass(frozen=True)
class _EvalSample:
    """Row number -> whole normalised tile; rows behind the last tile are padding."""

    source: TileSource
    card: DatasetCard
    data: DataConfig

    def __call__(self, row: int) -> Batch:
        if row >= len(self.source):
            return _padding(self.card)
        height, width = self.card.tile
        whole = Window(top=0, left=0, height=height, width=width)
        return _sample(self.source[row], self.card, self.data, whole, rng=None)


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


def _local_batch(batch_size: int, process_index: int, process_count: int, *, key: str) -> int:
    if not 0 <= process_index < process_count:
        raise Dis2Error(f"process index {process_index} is not in 0..{process_count - 1}")
    if batch_size < 1 or batch_size % process_count:
        raise Dis2Error(f"config {key} = {batch_size}: it must be a multiple of the {process_count} hosts")
    return batch_size // process_count


def _check_statistics(card: DatasetCard, data: DataConfig) -> None:
    """Complain about a card without statistics now, not in a reader thread."""
    for m in card.modalities:
        if data.normalize == "card" or (data.photometric and m.kind == "optical"):
            statistics(m)


def _read_options() -> grain.ReadOptions:
    return grain.ReadOptions(num_threads=min(PREFETCH, os.cpu_count() or 1), prefetch_buffer_size=PREFETCH)


def _drain(batches: Any) -> Iterator[Batch]:
    iterator = iter(batches)
    try:
        yield from iterator
    finally:
        iterator.close()


def _parse_flags() -> None:
    """Grain's worker start-up reads absl flags; a program that never ran ``absl.app`` has not parsed them."""
    from absl import flags

    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()


def _ignore_signals(worker_index: int, worker_count: int) -> None:
    """Ctrl-C and a scheduler's SIGTERM reach the whole process group; the main process alone decides."""
    del worker_index, worker_count
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


@contextlib.contextmanager
def _signals_held() -> Iterator[None]:
    """Block SIGINT and SIGTERM here while workers start: they inherit that, until they ignore both."""
    resource_tracker.ensure_running()  # its first start would unblock both again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
