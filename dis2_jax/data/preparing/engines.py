"""Where jobs run: in this process, or in several of this machine. ``dask_engine`` goes beyond it."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Sequence
from concurrent.futures.process import BrokenProcessPool
from typing import Any, Protocol, TypeVar

from dis2_jax.data.cores import cores
from dis2_jax.schema import Dis2Error

Item = TypeVar("Item")
Result = TypeVar("Result")


class WorkerDied(Dis2Error):
    """A worker process ended without a word: which processes of this machine, or which item it was at."""

    def __init__(self, message: str, *, pids: Sequence[int] = (), item: Any = None) -> None:
        super().__init__(message)
        self.pids = tuple(pids)
        self.item = item


class Engine(Protocol):
    """Something that calls a function on many items, each at least once."""

    @property
    def elsewhere(self) -> bool:
        """Whether functions and items are pickled on their way."""

    def run(self, task: Callable[[Item], Result], items: Sequence[Item]) -> Generator[Result, None, None]:
        """Yield the results as they come, in any order; closing it, or the first error, ends everything."""


@dataclasses.dataclass(frozen=True)
class InProcess:
    """One after the other, here."""

    elsewhere: bool = False

    def run(self, task: Callable[[Item], Result], items: Sequence[Item]) -> Generator[Result, None, None]:
        """Yield the results in order."""
        yield from map(task, items)


@dataclasses.dataclass(frozen=True)
class Processes:
    """Worker processes on this machine. They end with this one, however it ends."""

    workers: int
    elsewhere: bool = True

    def run(self, task: Callable[[Item], Result], items: Sequence[Item]) -> Generator[Result, None, None]:
        """Yield the results as they come. Raises ``WorkerDied`` when a process is killed."""
        others = set(multiprocessing.active_children())
        own: set[Any] = set()
        executor = concurrent.futures.ProcessPoolExecutor(
            min(self.workers, max(len(items), 1)),
            mp_context=multiprocessing.get_context("spawn"),  # forking a process with threads may hang
            initializer=_begin_worker,
        )
        waiting: set[concurrent.futures.Future[Result]] = set()
        left = iter(items)
        try:
            while True:
                for item in left:
                    waiting.add(executor.submit(task, item))
                    own |= set(multiprocessing.active_children()) - others
                    if len(waiting) >= 2 * self.workers:  # a short queue: nothing to cancel, little in memory
                        break
                if not waiting:
                    break
                done, waiting = concurrent.futures.wait(
                    waiting, return_when=concurrent.futures.FIRST_COMPLETED
                )
                for future in done:
                    yield future.result()
            executor.shutdown()
        except BrokenProcessPool as e:
            raise _died(own) from e
        finally:  # after an error or Ctrl-C nobody wants what the others are at
            for process in own:
                process.terminate()
            executor.shutdown(cancel_futures=True)


def local_engine(workers: int | None) -> Engine:
    """Return the engine for a number of processes; None: all cores, 0 and 1: this process."""
    if workers is not None and workers < 0:
        raise Dis2Error(f"--workers {workers}: it must be at least 0 (0 and 1: no further process)")
    count = cores() if workers is None else workers
    return Processes(count) if count > 1 else InProcess()


def _begin_worker() -> None:
    """Leave Ctrl-C to the main process, and end when that is killed: the pipes between them would not tell."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: Any) -> None:
    parent.join()
    os._exit(1)


def _died(processes: set[Any]) -> WorkerDied:
    """Find the culprit: the pool ends the other processes itself, with SIGTERM."""
    for p in processes:
        p.join(timeout=10)
    odd = [p for p in processes if p.exitcode not in (0, None, -signal.SIGTERM)]
    how = ""
    if odd:
        code = odd[0].exitcode
        how = f" (killed by {signal.Signals(-code).name})" if code < 0 else f" (exit status {code})"
    return WorkerDied(f"a worker process died{how}", pids=[p.pid for p in odd])
