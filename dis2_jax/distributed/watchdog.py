"""A process that makes no progress ends itself: a hang of one process stops all others without a word."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import sys
import threading
import time
from collections.abc import Callable

from dis2_jax.distributed.exit_status import LOST

LONG = 6
"""How many times longer than a step compiling, a validation batch or writing a checkpoint may take."""
_BACKSTOP_SECONDS = 10.0


class Watchdog:
    """Ends the process with status ``LOST`` and all threads' stacks when ``expect`` is not called again in time.

    A thread watches, so that the message can name what was being done. Where native code keeps the interpreter's
    lock for good that thread cannot run; ``faulthandler``, which needs no lock, then ends the process (status 1)
    a few seconds later. ``seconds`` None or 0: nothing is watched. A context manager.
    """

    def __init__(
        self, seconds: float | None, *, who: str = "this process", end: Callable[[int], None] = os._exit
    ) -> None:
        self.seconds = seconds or None
        self._who, self._end = who, end
        self._changed = threading.Condition()
        self._what = ""
        self._allowed = 0.0
        self._deadline: float | None = None
        self._closed = False
        self._thread = threading.Thread(target=self._watch, name="dis2-watchdog", daemon=True)

    def __enter__(self) -> Watchdog:
        if self.seconds:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def expect(self, what: str, *, long: bool = False) -> None:
        """Progress was made; ``what`` comes next and may take ``seconds``, ``long`` ``LONG`` times as much."""
        if not self.seconds:
            return
        self._allowed = self.seconds * (LONG if long else 1)
        with self._changed:
            self._what, self._deadline = what, time.monotonic() + self._allowed
            self._changed.notify()
        faulthandler.dump_traceback_later(self._allowed + _BACKSTOP_SECONDS, exit=True)

    def close(self) -> None:
        """Watch no longer."""
        if not self.seconds:
            return
        with self._changed:
            self._closed = True
            self._changed.notify()
        faulthandler.cancel_dump_traceback_later()

    def _watch(self) -> None:
        with self._changed:
            while not self._closed:
                left = None if self._deadline is None else self._deadline - time.monotonic()
                if left is not None and left <= 0:
                    break
                self._changed.wait(left)
            if self._closed:
                return
        with contextlib.suppress(OSError, ValueError):
            print(
                f"dis2: error: {self._who}: no progress for {self._allowed:g} s in {self._what}: it is stuck, or waits"
                " for another process that is stuck or gone; ending. `dis2 train` goes on from the last checkpoint"
                " (--hang-seconds sets the limit). Where it stood:",
                file=sys.stderr,
                flush=True,
            )
            faulthandler.dump_traceback(all_threads=True)
        self._end(LOST)
