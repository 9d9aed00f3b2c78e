"""Scores of every scenario and class, what missing modalities cost, and what is taken for what."""

from __future__ import annotations

from collections.abc import Callable

from dis2_jax.evaluation.report.blocks import Block, FigureBlock, MissingBlock, NoteBlock, Section, TableBlock
from dis2_jax.evaluation.report.drawing.bars import draw_gaps, gap_pairs
from dis2_jax.evaluation.report.drawing.matrix import draw_confusion, draw_scores
from dis2_jax.evaluation.report.drawing.render import render
from dis2_jax.evaluation.report.inputs import Inputs
from dis2_jax.evaluation.report.sections.text import NONE, interval, listing, ratio
from dis2_jax.evaluation.results import Evaluation, ScenarioResult
from dis2_jax.evaluation.tables.scores import notes


def scores(inputs: Inputs) -> Section:
    """Heat map, gaps, tables."""
    e = inputs.evaluation
    blocks: list[Block] = [_heat_map(e)]
    if gap_pairs(e):
        blocks.append(_gaps(e))
    blocks.append(_summary_table(e))
    blocks += [_class_table(e, part) for part in ("iou", "f1", "precision", "recall")]
    blocks += [NoteBlock(n) for n in notes(e)]
    if e.full.intervals is None or e.full.boundary is None:
        blocks.append(
            MissingBlock("Intervals and boundary scores are not measured.", inputs.command("evaluate"))
        )
    return Section("scores", "Scores", tuple(blocks))


def confusion(inputs: Inputs) -> Section:
    """One matrix per scenario."""
    e = inputs.evaluation
    blocks: list[Block] = [_confusion(e, s, i) for i, s in enumerate(e.real) if s.metrics.pixels]
    intro = "Rows are the reference and add up to 1. Point at a cell for its pixels."
    return Section("confusion", "Confusion", tuple(blocks), intro)


def _heat_map(e: Evaluation) -> FigureBlock:
    matrix = draw_scores(e)
    rows = "; ".join(f"{s.name}: mIoU {ratio(s.metrics.miou)}" for s in e.scenarios)
    return FigureBlock(
        name="scores",
        title="IoU by scenario and class",
        alt=f"Heat map of IoU, scenarios by classes. {rows}.",
        drawn=render(matrix.figure, name="scores", hover=matrix.hover),
        caption="Rows marked zeros: the full model with zeros for what is missing. A dash: not in the reference.",
    )


def _gaps(e: Evaluation) -> FigureBlock:
    parts = []
    for student, baseline in gap_pairs(e):
        zeros = "" if baseline is None else f", zeros instead {ratio(e.gap(baseline))}"
        parts.append(f"{student.name}: {ratio(e.gap(student))}{zeros}")
    return FigureBlock(
        name="gaps",
        title="What a missing modality costs",
        alt=f"Bars of mIoU below the full scenario. {'; '.join(parts)}.",
        drawn=render(draw_gaps(e), name="gaps"),
        caption="Solid: the student branch. Hatched: the full model fed zeros. Shorter is better.",
    )


def _summary_table(e: Evaluation) -> TableBlock:
    columns: list[tuple[str, Callable[[ScenarioResult], str]]] = [
        ("mIoU", lambda s: ratio(s.metrics.miou)),
        ("95 % interval", lambda s: interval(s.intervals.miou if s.intervals else None)),
        ("gap", lambda s: NONE if s.kind == "full" else ratio(e.gap(s))),
        ("mF1", lambda s: ratio(s.metrics.mf1)),
        ("OA", lambda s: ratio(s.metrics.oa)),
        ("kappa", lambda s: ratio(s.metrics.kappa)),
        ("mIoU, eroded", lambda s: ratio(s.eroded.metrics.miou if s.eroded else None)),
        ("boundary F1", lambda s: ratio(s.boundary.mean_f1 if s.boundary else None)),
        ("ECE", lambda s: ratio(s.calibration.ece if s.calibration else None)),
        ("mIoU, whole scenes", lambda s: ratio(s.scenes.metrics.miou if s.scenes else None)),
        ("tiles", lambda s: str(s.tiles)),
    ]
    levels = {s.intervals.level for s in e.scenarios if s.intervals}
    if len(levels) == 1:
        columns[1] = (f"{100 * levels.pop():g} % interval", columns[1][1])
    columns = [(head, cell) for head, cell in columns if any(cell(s) != NONE for s in e.scenarios)]
    return TableBlock(
        caption="Every scenario",
        head=("scenario", *(head for head, _ in columns)),
        rows=tuple((s.name, *(cell(s) for _, cell in columns)) for s in e.scenarios),
        marked=tuple(i for i, s in enumerate(e.scenarios) if s == e.worst),
        mark="worst",
    )


def _class_table(e: Evaluation, part: str) -> TableBlock:
    head = {"iou": "IoU", "f1": "F1", "precision": "Precision", "recall": "Recall"}[part]
    rows = tuple((s.name, *(ratio(getattr(c, part)) for c in s.metrics.classes)) for s in e.scenarios)
    return TableBlock(caption=f"{head} per class", head=("scenario", *e.classes), rows=rows, folded=True)


def _confusion(e: Evaluation, s: ScenarioResult, i: int) -> FigureBlock:
    matrix = draw_confusion(s)
    name = f"confusion-{i}-{s.name.replace('+', '-')}"
    return FigureBlock(
        name=name,
        title=f"{s.name}",
        alt=f"Confusion matrix of {s.name}. {_mistakes(e, s)}",
        drawn=render(matrix.figure, name=name, hover=matrix.hover),
        caption=_mistakes(e, s),
    )


def _mistakes(e: Evaluation, s: ScenarioResult, most: int = 3) -> str:
    """Name the largest off-diagonal shares of a reference class."""
    found = []
    for i, line in enumerate(s.confusion):
        total = sum(line)
        found += [
            (n / total, e.classes[i], e.classes[j]) for j, n in enumerate(line) if total and j != i and n
        ]
    largest = sorted(found, key=lambda f: -f[0])[:most]
    if not largest:
        return "Nothing is mistaken."
    return f"Most mistaken: {listing(f'{a} for {b} ({share:.0%})' for share, a, b in largest)}."
