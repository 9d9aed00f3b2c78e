"""Running a Grain pipeline: threads or worker processes, signals, position."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import weakref
from collections.abc import Iterator
from multiprocessing import resource_tracker
from typing import Any

import grain

from dis2_jax.data.batch import Batch
from dis2_jax.data.cores import cores
from dis2_jax.data.memory import keep_freed_memory, resident_bytes
from dis2_jax.data.shared_batch import Receiver
from dis2_jax.data.skips import SkipCount
from dis2_jax.schema import Dis2Error

PREFETCH = 4
"""Batches made ahead of the training step, in each reader process."""


class TrainStream(Iterator[Batch]):
    """Endless iterator of one host's share ``[B / process_count, ...]`` of the global batches; close it.

    ``position``: global batches handed out so far. ``steps_per_epoch``: batches in an epoch, rounded up. Also
    a context manager. ``next`` raises ``Dis2Error`` when a tile cannot be read (or more than ``max_skips``,
    where unreadable tiles are skipped) or a reader process was killed. The process reuses the memory of earlier
    batches from here on (``keep_freed_memory``).
    """

    def __init__(
        self,
        batches: Any,
        *,
        workers: int,
        receiver: Receiver | None,
        position: int,
        steps_per_epoch: int,
        max_skips: int,
    ) -> None:
        self.position = position
        self.steps_per_epoch = steps_per_epoch
        self._skips = SkipCount(max_skips)
        self._workers = workers
        self._receiver = receiver
        keep_freed_memory()
        stream = batches.to_iter_dataset(read_options(workers=workers))
        if workers:
            _parse_flags()
            options = grain.multiprocessing.MultiprocessingOptions(
                num_workers=workers, per_worker_buffer_size=max(1, PREFETCH // workers)
            )
            stream = stream.mp_prefetch(options, worker_init_fn=_start_worker)
        self._running: list[Any] = [iter(stream)]
        self._at_exit = weakref.finalize(self, _end, self._running)
        self._started = False

    def __iter__(self) -> TrainStream:
        return self

    def __next__(self) -> Batch:
        if not self._running:
            raise ValueError("next on a closed train stream")
        try:
            made = self._first() if not self._started else next(self._running[0])
        except RuntimeError as e:
            if not self._workers or "terminated unexpectedly" not in str(e):
                raise
            raise Dis2Error(
                f"a reader process died ({e}): out of memory, or a script without an "
                "`if __name__ == '__main__':` guard? data.workers = 0 reads in this process"
            ) from e
        batch = self._skips.take(made if self._receiver is None else self._receiver(made))
        self.position += 1
        return batch

    def __enter__(self) -> TrainStream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop threads and reader processes. The stream cannot be used any more."""
        _end(self._running)
        self._at_exit.detach()
        if self._receiver is not None:
            self._receiver.close()

    def health(self) -> dict[str, float]:
        """What to log of the input pipeline: tiles skipped since the start, MiB of memory held on this host."""
        mib = {name: size / 2**20 for name, size in resident_bytes().items()}
        return {"skipped_tiles": float(self._skips.count), **{f"memory_mib/{k}": v for k, v in mib.items()}}

    def _first(self) -> Any:
        self._started = True
        with _signals_held() if self._workers else contextlib.nullcontext():
            return next(self._running[0])


def _end(running: list[Any]) -> None:
    """Close an iterator and let go of it: at the end of a program Grain prints tracebacks of those still there."""
    for iterator in running:  # still there after a Ctrl-C, for another try
        iterator.close()
    running.clear()


def read_options(*, workers: int = 0) -> grain.ReadOptions:
    """Threads that make whole batches ahead in each process that reads: the cores shared out, 1 to ``PREFETCH``."""
    threads = min(PREFETCH, -(-cores() // max(1, workers)))
    return grain.ReadOptions(num_threads=threads, prefetch_buffer_size=PREFETCH)


def _parse_flags() -> None:
    """Grain's worker start-up reads absl flags; a program that never ran ``absl.app`` has not parsed them."""
    from absl import flags

    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()


def _start_worker(worker_index: int, worker_count: int) -> None:
    """Ctrl-C and a scheduler's SIGTERM reach the whole process group; the main process alone decides."""
    del worker_index, worker_count
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    keep_freed_memory()
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A main process that was killed tells nobody; its readers would wait for it for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


@contextlib.contextmanager
def _signals_held() -> Iterator[None]:
    """Block SIGINT and SIGTERM here while workers start: they inherit that, until they ignore both."""
    # Batches that nobody fetched before ``close`` stay in shared memory until this process ends; the tracker
    # then removes them, and need not say so.
    sys.warnoptions.append(quiet := "ignore:resource_tracker:UserWarning")
    try:
        resource_tracker.ensure_running()  # its first start would unblock both again
    finally:
        sys.warnoptions.remove(quiet)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
