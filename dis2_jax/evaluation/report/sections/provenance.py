"""Code, versions and hardware of the run, and what it took. Only what was recorded is told."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from dis2_jax.evaluation.report.blocks import Block, FactsBlock, MissingBlock, Section, TableBlock
from dis2_jax.evaluation.report.inputs import Inputs
from dis2_jax.evaluation.report.sections.text import duration, quantity
from dis2_jax.training.environment import Session


def provenance(inputs: Inputs) -> Section:
    """Facts of the newest session, cost, and all sessions where there were several."""
    blocks: list[Block] = []
    sessions = inputs.sessions.value or ()
    if sessions:
        blocks.append(FactsBlock(tuple(_made_with(sessions[-1]))))
    cost = [*_speed(inputs), *_cost(sessions), *_flops(inputs, sessions)]
    if cost:
        blocks.append(FactsBlock(tuple(cost)))
    if not sessions:
        why = inputs.sessions.why or "Code, hardware and time were not recorded: older or imported weights."
        blocks.append(MissingBlock(why, f"dis2 train --workdir {inputs.workdir}"))
    if len(sessions) > 1:
        blocks.append(_table(sessions))
    return Section("provenance", "Code, hardware, cost", tuple(blocks))


def _made_with(s: Session) -> list[tuple[str, str]]:
    changed = {True: ", with changes", False: "", None: ""}[s.modified]
    versions = ", ".join(f"{name} {version}" for name, version in s.versions.items())
    processes = f" in {s.processes} processes" if s.processes > 1 else ""
    facts = [
        ("Commit", f"{s.commit}{changed}" if s.commit else "not run from a git checkout"),
        ("Versions", f"Python {s.python}, {versions}"),
        ("Devices", f"{s.devices} x {s.device} ({s.backend}){processes}"),
    ]
    if s.cpu or s.cpu_count:
        facts.append(
            ("Host", f"{s.cpu or 'processor unknown'}, cores used: {s.cpu_count or 'unknown'}, {s.platform}")
        )
    return facts


def _speed(inputs: Inputs) -> list[tuple[str, str]]:
    speeds = inputs.history.speeds
    if not speeds.size:
        return []
    batch = inputs.config.data.batch_size
    middle = float(np.median(speeds))
    low, high = np.quantile(speeds, [0.1, 0.9])
    return [
        (
            "Speed",
            f"{middle:.3g} tiles/s (median of {speeds.size} windows; 10 to 90 %: {low:.3g} to {high:.3g})",
        ),
        ("Step", f"{duration(batch / middle)} for {batch} tiles"),
    ]


def _cost(sessions: Sequence[Session]) -> list[tuple[str, str]]:
    if not sessions:
        return []
    computed = sum(s.tile_steps for s in sessions)
    seconds = sum(s.seconds for s in sessions)
    again = sum(max(a.last_step - b.first_step, 0) for a, b in itertools.pairwise(sessions))
    facts = [("Tile-steps", f"{computed:,} (tiles times steps)")]
    if again:
        facts.append(("Done twice", f"{again} steps that a stop had lost"))
    several = f" in {len(sessions)} sessions" if len(sessions) > 1 else ""
    facts.append(("Wall time", f"{duration(seconds)}{several}, compilation and validation included"))
    return facts


def _flops(inputs: Inputs, sessions: Sequence[Session]) -> list[tuple[str, str]]:
    known = {students: n for s in sessions for students, n in s.flops_per_step.items()}
    facts = [
        ("FLOPs per step", f"{quantity(n, 'FLOP')} (full and {students}; counted by XLA)")
        for students, n in known.items()
    ]
    speeds = inputs.history.speeds
    if len(known) == 1 and speeds.size:
        step = inputs.config.data.batch_size / float(np.median(speeds))
        facts.append(("Arithmetic speed", quantity(next(iter(known.values())) / step, "FLOP/s")))
    return [*facts, ("Energy", "not measured")] if facts else facts


def _table(sessions: Sequence[Session]) -> TableBlock:
    rows = tuple(
        (
            s.started,
            f"{s.first_step} to {s.last_step}",
            duration(s.seconds),
            f"{s.devices} x {s.device}",
            (s.commit or "–")[:10],
            s.versions.get("jax", "–"),
        )
        for s in sessions
    )
    head = ("started (UTC)", "steps", "wall time", "devices", "commit", "jax")
    return TableBlock(caption="Sessions", head=head, rows=rows, numeric=False)
