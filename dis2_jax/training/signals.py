"""Ctrl-C and SIGTERM as a wish that the loop grants after the step, the same step on every process."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

import jax
from jax.experimental import multihost_utils


class StopRequest:
    """Context manager that notes the first SIGINT or SIGTERM; a second Ctrl-C raises ``KeyboardInterrupt``.

    One process: own handlers, in the main thread. Several: JAX's preemption notice has SIGTERM already, and
    all processes agree on the step; our SIGINT handler hands Ctrl-C on as SIGTERM. ``received``: its number.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self.received: int | None = None
        self._say = say
        self._polls = 0
        self._agreed = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            ours = (signal.SIGINT, signal.SIGTERM) if jax.process_count() == 1 else (signal.SIGINT,)
            self._before = {s: signal.signal(s, self._note) for s in ours}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def reached(self) -> bool:
        """Whether to stop now. With several processes all must call this equally often."""
        if jax.process_count() > 1:
            self._polls += 1
            # True at one poll only, so it is kept.
            if not self._agreed and multihost_utils.reached_preemption_sync_point(self._polls):
                self._agreed, self.received = True, self.received or signal.SIGTERM
            return self._agreed
        return self.received is not None

    def _note(self, number: int, frame: FrameType | None) -> None:
        del frame
        if self.received is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        first, self.received = self.received is None, self.received or number
        if jax.process_count() > 1:
            os.kill(os.getpid(), signal.SIGTERM)
        if first:
            with contextlib.suppress(OSError, RuntimeError):  # printing from a handler may meet itself
                self._say(
                    f"{signal.Signals(number).name}: saving after this step (Ctrl-C again: stop at once)"
                )
