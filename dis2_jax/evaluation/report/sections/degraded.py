"""Inputs that are there but bad: when to switch to the student that ignores them."""

from __future__ import annotations

from dis2_jax.evaluation.degrade.results import Degraded, Switch
from dis2_jax.evaluation.report.blocks import Block, FigureBlock, MissingBlock, Section, TableBlock
from dis2_jax.evaluation.report.drawing.render import render
from dis2_jax.evaluation.report.drawing.severity import draw_severity
from dis2_jax.evaluation.report.inputs import Inputs
from dis2_jax.evaluation.report.sections.text import NONE, ratio


def degraded(inputs: Inputs) -> Section:
    """Curves and switching points."""
    title = "Degraded inputs"
    found = inputs.degraded.value
    if found is None:
        missing = MissingBlock(inputs.degraded.why, inputs.command("degrade"))
        return Section("degraded", title, (missing,))
    pairs = dict.fromkeys((k, m) for k, m, _ in found.curves)
    blocks: list[Block] = [_curves(found, kind, modality) for kind, modality in pairs]
    if found.switches:
        blocks.append(_switches(found))
    intro = (
        f"mIoU on {found.tiles} tiles as one modality gets worse. Level lines: the student that ignores it."
    )
    return Section("degraded", title, tuple(blocks), intro)


def _curves(found: Degraded, kind: str, modality: str) -> FigureBlock:
    mine = [s for s in found.switches if (s.kind, s.modality) == (kind, modality)]
    told = " ".join(f"{s.branch}: {_advice(found, s)}" for s in mine if s.fallback is not None)
    name = f"degraded-{kind}-{modality}".replace("_", "-")
    return FigureBlock(
        name=name,
        title=f"{kind.replace('_', ' ')} on {modality}",
        alt=f"mIoU against severity of {kind} on {modality}. {told}",
        drawn=render(draw_severity(found, kind, modality), name=name),
        caption=told,
    )


def _advice(found: Degraded, s: Switch) -> str:
    if s.severity is None:
        return f"better than {s.fallback} up to {s.highest:g}."
    return f"from {s.severity:.3g} {found.units.get(s.kind, '')} on, {s.fallback} is better.".replace(
        "  ", " "
    )


def _switches(found: Degraded) -> TableBlock:
    rows = tuple(
        (
            f"{s.kind.replace('_', ' ')} on {s.modality}",
            s.branch,
            s.fallback or NONE,
            ratio(s.fallback_miou),
            "never" if s.severity is None else f"{s.severity:.3g}",
            f"{s.highest:g}",
            found.units.get(s.kind, ""),
        )
        for s in found.switches
    )
    head = ("degradation", "branch", "student instead", "its mIoU", "better from", "measured up to", "unit")
    return TableBlock(caption="When to switch", head=head, rows=rows, text=(1, 2, 6), folded=True)
