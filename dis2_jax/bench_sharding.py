"""The training step under several strategies on the devices that are there: memory, time, collectives."""

from __future__ import annotations

import collections
import dataclasses
import statistics
import time
from collections.abc import Iterator, Sequence
from typing import Any

from dis2_jax.abstract_step import trace_step
from dis2_jax.bench import prepare_step, time_step
from dis2_jax.config import Config, ShardingConfig
from dis2_jax.schema import DatasetCard, Dis2Error
from dis2_jax.sharding.collectives import parse_collectives
from dis2_jax.sharding.mesh import check_batch_size
from dis2_jax.sharding.placement import Placement, make_placement

MIB = 2**20


@dataclasses.dataclass(frozen=True)
class ShardingBench:
    """One strategy. Bytes are those of one device, as the compiler plans them."""

    name: str
    mesh: dict[str, int]
    arguments: int
    """State and batch."""
    temporaries: int
    step_ms: float | None
    """Median of wall time; devices that share cores share that too. None: compiled only."""
    compile_seconds: float
    collectives: dict[str, tuple[int, int]]
    """Kind -> how many a step runs, and their bytes."""

    def line(self) -> str:
        """Its line of the table."""
        traffic = "; ".join(
            f"{n} {kind} {size / MIB:.2f}" for kind, (n, size) in sorted(self.collectives.items())
        )
        mesh = " x ".join(f"{name} {size}" for name, size in self.mesh.items())
        memory = [f"{size / MIB:.1f}" for size in (self.arguments, self.temporaries)]
        time = "-" if self.step_ms is None else f"{self.step_ms:.0f}"
        return f"| {' | '.join([self.name, mesh, *memory, time, traffic or 'none'])} |"


HEAD = """\
| strategy | mesh | state MiB | temporaries MiB | step ms | collectives (number, kind, MiB) |
| :-- | :-- | --: | --: | --: | :-- |"""
"""Of the table, in Markdown."""


def parse_strategy(text: str) -> ShardingConfig:
    """Read ``fsdp`` or ``fsdp@data:2,fsdp:4``, maybe with ``/branch`` (remat) behind. Raises ``Dis2Error``."""
    rest, _, remat = text.partition("/")
    name, _, axes = rest.partition("@")
    values = {"strategy": name, "axes": axes, "remat": remat or "none"}
    return Config.from_dict({"sharding": values}).sharding


def bench_sharding(
    config: Config,
    card: DatasetCard,
    strategies: Sequence[str],
    *,
    tile: tuple[int, int],
    batch: int,
    steps: int,
) -> Iterator[ShardingBench]:
    """Compile each strategy and run it (``steps`` = 0: only compile), one after another.

    Raises ``Dis2Error`` for what does not fit.
    """
    if steps < 0 or batch < 1:
        raise Dis2Error(f"bench: steps = {steps}, batch = {batch}: at least 0 and 1")
    for text in strategies:
        own = dataclasses.replace(config, sharding=parse_strategy(text))
        if steps == 0:
            yield _compiled_only(text, own, card, tile=tile, batch=batch)
            continue
        prepared = prepare_step(own, card, tile=tile, batch=batch)
        milliseconds, _ = time_step(prepared, steps=steps)
        yield _row(
            text,
            prepared.placement,
            prepared.compiled,
            step_ms=statistics.median(milliseconds),
            compile_seconds=prepared.compile_seconds,
        )


def _compiled_only(
    name: str, config: Config, card: DatasetCard, *, tile: tuple[int, int], batch: int
) -> ShardingBench:
    """Without a state or a batch, so that what no memory here would hold is compiled all the same."""
    data = dataclasses.replace(config.data, batch_size=batch)
    placement = make_placement(config.sharding)
    check_batch_size(batch, placement.mesh)
    traced, _ = trace_step(dataclasses.replace(config, data=data), card, tile=tile, placement=placement)
    start = time.perf_counter()
    compiled = traced.lower().compile()
    return _row(name, placement, compiled, step_ms=None, compile_seconds=time.perf_counter() - start)


def _row(
    name: str, placement: Placement, compiled: Any, *, step_ms: float | None, compile_seconds: float
) -> ShardingBench:
    counted: dict[str, tuple[int, int]] = collections.defaultdict(lambda: (0, 0))
    for c in parse_collectives(compiled.as_text()):
        n, size = counted[c.kind]
        counted[c.kind] = (n + c.count, size + c.count * c.size)
    memory = compiled.memory_analysis()
    return ShardingBench(
        name=name,
        mesh=dict(placement.mesh.shape),
        arguments=memory.argument_size_in_bytes,
        temporaries=memory.temp_size_in_bytes,
        step_ms=step_ms,
        compile_seconds=compile_seconds,
        collectives=dict(counted),
    )
