"""Batches on their way out of reader processes, in shared memory that is filled again and again.

Fresh shared memory costs more than the pixel work that is done in it: the system hands it out page by page, in both
processes. So each reader keeps its blocks. What travels is the name of a block, and the main process gives the block
back once it has copied the batch. Messages so short go through a pipe whole or not at all: of a long one a reader
that is killed leaves half, and the main process would wait for the rest for ever.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import threading
from collections.abc import Sequence
from multiprocessing.shared_memory import SharedMemory
from multiprocessing.util import Finalize
from pathlib import Path
from typing import Any, cast

import numpy as np

from dis2_jax.data.batch import Rows
from dis2_jax.data.samples import Draw, TrainBatch
from dis2_jax.schema import Dis2Error

_MEMORY = Path("/dev/shm")
"""Where Linux keeps shared memory; containers often give it 64 MiB."""
_ALIGNED = 64
"""Bytes: arrays start at multiples of it."""


class SharedBatch:
    """Draws -> the name of a block of shared memory that holds the batch; for reader processes.

    A batch takes a block that is free, or a new one: there are as many as batches wait for the main process at once,
    which Grain's buffers bound. Raises ``Dis2Error`` where shared memory runs out.
    """

    def __init__(self, make: TrainBatch) -> None:
        self._make = make
        self._start()

    def __call__(self, draws: Sequence[Draw]) -> str:
        """Make the batch, and return where."""
        block = self._take(len(draws))
        try:
            self._make.fill(block.rows, draws)
        except BaseException:
            block.taken = False
            raise
        return block.name

    def __getstate__(self) -> dict[str, Any]:
        return {"_make": self._make}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._start()

    def _start(self) -> None:
        self._blocks: list[_Block] = []
        self._lock = threading.Lock()
        # When the reader ends: of batches that were made and never fetched nobody else knows the names.
        Finalize(self, _unlink, args=(self._blocks,), exitpriority=1)

    def _take(self, count: int) -> _Block:
        with self._lock:
            block = next((b for b in self._blocks if not b.taken), None)
            if block is None:
                layout = _Layout(self._make.empty(count))
                block = _Block(_new_memory(layout.size), layout)
                self._blocks.append(block)
            block.taken = True
            return block


class Receiver:
    """Block names -> batches of this process's own memory; the other end of ``SharedBatch``. Close it."""

    def __init__(self, make: TrainBatch, count: int) -> None:
        self._make = make
        self._layout = _Layout(make.empty(count))
        self._blocks: dict[str, _Block] = {}

    def __call__(self, name: str) -> Rows:
        """Copy the batch out of its block, and give the block back."""
        block = self._blocks.get(name)
        if block is None:
            memory = SharedMemory(name)
            memory.unlink()  # it lasts as long as a process has it open, and is left by none
            block = self._blocks[name] = _Block(memory, self._layout)
        rows = self._make.copied(block.rows)
        block.taken = False
        return rows

    def close(self) -> None:
        """Let go of the blocks."""
        self._blocks.clear()


class _Block:
    """Rows in shared memory, and whether they wait to be copied. Nothing protects rows that outlive it."""

    def __init__(self, memory: SharedMemory, layout: _Layout) -> None:
        self.rows = cast(Rows, layout.of(memory))
        self._taken = np.ndarray((), np.bool_, buffer=memory.buf)
        self._memory = memory
        self.name = memory.name

    @property
    def taken(self) -> bool:
        """The first byte. A reader alone sets it, the main process alone clears it, both in between Python's locks."""
        return bool(self._taken)

    @taken.setter
    def taken(self, value: bool) -> None:
        self._taken[...] = value

    def unlink(self) -> None:
        """Take the name away, where the main process has not."""
        with contextlib.suppress(FileNotFoundError):
            self._memory.unlink()


@dataclasses.dataclass(frozen=True)
class _Place:
    start: int
    shape: tuple[int, ...]
    dtype: np.dtype


class _Layout:
    """Where the arrays of a batch lie in a block: the same in both processes."""

    def __init__(self, rows: Any) -> None:
        self.size = _ALIGNED  # behind the byte that says whether it is taken
        self.places = self._put(rows)

    def of(self, memory: SharedMemory) -> Any:
        """Return the arrays in ``memory``, in nested dictionaries as those it was made of."""
        return _views(self.places, memory)

    def _put(self, rows: Any) -> Any:
        if isinstance(rows, dict):
            return {k: self._put(v) for k, v in rows.items()}
        place = _Place(self.size, rows.shape, rows.dtype)
        self.size += -(-rows.nbytes // _ALIGNED) * _ALIGNED
        return place


def _views(places: Any, memory: SharedMemory) -> Any:
    if isinstance(places, dict):
        return {k: _views(v, memory) for k, v in places.items()}
    return np.ndarray(places.shape, places.dtype, buffer=memory.buf, offset=places.start)


def _unlink(blocks: list[_Block]) -> None:
    for block in blocks:
        block.unlink()


def _new_memory(size: int) -> SharedMemory:
    memory = SharedMemory(create=True, size=size)
    file = _MEMORY / memory.name.lstrip("/")
    try:
        if file.is_file():  # else another system than Linux
            with file.open("r+b") as f:
                # All of it now: writing to pages that turn out not to be there ends the process without a word.
                os.posix_fallocate(f.fileno(), 0, size)
    except OSError as e:
        memory.unlink()
        raise Dis2Error(
            f"{_MEMORY} has no room for a batch of {-(-size // 2**20)} MiB ({e.strerror}): give the container more "
            "(docker: --shm-size), lower data.workers or data.batch_size, or read in threads, data.workers = 0"
        ) from e
    return memory
