"""The model of time: rooflines of matrix units, main memory and networks. All assumptions are in this file.

    step = products / peak + padded bytes / memory bandwidth + instructions * launch + collectives

Nothing hides behind anything else: instructions run one after the other, and most of a step's are either products or
passes over memory. Collectives are as fast as bandwidth and hops allow. Where the compiler estimates cycles,
``cycles / clock`` stands in for the first three terms if it is more.
"""

from __future__ import annotations

import dataclasses
import math

from dis2_jax.planning.chips import Chip
from dis2_jax.planning.facts import Exchange, Facts
from dis2_jax.planning.topology import Topology

HOP_SECONDS = 1e-6
"""From a chip to its neighbour."""
HOST_SECONDS = 10e-6
"""From one slice or host to another, per doubling of their number."""


@dataclasses.dataclass(frozen=True)
class Prediction:
    """Seconds of one step, and what follows from them."""

    products: float
    memory: float
    launches: float
    cycles: float | None
    """By the compiler's estimate: products, memory and all else of one device together."""
    networks: dict[str, float]
    """Seconds on each network."""
    step: float
    tiles_per_second: float
    mfu: float
    """Model FLOPs over what the chips' peak would do in the time of a step."""

    @property
    def network(self) -> float:
        """Seconds on all networks."""
        return sum(self.networks.values())

    @property
    def bound(self) -> str:
        """What takes longest."""
        parts = {"products": self.products, "memory": self.memory, "launches": self.launches}
        if self.cycles is not None and self.cycles > sum(parts.values()):
            parts = {"instructions": self.cycles}
        parts |= self.networks
        return max(parts, key=lambda k: parts[k])


def predict(facts: Facts, topology: Topology, *, global_batch: int, dtype: str) -> Prediction:
    """Predict a step of ``global_batch`` tiles on all of the topology's chips."""
    chip = topology.chip
    share = chip.devices_per_chip
    peak = chip.peak_flops(dtype) / share
    products = facts.flops / peak
    memory = facts.padded_bytes / (chip.memory_bandwidth / share)
    launches = facts.instructions * chip.launch_seconds
    usable = facts.cycles is not None and chip.clock_ghz is not None
    cycles = facts.cycles / (chip.clock_ghz * 1e9) if usable and facts.cycles and chip.clock_ghz else None
    networks: dict[str, float] = {}
    for exchange in facts.exchanges:
        for network, seconds in exchange_seconds(exchange, topology).items():
            networks[network] = networks.get(network, 0.0) + seconds
    step = max(products + memory + launches, cycles or 0.0) + sum(networks.values())
    return Prediction(
        products=products,
        memory=memory,
        launches=launches,
        cycles=cycles,
        networks=networks,
        step=step,
        tiles_per_second=global_batch / step,
        mfu=facts.model_flops / peak / step,
    )


def exchange_seconds(exchange: Exchange, topology: Topology) -> dict[str, float]:
    """Seconds per network: inside a slice or host first, then its share between them."""
    chip = topology.chip
    inside = max(math.prod(exchange.extents), 1)
    seconds = {chip.local_network: _inside(exchange, topology, members=inside)} if inside > 1 else {}
    if exchange.islands > 1:
        if chip.host_bandwidth is None:
            return {**seconds, chip.host_network: math.inf}
        size = exchange.bytes / inside
        latency = exchange.count * HOST_SECONDS * math.ceil(math.log2(exchange.islands))
        seconds[chip.host_network] = (
            size * _passes(exchange.kind, exchange.islands) / chip.host_bandwidth + latency
        )
    return seconds


def _passes(kind: str, n: int) -> float:
    """How often the buffer crosses a device's own link, for the algorithm that moves least."""
    part = (n - 1) / n
    return {"all-reduce": 2 * part, "collective-permute": 1.0, "collective-broadcast": 1.0}.get(kind, part)


def _inside(exchange: Exchange, topology: Topology, *, members: int) -> float:
    chip = topology.chip
    if not chip.torus:
        return (
            exchange.bytes * _passes(exchange.kind, members) / chip.link_bandwidth
            + exchange.count * HOP_SECONDS
        )
    rings = [_ring(e, n, chip) for e, n in zip(exchange.extents, topology.shape, strict=True) if e > 1]
    hops = sum(e // 2 if links == 2 else e - 1 for links, e in rings)
    latency = exchange.count * HOP_SECONDS * hops
    if exchange.kind == "collective-permute":
        return exchange.bytes / chip.link_bandwidth + exchange.count * HOP_SECONDS
    bandwidth = chip.link_bandwidth * sum(links for links, _ in rings)
    if exchange.kind == "all-to-all":
        # Every buffer crosses half of the longest ring, in both directions, and shares its links.
        links, longest = max(rings, key=lambda r: r[1])
        return exchange.bytes * longest / (4 * links) / chip.link_bandwidth + latency
    return exchange.bytes * _passes(exchange.kind, members) / bandwidth + latency


def _ring(extent: int, length: int, chip: Chip) -> tuple[int, int]:
    """(links that carry data at once, chips): 2 where the dimension is whole and closes to a ring, else 1."""
    return (2 if extent == length and length % chip.wrap == 0 else 1), extent
