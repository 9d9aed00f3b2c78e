"""Which network a collective crosses: from where the devices of a group are."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

from dis2_jax.planning.chips import Chip
from dis2_jax.planning.facts import Exchange
from dis2_jax.sharding.collectives import Collective


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a device is: slice (TPU) or host (GPU), and coordinates of its chip in there."""

    island: int
    coords: tuple[int, ...]


def places(devices: Iterable[Any], chip: Chip) -> list[Place]:
    """Places of JAX (topology) devices, in the mesh's order."""
    found = []
    for device in devices:
        if chip.platform == "tpu":
            slice_index = getattr(device, "slice_index", None) or 0
            found.append(Place(int(slice_index), tuple(device.coords)[: chip.torus]))
        else:
            found.append(Place(int(device.process_index), (int(device.id) % chip.chips_per_host,)))
    return found


def summarise(collectives: Sequence[Collective], where: Sequence[Place]) -> tuple[Exchange, ...]:
    """Add equal collectives up. Groups of one device move nothing and are left out; the widest group stands for all."""
    totals: dict[tuple[str, int, tuple[int, ...], int], tuple[int, int]] = {}
    for c in collectives:
        exchange = _reach(c, where)
        if exchange.devices < 2:
            continue
        key = (exchange.kind, exchange.devices, exchange.extents, exchange.islands)
        count, size = totals.get(key, (0, 0))
        totals[key] = (count + c.count, size + c.count * c.size)
    return tuple(
        Exchange(kind, count, size, devices, extents, islands)
        for (kind, devices, extents, islands), (count, size) in totals.items()
    )


def _reach(c: Collective, where: Sequence[Place]) -> Exchange:
    if c.slices > 1:
        return Exchange(c.kind, c.count, c.size, c.slices, (), c.slices)
    groups = [g or tuple(range(len(where))) for g in c.groups]
    spans = [_span(group, where) for group in groups]
    devices, extents, islands = max(spans, key=lambda s: (s[2], max(s[1], default=1), s[0]))
    return Exchange(c.kind, c.count, c.size, devices, extents, islands)


def _span(group: Sequence[int], where: Sequence[Place]) -> tuple[int, tuple[int, ...], int]:
    """(devices, distinct coordinates per dimension, islands) of one group."""
    members = [where[i] for i in group]
    extents = tuple(len(set(axis)) for axis in zip(*(m.coords for m in members), strict=True))
    return len(set(group)), extents, len({m.island for m in members})
