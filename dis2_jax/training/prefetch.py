"""Move batches to the device while the previous step runs."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

Host = TypeVar("Host")
Device = TypeVar("Device")


class DevicePrefetch(Iterator[Device], Generic[Host, Device]):
    """Iterator over ``put(x)`` for ``x`` in ``iterator``, made ahead by one thread: ``size`` ready and one at hand.

    An exception in ``iterator`` or ``put`` is raised by the ``next`` that would have returned that element,
    and again by every later one. ``taken`` counts the elements handed out: with a ``TrainStream`` behind it,
    *its* ``position`` runs ahead, and the job's data position is the stream's first one + ``taken``.
    ``close`` (or leaving the ``with`` block) stops and joins the thread; it does not close ``iterator``.
    """

    def __init__(self, iterator: Iterator[Host], put: Callable[[Host], Device], *, size: int = 2) -> None:
        if size < 1:
            raise ValueError(f"size must be at least 1, not {size}")
        self.taken = 0
        self._ready: queue.Queue[Device | _Failed] = queue.Queue(maxsize=size)
        self._failed: _Failed | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(
            target=self._fill, args=(iterator, put), name="dis2-device-prefetch", daemon=True
        )
        self._thread.start()

    def __iter__(self) -> DevicePrefetch[Host, Device]:
        return self

    def __next__(self) -> Device:
        if self._failed is None:
            if self._stop.is_set():
                raise ValueError("next on a closed device prefetch")
            item = self._ready.get()
            if not isinstance(item, _Failed):
                self.taken += 1
                return item
            self._failed = item
        raise self._failed.error

    def __enter__(self) -> DevicePrefetch[Host, Device]:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop and join the thread, drop what it had ready. May wait for one element of ``iterator``."""
        self._stop.set()
        with contextlib.suppress(queue.Empty):
            while True:
                self._ready.get_nowait()
        self._thread.join()

    def _fill(self, iterator: Iterator[Host], put: Callable[[Host], Device]) -> None:
        try:
            for item in iterator:
                self._offer(put(item))
                if self._stop.is_set():
                    return
            self._offer(_Failed(StopIteration()))
        except BaseException as e:  # handed to the consumer, whatever it is
            self._offer(_Failed(e))

    def _offer(self, item: Device | _Failed) -> None:
        """Put into the queue, but give up once closed: nobody would ever make room."""
        while not self._stop.is_set():
            with contextlib.suppress(queue.Full):
                self._ready.put(item, timeout=0.1)
                return


class _Failed:
    def __init__(self, error: BaseException) -> None:
        self.error = error


def device_prefetch(
    iterator: Iterator[Host], put: Callable[[Host], Device], *, size: int = 2
) -> DevicePrefetch[Host, Device]:
    """Return an iterator over ``put(x)`` that keeps ``size`` elements ready, such as batches on the mesh.

    Grain's own ``experimental.device_put`` wants an ``IterDataset`` and a device or sharding, so it can
    neither wrap a stream that counts its position nor assemble global arrays from several hosts; hence this
    one.
    """
    return DevicePrefetch(iterator, put, size=size)
