"""``dis2`` with a small network instead of DIS2, as several processes on this machine; also the worker's program."""

from __future__ import annotations

import dataclasses
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

DEVICES = 8


@dataclasses.dataclass(frozen=True)
class Ended:
    """How a process ended, and what it wrote (both streams)."""

    status: int
    text: str


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("localhost", 0))
        return s.getsockname()[1]


def environment(*, devices: int, cache: Path | None = None) -> dict[str, str]:
    """Of one process with ``devices`` virtual ones; ``cache``: where compiled programs are kept."""
    keep = {"JAX_COMPILATION_CACHE_DIR": str(cache)} if cache else {"DIS2_CACHE": ""}
    dropped = {"JAX_COMPILATION_CACHE_DIR"}
    return {
        **{k: v for k, v in os.environ.items() if k not in dropped},
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": str(devices),
        "XLA_FLAGS": "--xla_backend_optimization_level=0",
        "PYTHONUNBUFFERED": "1",
        **keep,
    }


class Job:
    """``processes`` of one command, started together; each with an equal share of the eight devices."""

    def __init__(
        self,
        arguments: Sequence[str],
        *,
        processes: int,
        logs: Path,
        own: Sequence[Sequence[str]] = (),
        variables: Mapping[str, str] | None = None,
        cache: Path | None = None,
    ) -> None:
        port = free_port()
        logs.mkdir(parents=True, exist_ok=True)
        self.logs = [logs / f"{processes}-{port}-{i}.log" for i in range(processes)]
        self.processes = []
        for i, log in enumerate(self.logs):
            where = ("--distributed", "local", "--coordinator", f"localhost:{port}")
            number = ("--processes", str(processes), "--process-id", str(i))
            joining = (*where, *number) if processes > 1 else ()
            command = [sys.executable, __file__, *arguments, *joining, *(own[i] if own else ())]
            with log.open("w") as f:
                self.processes.append(
                    subprocess.Popen(
                        command,
                        stdout=f,
                        stderr=subprocess.STDOUT,
                        env={**environment(devices=DEVICES // processes, cache=cache), **(variables or {})},
                    )
                )

    def text(self, i: int) -> str:
        return self.logs[i].read_text(errors="replace")

    def wait_until(self, happened: Callable[[], bool], *, seconds: float = 600) -> None:
        """Until it happened; fails when a process ends before that."""
        end = time.monotonic() + seconds
        while not happened():
            if time.monotonic() > end or any(p.poll() is not None for p in self.processes):
                self.kill()
                raise AssertionError("\n\n".join(self.text(i)[-3000:] for i in range(len(self.logs))))
            time.sleep(0.02)

    def wait(self, *, seconds: float = 600) -> list[Ended]:
        """Until all have ended; those that have not after ``seconds`` are killed."""
        end = time.monotonic() + seconds
        for p in self.processes:
            try:
                p.wait(max(0.0, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                self.kill()
        return [Ended(p.wait(), self.text(i)) for i, p in enumerate(self.processes)]

    def kill(self) -> None:
        for p in self.processes:
            p.kill()


def main(arguments: Sequence[str]) -> int:
    """Run the ``dis2`` command line. Environment variables change what a test needs otherwise.

    ``DIS2_REAL_NETWORK``: DIS2 as it is; ``DIS2_STEP_SECONDS``: pause before every step; ``DIS2_BATCH_SECONDS``: and
    after every batch of a validation; ``DIS2_STUCK=I:N``: process I never begins step N; ``DIS2_OTHER_CODE=I``:
    process I says that it has another jax.
    """
    from dis2_jax.cli.main import main as dis2
    from dis2_jax.training import checkpoint, everywhere, loop

    if not os.environ.get("DIS2_REAL_NETWORK"):
        import small_net

        loop.build_model = checkpoint.build_model = small_net.build_small  # type: ignore[attr-defined]
    scenarios_at, stop_check, versions = loop.scenarios_at, loop._Run._stop_check, everywhere.package_versions

    def slow_step(step: int, *rest: Any) -> Any:
        time.sleep(float(os.environ.get("DIS2_STEP_SECONDS", "0")))
        if os.environ.get("DIS2_STUCK") == f"{_index(arguments)}:{step}":
            time.sleep(3600)
        return scenarios_at(step, *rest)

    def slow_batch(run: Any, done: int, total: int) -> None:
        print(f"validated {done}", flush=True)
        time.sleep(float(os.environ.get("DIS2_BATCH_SECONDS", "0")))
        stop_check(run, done, total)

    def other_code() -> dict[str, str]:
        other = os.environ.get("DIS2_OTHER_CODE") == _index(arguments)
        return {**versions(), **({"jax": "0.0.1"} if other else {})}

    loop.scenarios_at, loop._Run._stop_check, everywhere.package_versions = slow_step, slow_batch, other_code  # type: ignore[assignment,method-assign]
    return dis2(list(arguments))


def _index(arguments: Sequence[str]) -> str:
    if "--process-id" in arguments:
        return arguments[arguments.index("--process-id") + 1]
    return os.environ.get("DIS2_PROCESS_ID", "0")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
