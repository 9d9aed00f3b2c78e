"""An error of one process told by all; text from all processes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import jax
import numpy as np
from jax.experimental import multihost_utils

from dis2_jax.files import no_room
from dis2_jax.schema import Dis2Error

_BLOCK = 256


class JointError(Dis2Error):
    """A ``Dis2Error`` that every process of the job raises at the same place: all can leave in order."""


def several() -> bool:
    """Whether this is one process of several; does not wake the devices of a single one."""
    return jax.distributed.is_initialized() and jax.process_count() > 1


@contextlib.contextmanager
def jointly() -> Iterator[None]:
    """Raise a ``Dis2Error`` of the block on every process, with the numbers of those that it came from.

    A full disk counts as one. Every process must enter it. Other errors pass as they are: the others learn that this
    process is gone. Nothing changes in a job of one process.
    """
    if not several():
        yield
        return
    error: Dis2Error | None = None
    try:
        yield
    except JointError:
        raise
    except Dis2Error as e:
        error = e
    except OSError as e:
        error = no_room(e)
        if error is None:
            raise
    told = gather_texts(str(error) if error is not None else "")
    if any(told):
        raise JointError(_summary(told)) from error


def gather_texts(text: str) -> tuple[str, ...]:
    """Return the texts of all processes, by number. Every process must call it."""
    if not several():
        return (text,)
    raw = np.frombuffer(text.encode(), np.uint8)
    sizes = multihost_utils.process_allgather(np.int32(len(raw)))
    padded = np.zeros(-(-max(1, int(sizes.max())) // _BLOCK) * _BLOCK, np.uint8)
    padded[: len(raw)] = raw
    rows = multihost_utils.process_allgather(padded)
    return tuple(row[:size].tobytes().decode() for row, size in zip(rows, sizes, strict=True))


def agreed(flag: bool) -> bool:
    """Process 0's answer, on every process."""
    if not several():
        return flag
    return bool(multihost_utils.broadcast_one_to_all(np.int32(flag)))


def name_processes(numbers: list[int]) -> str:
    """Write ``process 3`` or ``processes 0-2, 5``."""
    runs: list[list[int]] = []
    for n in sorted(numbers):
        if runs and n == runs[-1][1] + 1:
            runs[-1][1] = n
        else:
            runs.append([n, n])
    text = ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)
    return f"process{'es' if len(numbers) > 1 else ''} {text}"


def _summary(told: tuple[str, ...]) -> str:
    by_text: dict[str, list[int]] = {}
    for i, text in enumerate(told):
        if text:
            by_text.setdefault(text, []).append(i)
    return "; ".join(f"{name_processes(numbers)}: {text}" for text, numbers in by_text.items())
