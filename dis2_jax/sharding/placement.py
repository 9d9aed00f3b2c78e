"""From the config to a placement: a strategy on a mesh of the devices that are there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax

from dis2_jax.config import ShardingConfig
from dis2_jax.schema import Dis2Error
from dis2_jax.sharding.axes import DATA, parse_axes
from dis2_jax.sharding.explicit import Pmapped, ShardMapped
from dis2_jax.sharding.mesh import check_whole_tiles, count_groups, make_mesh
from dis2_jax.sharding.partitioned import Placement
from dis2_jax.sharding.rules import find_strategy

EXPLICIT: dict[str, type[Placement]] = {"shard_map": ShardMapped, "pmap": Pmapped}


def make_placement(config: ShardingConfig, *, devices: Sequence[Any] | None = None) -> Placement:
    """Put the config's strategy on all devices of the job (``single``: on one).

    ``devices``: on these instead; a plan's need not be there.

    Raises ``Dis2Error``: axes that do not fill the devices or do not fit the strategy.
    """
    strategy = find_strategy(config.strategy)
    devices = jax.devices() if devices is None else devices
    if strategy.name == "single":
        if jax.process_count() > 1:
            raise Dis2Error(
                "config sharding.strategy = 'single' is for one process: take dp for a job of several"
            )
        devices = devices[:1]
    groups = count_groups(devices)
    text = config.axes or strategy.axes or f"data:{groups},fsdp:-1"
    sizes = parse_axes(text, devices=len(devices))
    missing = {axis for _, axis in strategy.state} - {name for name, _ in sizes}
    if missing:
        raise Dis2Error(
            f"config sharding.axes = {text!r}: strategy {strategy.name} needs the axis {', '.join(sorted(missing))}"
        )
    if strategy.name in EXPLICIT and [name for name, _ in sizes] != [DATA]:
        raise Dis2Error(
            f"config sharding.axes = {text!r}: strategy {strategy.name} has the axis {DATA} alone"
        )
    mesh = make_mesh(sizes, devices)
    check_whole_tiles(mesh)
    return EXPLICIT.get(strategy.name, Placement)(strategy, mesh)
