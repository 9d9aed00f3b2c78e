"""Batches on their way out of reader processes, in shared memory that is filled again and again.

Fresh shared memory costs more than the pixel work that is done in it: the system hands it out page by page, in both
processes. So each reader keeps its blocks. What travels is the name of a block, and the main process gives the block
back once it has copied the batch. Messages so short go through a pipe whole or not at all: of a long one a reader
that is killed leaves half, and the main process would wait for the rest for ever.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from typing import Any, cast

import numpy as np

from dis2_jax.data.batch import Rows
from dis2_jax.data.samples import Draw, TrainBatch
from dis2_jax.schema import Dis2Error

_MEMORY = Path("/dev/shm")
"""Where Linux keeps shared memory; containers often give it 64 MiB."""


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

    def _take(self, count: int) -> _Block:
        with self._lock:
            block = next((b for b in self._blocks if not b.taken), None)
            if block is None:
                layout = _layout(self._make, count)
                block = _Block(_new_memory(layout.itemsize), layout)
                self._blocks.append(block)
            block.taken = True
            return block


class Receiver:
    """Block names -> batches of this process's own memory; the other end of ``SharedBatch``. Close it."""

    def __init__(self, make: TrainBatch, count: int) -> None:
        self._make = make
        self._layout = _layout(make, count)
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
    """Rows in shared memory, and whether they wait to be copied."""

    def __init__(self, memory: SharedMemory, layout: np.dtype) -> None:
        # What looks into the memory is named first: it is let go of before the memory, which complains otherwise.
        self._record = np.ndarray((), layout, buffer=memory.buf)
        self.rows = cast(Rows, _fields(self._record["rows"]))
        self._memory = memory
        self.name = memory.name

    @property
    def taken(self) -> bool:
        return bool(self._record["taken"])

    @taken.setter
    def taken(self, value: bool) -> None:
        self._record["taken"] = value


def _layout(make: TrainBatch, count: int) -> np.dtype:
    """Return the record that a block is: the same one in both processes."""
    return np.dtype([("taken", np.bool_), ("rows", _record_type(make.empty(count)))], align=True)


def _record_type(rows: Any) -> np.dtype:
    fields = [(k, _record_type(v)) if isinstance(v, dict) else (k, v.dtype, v.shape) for k, v in rows.items()]
    return np.dtype(fields, align=True)


def _fields(record: np.ndarray) -> Any:
    """Return the arrays of a record as the nested dictionaries that its type was made of."""
    if record.dtype.names is None:
        return record
    return {k: _fields(record[k]) for k in record.dtype.names}


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
