"""Data parallel rows of larger machines from one that was compiled: their programs differ in group sizes only."""

from __future__ import annotations

import dataclasses

from dis2_jax.config import Config
from dis2_jax.planning.facts import Exchange
from dis2_jax.planning.plan import Compile, make_request
from dis2_jax.planning.request import Request, Row
from dis2_jax.planning.topology import Topology, parse_topology
from dis2_jax.schema import Dis2Error


def scale_row(row: Row, request: Request) -> Row:
    """Answer ``request`` with the facts of ``row``: the same chip and tiles per chip, more of them, strategy ``dp``.

    A chip's program, its memory and what it sends are then the same; the collectives reach over all chips. Raises
    ``Dis2Error`` where that does not hold.
    """
    small, large = row.request.machine, request.machine
    _check(row.request, request)
    if row.facts is None:
        return dataclasses.replace(row, request=request, scaled_from=row.request.topology)
    exchanges = tuple(_stretch(e, small, large) for e in row.facts.exchanges)
    facts = dataclasses.replace(row.facts, devices=large.devices, exchanges=exchanges)
    return dataclasses.replace(row, request=request, facts=facts, scaled_from=row.request.topology)


def scaling(compile_row: Compile, source: str) -> Compile:
    """Compile on ``source`` only what ``dp`` rows of its chip ask for; everything else as before."""
    small = parse_topology(source)

    def compiled_or_scaled(request: Request) -> Row:
        machine, config = request.machine, request.config
        if machine.chip != small.chip or machine.chips <= small.chips or config.sharding.strategy != "dp":
            return compile_row(request)
        asked = make_request(
            config,
            request.card,
            topology=source,
            strategy="dp",
            axes=config.sharding.axes,
            remat=config.sharding.remat,
            batch=max(config.data.batch_size * small.chips // machine.chips, 1),
            tile=request.tile,
        )
        _check(asked, request)  # before the time that compiling takes
        return scale_row(compile_row(asked), request)

    return compiled_or_scaled


def _check(small: Request, large: Request) -> None:
    a, b = small.machine, large.machine
    tiles = small.config.data.batch_size * b.chips, large.config.data.batch_size * a.chips
    same = (small.card, small.tile, _without_batch(small)) == (large.card, large.tile, _without_batch(large))
    if a.chip != b.chip or tiles[0] != tiles[1] or not same or a.chips < 2:
        raise Dis2Error(
            f"{large.key}: it cannot be scaled from {small.key}: the same chip, config and tiles per chip are needed,"
            " and two chips or more"
        )
    if small.config.sharding.strategy != "dp":
        raise Dis2Error(f"{large.key}: only rows of strategy dp are scaled; compile the others")


def _without_batch(request: Request) -> Config:
    config = request.config
    return dataclasses.replace(config, data=dataclasses.replace(config.data, batch_size=1))


def _stretch(exchange: Exchange, small: Topology, large: Topology) -> Exchange:
    if exchange.devices != small.devices:
        raise Dis2Error(
            f"{small.name}: a {exchange.kind} among {exchange.devices} of {small.devices} devices does not scale"
        )
    if large.chip.torus:
        return dataclasses.replace(exchange, devices=large.devices, extents=large.shape, islands=large.slices)
    hosts, per_host = large.shape
    return dataclasses.replace(exchange, devices=large.devices, extents=(per_host,), islands=hosts)
