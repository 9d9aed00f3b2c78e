"""Names of machines: ``v5e:16x16``, ``v5p:16x16x16``, ``2*v5e:16x16`` (two slices), ``h100:128``."""

from __future__ import annotations

import dataclasses
import math
import re

from dis2_jax.planning.chips import Chip, chip
from dis2_jax.schema import Dis2Error

_NAME = re.compile(r"(?:(\d+)\*)?([a-z0-9]+):(\d+(?:x\d+)*)")


@dataclasses.dataclass(frozen=True)
class Topology:
    """So many chips, and how they are wired. ``shape``: of one slice's torus, or (hosts, GPUs per host)."""

    name: str
    chip: Chip
    shape: tuple[int, ...]
    slices: int = 1

    @property
    def chips(self) -> int:
        """How many, over all slices."""
        return self.slices * math.prod(self.shape)

    @property
    def devices(self) -> int:
        """How many devices JAX counts."""
        return self.chips * self.chip.devices_per_chip

    @property
    def one_host(self) -> bool:
        """Whether all chips are in one host."""
        return self.slices == 1 and (
            self.chips <= self.chip.chips_per_host or self.shape == self.chip.single_host
        )

    @property
    def text(self) -> str:
        """Such as ``256 x v5e``."""
        return f"{self.chips} x {self.chip.name}"


def parse_topology(text: str) -> Topology:
    """Read a name; ``Dis2Error`` where there is no such chip, or it is not wired like that."""
    match = _NAME.fullmatch(text.strip().lower())
    if not match:
        raise Dis2Error(
            f"topology {text!r}: write chip:size, such as v5e:16x16, v5p:8x8x8, h100:128, or 2*v5e:16x16"
        )
    found = chip(match[2])
    shape = tuple(int(n) for n in match[3].split("x"))
    slices = int(match[1] or 1)
    if min(*shape, slices) < 1:
        raise Dis2Error(f"topology {text!r}: sizes are at least 1")
    if found.platform == "tpu":
        return Topology(text, found, _tpu_shape(text, found, shape), _slices(text, found, slices))
    if len(shape) != 1 or slices != 1:
        raise Dis2Error(f"topology {text!r}: write the number of GPUs, such as {found.name}:128")
    per_host = found.chips_per_host
    if shape[0] > per_host and shape[0] % per_host:
        raise Dis2Error(f"topology {text!r}: above {per_host} GPUs, hosts are full: a multiple of {per_host}")
    return Topology(text, found, (max(shape[0] // per_host, 1), min(shape[0], per_host)))


def _tpu_shape(text: str, found: Chip, shape: tuple[int, ...]) -> tuple[int, ...]:
    if len(shape) == found.torus:
        return shape
    if shape == (1,):
        return (1,) * found.torus
    example = "x".join(["4"] * found.torus)
    raise Dis2Error(f"topology {text!r}: {found.name} has {found.torus} dimensions: {found.name}:{example}")


def _slices(text: str, found: Chip, slices: int) -> int:
    if slices > 1 and found.host_bandwidth is None:
        raise Dis2Error(
            f"topology {text!r}: Google publishes no DCN bandwidth of {found.name}: use one slice"
        )
    return slices
