"""Joining the job: the one call of ``jax.distributed.initialize``."""

from __future__ import annotations

import socket
import sys
from typing import Any

import jax

from dis2_jax.distributed.jointly import jointly
from dis2_jax.distributed.place import Place, Timeouts
from dis2_jax.schema import Dis2Error


class NotMetError(Dis2Error):
    """The processes of a job did not find each other; another start may succeed."""


def start(place: Place, timeouts: Timeouts) -> None:
    """Meet the other processes; before anything else touches a device. A job of one process needs nothing.

    Raises:
        NotMetError: the others did not come in time (``timeouts.start``).
        Dis2Error: a process, which is named, does not find the devices that it should have.
    """
    if place.processes == 1:
        _check_devices(place)
        return
    waits: dict[str, Any] = {
        "initialization_timeout": timeouts.start,
        "heartbeat_timeout_seconds": timeouts.heartbeat,
        "shutdown_timeout_seconds": timeouts.shutdown,
    }
    try:
        if place.coordinator is None:
            jax.distributed.initialize(**waits)
        else:
            # Told before: where nobody comes JAX may end the process itself (status 134) with a message of its own.
            print(
                f"dis2: process {place.index} of {place.processes} meets the others at {place.coordinator},"
                f" within {timeouts.start} s",
                file=sys.stderr,
                flush=True,
            )
            jax.distributed.initialize(
                place.coordinator,
                place.processes,
                place.index,
                local_device_ids=list(place.local_devices) or None,
                cluster_detection_method="deactivate",  # it would take one device per process for granted
                **waits,
            )
    except (RuntimeError, ValueError) as e:  # JaxRuntimeError is a RuntimeError
        raise NotMetError(_not_met(place, timeouts, e)) from e
    with jointly():
        _check_devices(place)


def who() -> str:
    """This process in a few words: ``process 1 of 4 (node7)``."""
    return f"process {jax.process_index()} of {jax.process_count()} ({socket.gethostname()})"


def _check_devices(place: Place) -> None:
    found = jax.local_device_count()
    if place.expected_devices not in (None, found):
        raise Dis2Error(
            f"{socket.gethostname()}: {found} {jax.default_backend()} devices where {place.expected_devices} are"
            " expected: look at the driver, CUDA_VISIBLE_DEVICES and what the scheduler was asked for"
        )


def _not_met(place: Place, timeouts: Timeouts, e: Exception) -> str:
    if place.coordinator is None:
        return f"this Cloud TPU host could not join the others: {_line(e)}; start the command on all workers"
    return (
        f"process {place.index} of {place.processes} could not meet the others at {place.coordinator} within"
        f" {timeouts.start} s ({_line(e)}): start all {place.processes}, and let them reach that port of process 0"
    )


def _line(e: Exception) -> str:
    return " ".join(str(e).split())[:300]
