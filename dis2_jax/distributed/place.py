"""Where a process stands in a job of several: what was asked for, and the place that follows. No JAX."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Literal

from dis2_jax.schema import Dis2Error

Method = Literal["none", "local", "ssh", "slurm-gpu", "slurm-node", "tpu", "k8s"]

PORT = 10217
"""Of the coordinator, where nothing else says; below the range from which the system draws ports."""


@dataclasses.dataclass(frozen=True)
class Asked:
    """What flags or environment say; None and empty: nothing."""

    method: Method = "none"
    coordinator: str | None = None
    """``host:port`` of process 0."""
    processes: int | None = None
    index: int | None = None
    hosts: tuple[str, ...] = ()
    local_devices: tuple[int, ...] = ()
    expected_devices: int | None = None


@dataclasses.dataclass(frozen=True)
class Place:
    """One process of a job. None: the runtime finds out by itself (Cloud TPU)."""

    coordinator: str | None = None
    processes: int | None = None
    index: int | None = None
    local_devices: tuple[int, ...] = ()
    """Numbers of the accelerators that this process uses; empty: all that it sees."""
    expected_devices: int | None = None
    """Devices that this process must find; None: any number."""

    def __post_init__(self) -> None:
        if self.processes is None or self.index is None:
            return
        if self.processes < 1 or not 0 <= self.index < self.processes:
            raise Dis2Error(
                f"process {self.index} of {self.processes}: numbers run from 0 to one below the count"
            )
        if self.coordinator is not None:
            check_address(self.coordinator)


@dataclasses.dataclass(frozen=True)
class Timeouts:
    """Seconds after which waiting ends; each bounds one kind of loss."""

    start: int = 300
    """For all processes to meet."""
    heartbeat: int = 60
    """From the last sign of life of a process until the others end."""
    shutdown: int = 60
    """At the end, for the slowest."""
    hang: int = 300
    """For one step; six times that where a program may be compiled, a split evaluated, a checkpoint written."""


def check_address(text: str) -> None:
    """Raise ``Dis2Error`` unless ``text`` is ``host:port``."""
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise Dis2Error(f"coordinator {text!r}: write host:port of process 0, such as node1:{PORT}")


def number(environment: Mapping[str, str], name: str, *, why: str) -> int:
    """Read a number that must be there; ``why`` says what sets it."""
    text = environment.get(name, "")
    if not text.strip().isdecimal():
        found = f"is {text!r}" if text else "is not set"
        raise Dis2Error(f"environment variable {name} {found}: {why}")
    return int(text)
