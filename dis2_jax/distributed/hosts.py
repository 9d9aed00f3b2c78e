"""Processes that somebody started by hand or by script: on one machine, or on a list of hosts over SSH. No JAX."""

from __future__ import annotations

import socket
from collections.abc import Mapping

from dis2_jax.distributed.place import PORT, Asked, Place, number
from dis2_jax.schema import Dis2Error

COORDINATOR, PROCESSES, INDEX = "DIS2_COORDINATOR", "DIS2_PROCESSES", "DIS2_PROCESS_ID"
HOSTS = "DIS2_HOSTS"


def local_place(asked: Asked, environment: Mapping[str, str]) -> Place:
    """Several processes on this machine; flags win over ``DIS2_{PROCESSES,PROCESS_ID,COORDINATOR}``."""
    return Place(
        coordinator=asked.coordinator or environment.get(COORDINATOR) or f"localhost:{PORT}",
        processes=_either(asked.processes, environment, PROCESSES, flag="--processes"),
        index=_either(asked.index, environment, INDEX, flag="--process-id"),
        local_devices=asked.local_devices,
        expected_devices=asked.expected_devices,
    )


def ssh_place(asked: Asked, environment: Mapping[str, str], *, host: str | None = None) -> Place:
    """One process on each host of a list (``--hosts``, ``DIS2_HOSTS``), or everything told by hand.

    With a list the number of a process is its host's place in it, and the first host coordinates. ``host``: this
    machine's name (default: the system's); names match in full, or else up to the first dot.
    """
    hosts = asked.hosts or tuple(h for h in environment.get(HOSTS, "").replace(",", " ").split())
    coordinator = asked.coordinator or environment.get(COORDINATOR)
    if not hosts:
        if coordinator is None:
            raise Dis2Error(
                "--distributed ssh: give --hosts a,b,c, or --coordinator host:port --processes N --process-id I"
            )
        return local_place(asked, environment)
    if len(set(hosts)) != len(hosts):
        raise Dis2Error(f"--hosts {','.join(hosts)}: a host is named twice; one process runs on each")
    if asked.processes not in (None, len(hosts)):
        raise Dis2Error(f"--processes {asked.processes} with {len(hosts)} hosts: one process runs on each")
    index = asked.index
    if index is None:
        index = _find(host or socket.gethostname(), hosts)
    return Place(
        coordinator=coordinator or f"{hosts[0]}:{PORT}",
        processes=len(hosts),
        index=index,
        local_devices=asked.local_devices,
        expected_devices=asked.expected_devices,
    )


def _find(host: str, hosts: tuple[str, ...]) -> int:
    short = host.partition(".")[0]
    places = [i for i, h in enumerate(hosts) if h == host]
    places = places or [i for i, h in enumerate(hosts) if h.partition(".")[0] == short]
    if len(places) != 1:
        raise Dis2Error(
            f"this host, {host}, is not (or not once) in --hosts {','.join(hosts)}: name it as `hostname` does,"
            " or give --process-id"
        )
    return places[0]


def _either(flag_value: int | None, environment: Mapping[str, str], name: str, *, flag: str) -> int:
    if flag_value is not None:
        return flag_value
    return number(environment, name, why=f"give {flag} N, or set it")
