"""Arguments of the commands that run as several processes, and the job that they describe."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

from dis2_jax.cli.arguments import parse_names
from dis2_jax.distributed.choose import METHODS, choose_place
from dis2_jax.distributed.place import Asked, Timeouts
from dis2_jax.schema import Dis2Error

if TYPE_CHECKING:
    from dis2_jax.distributed.watchdog import Watchdog

_DEFAULT = Timeouts()


def add_job_arguments(parser: argparse.ArgumentParser) -> None:
    """Add ``--distributed`` and what goes with it."""
    group = parser.add_argument_group(
        "several processes", "started once per process, with the same arguments; see README, Several hosts"
    )
    group.add_argument(
        "--distributed",
        choices=METHODS,
        default="none",
        help="how the processes find each other (default: none, one process): local and ssh by the flags below or"
        " DIS2_COORDINATOR, DIS2_PROCESSES, DIS2_PROCESS_ID, DIS2_HOSTS; slurm-gpu with a task per GPU; slurm-node"
        " with a task per node; tpu on every Cloud TPU worker; k8s in a JobSet",
    )
    group.add_argument("--coordinator", metavar="HOST:PORT", help="address of process 0")
    group.add_argument("--processes", type=int, metavar="N", help="how many there are")
    group.add_argument("--process-id", type=int, metavar="I", help="number of this one, from 0")
    group.add_argument("--hosts", metavar="A,B,C", help="ssh: one process on each; the first coordinates")
    group.add_argument("--local-devices", metavar="0,1", help="GPUs of this process (default: all it sees)")
    group.add_argument(
        "--expect-devices", type=int, metavar="N", help="refuse to start unless each process finds N devices"
    )
    for name, what in (
        ("start", "for all processes to meet"),
        ("heartbeat", "without a sign of life after which a process counts as gone, and the others end"),
        ("shutdown", "for the slowest process at the end"),
    ):
        value = getattr(_DEFAULT, name)
        group.add_argument(
            f"--{name}-seconds", type=int, default=value, metavar="S", help=f"limit {what} (default: {value})"
        )
    group.add_argument(
        "--hang-seconds",
        type=int,
        metavar="S",
        help="end when a step takes longer; six times that where programs compile, tiles are validated or a"
        f" checkpoint is written (default: {_DEFAULT.hang} for several processes, 0: no limit, for one)",
    )


@contextlib.contextmanager
def job(arguments: argparse.Namespace) -> Iterator[Watchdog]:
    """Join the job that the arguments describe; yields its watchdog, which watches for a next step by now.

    Leaving with an error that is not the same everywhere ends this process at once, see ``leaving_at_once``.
    """
    place = choose_place(_asked(arguments), os.environ)
    timeouts = _timeouts(arguments)
    hang = arguments.hang_seconds
    if place is not None:
        # JAX warns of proxies and says what it connects to; Gloo has its own lines.
        logging.getLogger("jax").setLevel(logging.ERROR)
    from dis2_jax.distributed.watchdog import Watchdog

    if place is None:
        with Watchdog(hang) as watchdog:
            yield watchdog
        return
    from dis2_jax.distributed.ending import leaving_at_once
    from dis2_jax.distributed.start import start, who

    with leaving_at_once():
        start(place, timeouts)
        with Watchdog(_DEFAULT.hang if hang is None else hang, who=who()) as watchdog:
            watchdog.expect("starting", long=True)
            yield watchdog


def _asked(arguments: argparse.Namespace) -> Asked:
    devices = parse_names(arguments.local_devices or "")
    if not all(d.isdecimal() for d in devices):
        raise Dis2Error(f"--local-devices {arguments.local_devices!r}: write numbers, such as 0,1")
    return Asked(
        method=arguments.distributed,
        coordinator=arguments.coordinator,
        processes=arguments.processes,
        index=arguments.process_id,
        hosts=parse_names(arguments.hosts or ""),
        local_devices=tuple(int(d) for d in devices),
        expected_devices=arguments.expect_devices,
    )


def _timeouts(arguments: argparse.Namespace) -> Timeouts:
    given = {
        "start": arguments.start_seconds,
        "heartbeat": arguments.heartbeat_seconds,
        "shutdown": arguments.shutdown_seconds,
    }
    for name, seconds in given.items():
        if seconds < 1:
            raise Dis2Error(f"--{name}-seconds {seconds}: it must be at least 1")
    if (arguments.hang_seconds or 0) < 0:
        raise Dis2Error(f"--hang-seconds {arguments.hang_seconds}: it must not be negative")
    return Timeouts(**given)
