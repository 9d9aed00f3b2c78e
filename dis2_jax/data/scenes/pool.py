"""Open scenes, lent to one thread at a time; few files stay open."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator

from dis2_jax.data.scenes.opened import OpenScene

MAX_OPEN_FILES = 128
"""Files of idle scenes kept open per process, below the usual limit of 1024 and of many GDAL handles."""


class ScenePool:
    """Opens scenes by number with ``opener`` and keeps those used last.

    GDAL's handles belong to one thread at a time, so a scene that two threads read is open twice.
    """

    def __init__(self, opener: Callable[[int], OpenScene], *, max_files: int = MAX_OPEN_FILES) -> None:
        self._opener = opener
        self._max_files = max_files
        self._idle: list[tuple[int, OpenScene]] = []
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def borrow(self, scene: int) -> Iterator[OpenScene]:
        """Lend a scene; it goes back unless the block fails (its handles may be spoilt then)."""
        found = self._take(scene) or self._opener(scene)
        try:
            yield found
        except BaseException:
            found.close()
            raise
        for old in self._give_back(scene, found):
            old.close()

    def _take(self, scene: int) -> OpenScene | None:
        with self._lock:
            for i, (number, _) in enumerate(self._idle):
                if number == scene:
                    return self._idle.pop(i)[1]
        return None

    def _give_back(self, scene: int, found: OpenScene) -> list[OpenScene]:
        """Return the scenes to close: those unused for longest."""
        with self._lock:
            self._idle.append((scene, found))
            surplus = sum(s.count for _, s in self._idle) - self._max_files
            gone: list[OpenScene] = []
            while surplus > 0 and len(self._idle) > 1:
                gone.append(self._idle.pop(0)[1])
                surplus -= gone[-1].count
            return gone
