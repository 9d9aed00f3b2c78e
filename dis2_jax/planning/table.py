"""A plan as text, Markdown and JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from dis2_jax.evaluation.tables.grid import Grid
from dis2_jax.planning.facts import Facts
from dis2_jax.planning.model import Prediction
from dis2_jax.planning.plan import Line
from dis2_jax.planning.topology import Topology

HEADS = (
    "chips",
    "strategy",
    "tiles/chip",
    "GiB state",
    "temp",
    "peak",
    "of",
    "GFLOP",
    "GB moved",
    "collectives",
    "ms products",
    "HBM",
    "launches",
    "compiler",
    "network",
    "step",
    "tiles/s",
    "MFU %",
    "scaling %",
    "compile s",
)


def grid(lines: Sequence[Line]) -> Grid:
    """One line per row; what failed says so under ``peak``, and why below the table (``reasons``)."""
    return Grid(HEADS, tuple(_cells(line) for line in lines), left=2)


def reasons(lines: Sequence[Line]) -> list[str]:
    """Say why rows failed, a line each."""
    return [
        f"{line.row.request.topology} {strategy(line)}: {line.row.failure.reason}: {line.row.failure.message}"
        for line in lines
        if line.row.failure
    ]


def remarks(lines: Sequence[Line]) -> list[str]:
    """What the figures of these rows rest on, where it is not the same for all."""
    facts = [line.row.facts for line in lines if line.row.facts]
    found = []
    if any(f.cycles is not None for f in facts):
        found.append(
            "compiler: the TPU compiler's estimate of its cycles, over the clock; collectives are not in it"
        )
    if any(f.flops_source != "XLA" for f in facts):
        found.append("GFLOP of NVIDIA rows are those of the traced step: XLA counts none ahead of time")
    if any(line.row.scaled_from for line in lines):
        found.append("compile s 'as T': not compiled, but the row of T in larger groups")
    return found


def strategy(line: Line) -> str:
    """Strategy, with its axes and rematerialisation where they are not the usual ones."""
    sharding = line.row.request.config.sharding
    remat = "" if sharding.remat == "none" else f"remat {sharding.remat}"
    return " ".join(part for part in (sharding.strategy, sharding.axes, remat) if part)


def _cells(line: Line) -> tuple[str, ...]:
    row = line.row
    machine = row.request.machine
    batch = row.request.config.data.batch_size
    per_chip = batch / machine.chips
    names = (machine.text, strategy(line), f"{per_chip:g}")
    if row.facts is None or line.prediction is None:
        assert row.failure is not None
        needed = f"{row.failure.needed / 2**30:.1f}" if row.failure.needed else "-"
        rest = ["-"] * (len(HEADS) - 7)
        return (*names, "-", "-", needed, row.failure.reason, *rest)
    return (*names, *_memory(row.facts, machine), *_work(row.facts, machine), *_time(line.prediction, line))


def _memory(facts: Facts, machine: Topology) -> tuple[str, ...]:
    m = facts.memory
    capacity = machine.chip.memory / machine.chip.devices_per_chip
    over = "" if m.peak <= capacity else " does not fit"
    return (
        _gib(m.arguments + m.outputs - m.aliased + m.code),
        _gib(m.temporaries),
        _gib(m.peak),
        f"{_gib(capacity)}{over}",
    )


def _work(facts: Facts, machine: Topology) -> tuple[str, ...]:
    return f"{facts.flops / 1e9:.0f}", f"{facts.padded_bytes / 1e9:.1f}", exchanges(facts, machine) or "none"


def exchanges(facts: Facts, machine: Topology) -> str:
    """Such as ``41 all-reduce 27 MB (ICI)``."""
    totals: dict[tuple[str, str], tuple[int, int]] = {}
    for e in facts.exchanges:
        chip = machine.chip
        network = chip.local_network if e.islands == 1 else chip.host_network
        if e.islands > 1 and any(n > 1 for n in e.extents):
            network = f"{chip.local_network}+{chip.host_network}"
        count, size = totals.get((e.kind, network), (0, 0))
        totals[e.kind, network] = (count + e.count, size + e.bytes)
    return ", ".join(
        f"{count} {kind} {size / 1e6:.1f} MB ({network})" for (kind, network), (count, size) in totals.items()
    )


def _time(p: Prediction, line: Line) -> tuple[str, ...]:
    assert line.row.facts is not None
    return (
        _ms(p.products),
        _ms(p.memory),
        _ms(p.launches) if p.launches else "-",
        "-" if p.cycles is None else _ms(p.cycles),
        _ms(p.network),
        _ms(p.step),
        f"{p.tiles_per_second:,.0f}" if p.tiles_per_second >= 100 else f"{p.tiles_per_second:.1f}",
        f"{100 * p.mfu:.1f}",
        "-" if line.efficiency is None else f"{100 * line.efficiency:.1f}",
        f"as {line.row.scaled_from}" if line.row.scaled_from else f"{line.row.facts.compile_seconds:.0f}",
    )


def _gib(size: float) -> str:
    return f"{size / 2**30:.2f}"


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.1f}" if seconds >= 1e-4 else f"{1000 * seconds:.3f}"


def to_json(lines: Sequence[Line]) -> list[dict[str, Any]]:
    """Facts, predictions and failures of every row; requests without the config's whole text."""
    return [
        {
            "topology": line.row.request.topology,
            "chips": line.row.request.machine.chips,
            "strategy": line.row.request.config.sharding.strategy,
            "axes": line.row.request.config.sharding.axes,
            "remat": line.row.request.config.sharding.remat,
            "global_batch": line.row.request.config.data.batch_size,
            "tile": line.row.request.tile,
            "dtype": line.row.request.config.model.dtype,
            "baseline": line.baseline,
            "scaled_from": line.row.scaled_from,
            "fits": line.row.fits,
            "facts": None if line.row.facts is None else dataclasses.asdict(line.row.facts),
            "peak_bytes": None if line.row.facts is None else line.row.facts.memory.peak,
            "prediction": None if line.prediction is None else dataclasses.asdict(line.prediction),
            "scaling_efficiency": line.efficiency,
            "failure": None if line.row.failure is None else dataclasses.asdict(line.row.failure),
            "seconds": line.row.seconds,
        }
        for line in lines
    ]
