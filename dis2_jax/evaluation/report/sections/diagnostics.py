"""How much of a missing modality the compensation features bring back."""

from __future__ import annotations

from dis2_jax.evaluation.diagnostics.results import Diagnostics
from dis2_jax.evaluation.report.blocks import Block, FigureBlock, MissingBlock, Section, TableBlock
from dis2_jax.evaluation.report.drawing.bars import draw_class_falls
from dis2_jax.evaluation.report.drawing.compensation import FILL_NAMES, MEASURES, draw_similarity
from dis2_jax.evaluation.report.drawing.render import render
from dis2_jax.evaluation.report.inputs import Inputs
from dis2_jax.evaluation.report.sections.text import NONE, listing, ratio


def diagnostics(inputs: Inputs) -> Section:
    """Similarity to the full branch, recovered mIoU, falls per class."""
    title = "Compensation"
    found = inputs.diagnostics.value
    if found is None:
        missing = MissingBlock(inputs.diagnostics.why, inputs.command("diagnose"))
        return Section("compensation", title, (missing,))
    blocks: list[Block] = [_similarity(found, m) for m in MEASURES if _measured(found, m)]
    blocks += [_falls(found), _recoveries(found)]
    intro = (
        f"{found.tiles} tiles with every modality. A student's missing slots hold the compensation features that it"
        " was trained with, zeros, or the real features, which it never saw there."
    )
    return Section("compensation", title, tuple(blocks), intro)


def _measured(found: Diagnostics, measure: str) -> bool:
    return any(getattr(s, measure) is not None for s in found.similarities)


def _similarity(found: Diagnostics, measure: str) -> FigureBlock:
    parts = []
    for s in found.similarities:
        if s.level == "g":
            parts.append(f"{s.scenario}, {FILL_NAMES[s.fill]}: {ratio(getattr(s, measure))}")
    better = "1: equal up to rotation and scale." if measure == "cka" else "0: equal."
    name = f"similarity-{measure.replace('_', '-')}"
    return FigureBlock(
        name=name,
        title=f"Features against the full branch: {MEASURES[measure]}",
        alt=f"{MEASURES[measure]} per level. At the fusion token: {'; '.join(parts)}.",
        drawn=render(draw_similarity(found, measure=measure), name=name),
        caption=f"f1 to f4: fused maps, g: the fusion token, last: before the last convolution. {better}",
    )


def _falls(found: Diagnostics) -> FigureBlock:
    rows = []
    for student in found.students:
        own = [f for f in found.falls if f.scenario == student]
        rows.append((listing(own[0].missing), [f.fall for f in own]))
    told = "; ".join(
        f"without {listing(f.missing)}: {f.class_name} {ratio(f.fall)}"
        for f in sorted(found.falls, key=lambda f: -(f.fall or 0))[:4]
    )
    return FigureBlock(
        name="class-falls",
        title="Which class needs which modality",
        alt=f"Bars of IoU that each class loses. Largest: {told}.",
        drawn=render(draw_class_falls(rows, found.classes), name="class-falls"),
        caption="IoU of the full branch minus that of the student.",
    )


def _recoveries(found: Diagnostics) -> TableBlock:
    def percent(value: float | None) -> str:
        return NONE if value is None else f"{value:.0%}"

    rows = tuple(
        (
            r.scenario,
            *(ratio(v) for v in (r.zeros, r.compensation, r.specific, r.full)),
            percent(r.of_full),
            percent(r.of_specific),
        )
        for r in found.recoveries
    )
    head = (
        "student",
        "zeros",
        "compensation",
        "real features",
        "full",
        "way to full",
        "way to real features",
    )
    return TableBlock(caption="mIoU by what fills the missing slots", head=head, rows=rows)
