"""How much memory a job holds on this host."""

from __future__ import annotations

import multiprocessing
import os

import psutil


def resident_bytes() -> dict[str, int]:
    """Resident memory in bytes: ``main``, this process, and ``readers``, its child processes together.

    Pages that processes share count in each; a child that ends meanwhile counts as 0.
    """
    children = [p.pid for p in multiprocessing.active_children() if p.pid is not None]
    return {"main": _resident(os.getpid()), "readers": sum(map(_resident, children))}


def _resident(pid: int) -> int:
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.NoSuchProcess:
        return 0
