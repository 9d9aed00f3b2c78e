"""The first thing to read: which model on which data, how well, and what a missing sensor costs."""

from __future__ import annotations

from dis2_jax.evaluation.report.blocks import Block, FactsBlock, NoteBlock, Section, Stat, StatsBlock
from dis2_jax.evaluation.report.drawing.style import color_slot
from dis2_jax.evaluation.report.inputs import Inputs
from dis2_jax.evaluation.report.sections.text import NONE, interval, listing, order, ratio
from dis2_jax.evaluation.results import ScenarioResult


def headline(inputs: Inputs) -> Section:
    """MIoU of every scenario, the worst, its gap."""
    e = inputs.evaluation
    stats = tuple(_stat(inputs, s) for s in e.real)
    blocks: list[Block] = [FactsBlock(_facts(inputs)), StatsBlock(stats)]
    worst = e.worst
    if worst is not None and worst.kind != "full":
        blocks.append(NoteBlock(_verdict(inputs, worst)))
    else:
        blocks.append(NoteBlock("No scenario with a missing modality is below the full one."))
    return Section("summary", "Summary", tuple(blocks))


def _facts(inputs: Inputs) -> tuple[tuple[str, str], ...]:
    e, card = inputs.evaluation, inputs.card
    reads = listing(f"{m.name} ({m.channels} band{'s' if m.channels > 1 else ''})" for m in card.modalities)
    tiles = max((s.tiles for s in e.scenarios), default=0)
    return (
        ("Dataset", f"{e.dataset}, {e.split} split, {tiles} tiles, {len(e.classes)} classes"),
        ("Model reads", reads),
        ("Weights", f"step {inputs.step} ({inputs.checkpoint}), recipe {e.recipe}, seed {e.seed}"),
        ("Evaluation", inputs.origin),
    )


def _stat(inputs: Inputs, s: ScenarioResult) -> Stat:
    e, m = inputs.evaluation, s.metrics
    ends = s.intervals.miou if s.intervals else None
    notes = []
    if s.intervals and ends:
        notes.append(f"{s.intervals.level:.0%} interval {interval(ends)}")
    if s.kind == "full":
        notes.insert(0, "everything there")
    else:
        missing = listing(n for n in inputs.card.modality_names if n not in s.available)
        worst = ", the worst" if s == e.worst else ""
        notes.insert(0, f"{missing} missing{worst}; gap {ratio(e.gap(s))}")
    return Stat(
        label=s.name,
        value=ratio(m.miou),
        note="; ".join(notes),
        share=m.miou,
        interval=ends,
        slot=color_slot(order(e, s)),
    )


def _verdict(inputs: Inputs, worst: ScenarioResult) -> str:
    e = inputs.evaluation
    text = (
        f"With everything there mIoU is {ratio(e.full.metrics.miou)}. The worst scenario is {worst.name}:"
        f" {ratio(worst.metrics.miou)}, {ratio(e.gap(worst))} below. Mean over the {len(e.real)} scenarios:"
        f" {ratio(e.mean_miou)}."
    )
    zeros = [s for s in e.scenarios if s.kind == "baseline" and s.available == worst.available]
    if zeros and zeros[0].metrics.miou is not None:
        text += (
            f" The full model, fed zeros for what is missing there, reaches {ratio(zeros[0].metrics.miou)}."
        )
    return text if worst.metrics.miou is not None else NONE
