"""How much memory a job holds on this host."""

from __future__ import annotations

import ctypes
import multiprocessing
import os

import psutil

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
"""Of glibc's ``malloc.h``; 32 MiB is the largest threshold that it takes for single blocks."""


def resident_bytes() -> dict[str, int]:
    """Resident memory in bytes: ``main``, this process, and ``readers``, its child processes together.

    Pages that processes share count in each; a child that ends meanwhile counts as 0.
    """
    children = [p.pid for p in multiprocessing.active_children() if p.pid is not None]
    return {"main": _resident(os.getpid()), "readers": sum(map(_resident, children))}


def keep_freed_memory() -> None:
    """Let this process reuse the blocks of each tile instead of getting fresh ones; glibc only, else nothing.

    By default glibc returns freed megabytes to the system at once, in threads always: every tile then meets its
    memory page by page anew, which costs as much as decoding it. What is kept is bounded by what was in use at once.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):  # another C library
        return
    for parameter, size in ((_M_MMAP_THRESHOLD, 2**25), (_M_TRIM_THRESHOLD, 2**30)):
        mallopt(parameter, size)


def _resident(pid: int) -> int:
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.NoSuchProcess:
        return 0
