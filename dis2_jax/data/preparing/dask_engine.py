"""Jobs on a Dask cluster: several machines that see the same folders. Needs ``pip install 'dis2-jax[dask]'``.

Dask was chosen over Apache Beam and Ray by installing each beside our own pins: Beam 2.77 needs protobuf < 7 and
older Pillow and PyArrow than the lock has and brings 396 MB, Ray 214 MB, Dask 22 MB. Workers need this package, the
source files and the folder of ``--out`` under the same paths; nothing but file names and numbers goes over the network.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from typing import Any, Generic

from dis2_jax.data.cores import cores
from dis2_jax.data.preparing.engines import Item, Result, WorkerDied
from dis2_jax.schema import Dis2Error, nearest


@dataclasses.dataclass(frozen=True)
class DaskEngine:
    """A cluster that runs: ``scheduler`` is its address or the scheduler file that it wrote.

    Without ``scheduler``, ``workers`` processes on this machine (None: one per core). A job whose worker is lost is
    given to another one, ``retries`` times. A scheduler that does not answer within ``connect_seconds`` is refused.
    """

    scheduler: str = ""
    workers: int | None = None
    retries: int = 3
    connect_seconds: float = 30.0
    elsewhere: bool = True

    @classmethod
    def of(cls, options: Mapping[str, str], *, workers: int | None) -> DaskEngine:
        """Read ``--engine-options``."""
        known = ("scheduler", "retries")
        for name in options:
            if name not in known:
                raise Dis2Error(f"--engine-options {name}{nearest(name, known)}: dask has {', '.join(known)}")
        retries = options.get("retries", "3")
        if not retries.isdigit():
            raise Dis2Error(f"--engine-options retries={retries}: it must be a number")
        return cls(options.get("scheduler", ""), workers, int(retries))

    def run(self, task: Callable[[Item], Result], items: Sequence[Item]) -> Generator[Result, None, None]:
        """Yield the results as they come. Raises ``WorkerDied`` for an item that lost all its workers."""
        distributed = _distributed()
        with contextlib.ExitStack() as stack:
            client = stack.enter_context(self._client(distributed))
            futures = client.map(_Told(task), items, retries=self.retries, pure=False)
            number = {future.key: i for i, future in enumerate(futures)}
            stack.callback(client.cancel, futures)
            for future in distributed.as_completed(futures):
                try:
                    answer = future.result()
                except distributed.KilledWorker as e:
                    raise WorkerDied(
                        f"{self.retries + 1} workers died (out of memory?)", item=items[number[future.key]]
                    ) from e
                if isinstance(answer, Dis2Error):
                    raise answer
                yield answer

    @contextlib.contextmanager
    def _client(self, distributed: Any) -> Iterator[Any]:
        import dask

        settings = {
            "distributed.scheduler.allowed-failures": self.retries,
            # One job at a time: a second one that waits on a worker would be blamed for its death, too.
            "distributed.scheduler.worker-saturation": 1.0,
        }
        with contextlib.ExitStack() as stack:
            stack.enter_context(dask.config.set(settings))
            if not self.scheduler:
                cluster = distributed.LocalCluster(
                    n_workers=self.workers or cores(),
                    threads_per_worker=1,
                    dashboard_address=None,
                    silence_logs="CRITICAL",
                )
                address: dict[str, Any] = {"address": stack.enter_context(cluster)}
            elif "://" in self.scheduler:
                address = {"address": self.scheduler}
            else:
                address = {"scheduler_file": self.scheduler}
            try:
                client = distributed.Client(**address, timeout=self.connect_seconds)
            except (OSError, ValueError) as e:
                raise Dis2Error(
                    f"no Dask scheduler answers at {self.scheduler} ({e}): start `dask scheduler` and workers first"
                ) from e
            yield stack.enter_context(client)


@dataclasses.dataclass(frozen=True)
class _Told(Generic[Item, Result]):
    """The task with bad input as an answer, not an exception: Dask would try it again."""

    task: Callable[[Item], Result]

    def __call__(self, item: Item) -> Result | Dis2Error:
        try:
            return self.task(item)
        except Dis2Error as e:
            return e


def _distributed() -> Any:
    try:
        import distributed
    except ImportError as e:
        raise Dis2Error("--engine dask needs Dask: pip install 'dis2-jax[dask]'") from e
    return distributed
