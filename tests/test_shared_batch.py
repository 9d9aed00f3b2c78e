"""Batches through blocks of shared memory that are used again and again."""

import dataclasses
import errno
import os
import pickle
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path

import numpy as np
import pytest
from test_packed_batch import CARD, Tiles

from dis2_jax.config import DataConfig
from dis2_jax.data.packed_batch import PackedTrainBatch
from dis2_jax.data.raw_batch import RawTrainBatch
from dis2_jax.data.samples import Draw, TrainBatch
from dis2_jax.data.shared_batch import Receiver, SharedBatch, _Layout
from dis2_jax.schema import Dis2Error

DATA = DataConfig(crop=(32, 16), photometric=0.1, rotate_degrees=10.0)


def draws(start):
    return [Draw(number % 4, seed=number) for number in range(start, start + 3)]


class Floats(Tiles):
    dtypes = dict.fromkeys(Tiles.dtypes, np.dtype("float32"))


@pytest.mark.parametrize("photometric", [0.1, 0.0])
@pytest.mark.parametrize("tiles", [Tiles, Floats])
@pytest.mark.parametrize("kind", [PackedTrainBatch, RawTrainBatch])
def test_what_comes_out_is_what_would_have_been_made_here(kind, tiles, photometric):
    data = dataclasses.replace(DATA, photometric=photometric)
    make = kind(tiles(), CARD, data)
    plain = TrainBatch(tiles(), CARD, data) if kind is PackedTrainBatch else make
    send, receive = SharedBatch(make), Receiver(make, 3)
    kept = []
    for start in range(6):
        kept.append(receive(send(draws(start))))
        np.testing.assert_equal(kept[-1], plain(draws(start)))
    np.testing.assert_equal(kept[0], plain(draws(0)))  # copied: the block was used five times since
    assert len(receive._blocks) == len(send._blocks) == 1


def test_batches_that_wait_keep_their_blocks():
    make = PackedTrainBatch(Tiles(), CARD, DATA)
    send, receive = SharedBatch(make), Receiver(make, 3)
    names = [send(draws(start)) for start in range(4)]
    assert len(set(names)) == 4
    for start, name in enumerate(names):
        np.testing.assert_equal(receive(name), TrainBatch(Tiles(), CARD, DATA)(draws(start)))
    assert send(draws(0)) in names
    if Path("/dev/shm").is_dir():
        assert not [name for name in names if Path("/dev/shm", name.lstrip("/")).exists()]


def test_a_batch_that_fails_gives_its_block_back():
    class Broken(Tiles):
        def draw(self, number, rng):
            if number == 2:
                raise Dis2Error("record 2 is corrupt")
            return super().draw(number, rng)

    send = SharedBatch(PackedTrainBatch(Broken(), CARD, DATA))
    for _ in range(3):
        with pytest.raises(Dis2Error, match="record 2"):
            send(draws(0))
    assert len(send._blocks) == 1
    assert not send._blocks[0].taken


def test_readers_start_with_blocks_of_their_own():
    send = SharedBatch(PackedTrainBatch(Tiles(), CARD, DATA))
    send(draws(0))
    other = pickle.loads(pickle.dumps(send))
    assert other._blocks == []


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="Linux only")
def test_too_little_shared_memory_is_told(monkeypatch):
    def full(number, start, size):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    made = []
    plain = SharedMemory.unlink
    monkeypatch.setattr(SharedMemory, "unlink", lambda self: (made.append(self.name), plain(self)))
    send = SharedBatch(PackedTrainBatch(Tiles(), CARD, DATA))
    with pytest.raises(
        Dis2Error, match=r"no room for a batch of 1 MiB \(No space left on device\): .*--shm-size"
    ):
        send(draws(0))
    assert len(made) == 1
    assert not Path("/dev/shm", made[0].lstrip("/")).exists()
    assert send._blocks == []


def test_blocks_are_laid_out_beyond_four_gibibytes():
    """Arrays that nobody writes cost nothing."""
    rows = {"a": np.empty((3, 2**30), np.uint8), "b": {"c": np.empty(2**30, np.float32), "d": np.empty(5)}}
    layout = _Layout(rows)
    assert layout.size == 64 + 3 * 2**30 + 4 * 2**30 + 64
    starts = [layout.places["a"].start, layout.places["b"]["c"].start, layout.places["b"]["d"].start]
    assert starts == [64, 64 + 3 * 2**30, 64 + 7 * 2**30]
