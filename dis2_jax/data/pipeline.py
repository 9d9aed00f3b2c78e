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

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import grain
import numpy as np

from dis2_jax.config import DataConfig
from dis2_jax.data.augment import crop_size
from dis2_jax.data.batch import Batch
from dis2_jax.data.normalize import statistics
from dis2_jax.data.opening import open_tiles
from dis2_jax.data.packed_batch import PackedTrainBatch
from dis2_jax.data.raw_batch import RawTrainBatch
from dis2_jax.data.samples import EvalBatch, TrainBatch, seeded
from dis2_jax.data.shared_batch import Receiver, SharedBatch
from dis2_jax.data.skips import SkipCount
from dis2_jax.data.stream import TrainStream, read_options
from dis2_jax.data.tileset import Draws, TileSet
from dis2_jax.schema import DatasetCard, Dis2Error


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

    An epoch is every draw of ``data.train_split`` (of a prepared dataset: every tile) once, or
    ``data.samples_per_epoch`` of them chosen afresh without replacement, in a new random order each time.
    Batches run on over the end of an epoch: no tile is dropped and every batch is full. Where
    ``samples_per_epoch`` is not below the number of draws, and for mixtures, it only sets ``steps_per_epoch``; each
    member of a mixture has epochs of its own.

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
    source = open_tiles(dataset_dir, data.train_split, card, kind=data.source)
    crop_size(data, card.tile)
    _check_statistics(card, data)
    numbers = draw_order(source.draws, seed=seed, samples=data.samples_per_epoch)
    make = train_batch(source, card, data)
    batches = numbers.random_map(seeded).batch(
        local, drop_remainder=True, batch_fn=SharedBatch(make) if data.workers else make
    )
    epoch = data.samples_per_epoch or sum(d.count for d in source.draws)
    return TrainStream(
        batches[position * process_count + process_index :: process_count],
        workers=data.workers,
        receiver=Receiver(make, local) if data.workers else None,
        position=position,
        steps_per_epoch=-(-epoch // data.batch_size),
        max_skips=data.max_skips,
    )


def check_train_data(
    dataset_dir: str | Path, card: DatasetCard, data: DataConfig, *, process_count: int = 1
) -> None:
    """Raise the ``Dis2Error`` that ``open_train_stream`` would, before minutes of compilation are spent."""
    _local_batch(data.batch_size, 0, process_count, key="data.batch_size")
    open_tiles(dataset_dir, data.train_split, card, kind=data.source)
    crop_size(data, card.tile)
    _check_statistics(card, data)


def train_batch(source: TileSet, card: DatasetCard, data: DataConfig) -> TrainBatch:
    """Return what makes a batch of draws, as ``data.augment`` wants it."""
    if data.augment == "device":
        return RawTrainBatch(source, card, data)
    return (PackedTrainBatch if data.workers else TrainBatch)(source, card, data)


def draw_order(draws: Sequence[Draws], *, seed: int, samples: int) -> grain.MapDataset:
    """Return the endless order of draw numbers; ``samples``: as ``data.samples_per_epoch``.

    Several groups are dealt out evenly by weight (Grain rounds weights to 1 % of the smallest), each in its own
    endless shuffle, so every stretch of the order has the right shares.
    """
    if len(draws) == 1:
        numbers = grain.MapDataset.range(draws[0].count).seed(seed).shuffle()
        return (numbers[:samples] if 0 < samples < draws[0].count else numbers).repeat()
    groups, start = [], 0
    for k, group in enumerate(draws):
        own = int(np.random.SeedSequence([seed, k]).generate_state(1)[0])
        groups.append(grain.MapDataset.range(start, start + group.count).shuffle(seed=own).repeat())
        start += group.count
    return grain.MapDataset.mix(groups, weights=[d.weight for d in draws]).seed(seed)


def eval_batches(
    dataset_dir: str | Path,
    card: DatasetCard,
    data: DataConfig,
    *,
    split: str,
    batch_size: int,
    process_index: int = 0,
    process_count: int = 1,
    order: Sequence[int] | None = None,
) -> Iterator[Batch]:
    """Return every tile of ``split`` once, in order, whole and unchanged, as batches of ``batch_size`` tiles.

    ``order``, a permutation of the record numbers, gives another order than that of the records.
    The last batch is filled up with padding rows (see ``Batch``). With several hosts each gets ``batch_size /
    process_count`` rows of every global batch, all of them the same number of batches. Same errors as
    ``open_train_stream``, raised here and not at the first batch.
    """
    local = _local_batch(batch_size, process_index, process_count, key="train.eval_batch_size")
    source = open_tiles(dataset_dir, split, card, kind=data.source)
    crop_size(dataclasses.replace(data, crop=(0, 0)), card.tile)
    _check_statistics(card, data)
    if order is not None and sorted(order) != list(range(len(source))):
        raise Dis2Error(f"eval_batches: order must name each of the {len(source)} records once")
    rows = -(-len(source) // batch_size) * batch_size
    batches = grain.MapDataset.range(rows).batch(
        local, drop_remainder=True, batch_fn=EvalBatch(source, card, data, order)
    )[process_index::process_count]
    return _drain(batches.to_iter_dataset(read_options()), SkipCount(data.max_skips))


def load_batch(
    dataset_dir: str | Path, card: DatasetCard, data: DataConfig, *, split: str, indices: Sequence[int]
) -> Batch:
    """Return chosen tiles of ``split`` as one batch, prepared as ``eval_batches`` does; for pictures."""
    source = open_tiles(dataset_dir, split, card, kind=data.source)
    if not indices:
        raise Dis2Error("load_batch: give at least one tile index")
    for i in indices:
        if not 0 <= i < len(source):
            raise Dis2Error(f"{dataset_dir}: split {split!r} has tiles 0..{len(source) - 1}, not {i}")
    return SkipCount(data.max_skips).take(EvalBatch(source, card, data)(indices))


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


def _drain(batches: Any, skips: SkipCount) -> Iterator[Batch]:
    iterator = iter(batches)
    try:
        yield from map(skips.take, iterator)
    finally:
        iterator.close()
