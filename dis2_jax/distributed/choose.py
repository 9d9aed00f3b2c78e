"""From what was asked for and the environment to this process's place. No JAX."""

from __future__ import annotations

import typing
from collections.abc import Mapping

from dis2_jax.distributed.hosts import local_place, ssh_place
from dis2_jax.distributed.jobset import jobset_place
from dis2_jax.distributed.place import Asked, Method, Place
from dis2_jax.distributed.slurm import slurm_place
from dis2_jax.schema import Dis2Error

METHODS: tuple[Method, ...] = typing.get_args(Method)


def choose_place(asked: Asked, environment: Mapping[str, str]) -> Place | None:
    """Return this process's place, None for a job of one process.

    Raises ``Dis2Error`` where flags do not go with the method, or the environment lacks what it should hold.
    """
    _check_flags(asked)
    match asked.method:
        case "none":
            return None
        case "local":
            return local_place(asked, environment)
        case "ssh":
            return ssh_place(asked, environment)
        case "slurm-gpu":
            return slurm_place(asked, environment, layout="gpu")
        case "slurm-node":
            return slurm_place(asked, environment, layout="node")
        case "k8s":
            return jobset_place(asked, environment)
        case "tpu":
            return Place(expected_devices=asked.expected_devices)


_ACCEPTED: dict[Method, frozenset[str]] = {
    "none": frozenset(),
    "local": frozenset({"coordinator", "processes", "index", "local_devices", "expected_devices"}),
    "ssh": frozenset({"coordinator", "processes", "index", "hosts", "local_devices", "expected_devices"}),
    "slurm-gpu": frozenset({"coordinator"}),
    "slurm-node": frozenset({"coordinator", "local_devices", "expected_devices"}),
    "k8s": frozenset({"coordinator", "local_devices", "expected_devices"}),
    "tpu": frozenset({"expected_devices"}),
}
_FLAGS = {
    "coordinator": "--coordinator",
    "processes": "--processes",
    "index": "--process-id",
    "hosts": "--hosts",
    "local_devices": "--local-devices",
    "expected_devices": "--expect-devices",
}


def _check_flags(asked: Asked) -> None:
    """A flag that would change nothing is a misunderstanding."""
    for field, flag in _FLAGS.items():
        if getattr(asked, field) not in (None, ()) and field not in _ACCEPTED[asked.method]:
            fitting = [m for m, fields in _ACCEPTED.items() if field in fields]
            raise Dis2Error(
                f"{flag} does not go with --distributed {asked.method}, only with {', '.join(fitting)}"
            )
