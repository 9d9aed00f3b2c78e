"""Tables of what `dis2 evaluate` measures beside the confusion matrix: for the terminal and as Markdown."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from dis2_jax.evaluation.results import Evaluation, ScenarioResult
from dis2_jax.evaluation.tables.layout import (
    NONE,
    Column,
    Rows,
    markdown_block,
    number,
    short_name,
    span,
    text_blocks,
)


def measures_text(evaluation: Evaluation, rows: Rows, *, width: int) -> list[str]:
    """Lines of one table: intervals, eroded scores, boundary F1, calibration, scenes. Empty if not measured."""
    columns = [c for c in _columns(evaluation) if c.head != "OA interval"]  # one block in the terminal
    return text_blocks("further", rows, columns, width=width) if columns else []


def details_text(evaluation: Evaluation, *, width: int = 100) -> str:
    """Per-class precision, recall, F1 and boundary F1 with intervals of IoU, scenes, reliability: all scenarios."""
    lines: list[str] = []
    for s in evaluation.scenarios:
        lines += [s.name, ""]
        lines += text_blocks("class", Rows(evaluation.classes), _class_details(s), width=width)
    for head, names, columns in _further(evaluation):
        lines += [head, "", *text_blocks("", Rows(tuple(names)), columns, width=width)]
    return "\n".join(lines).rstrip() + "\n"


def measures_markdown(evaluation: Evaluation, names: Sequence[str]) -> list[str]:
    """The same tables as Markdown lines; ``names`` of the scenarios as the caller shows them."""
    columns = _columns(evaluation)
    if not columns:
        return []
    lines = ["Further measures", "", *markdown_block("scenario", names, columns), ""]
    per_class = [
        ("Boundary F1 per class", lambda s, k: number(s.boundary.f1[k]) if s.boundary else NONE),
        ("IoU per class, interval", lambda s, k: span(s.intervals.iou[k]) if s.intervals else NONE),
        ("IoU per class, eroded", lambda s, k: number(s.eroded.metrics.classes[k].iou) if s.eroded else NONE),
    ]
    cell: Callable[[ScenarioResult, int], str]
    for head, cell in per_class:
        table = [
            Column(name, tuple(cell(s, k) for s in evaluation.scenarios))
            for k, name in enumerate(evaluation.classes)
        ]
        lines += [head, "", *markdown_block("scenario", names, table), ""]
    for head, rows, table in _further(evaluation):
        lines += [head, "", *markdown_block("", rows, table), ""]
    return lines


def measure_notes(evaluation: Evaluation) -> list[str]:
    """Sentences that say what the further measures are."""
    first = evaluation.scenarios[0]
    lines = []
    if first.intervals:
        lines.append(
            f"Intervals: {100 * first.intervals.level:g} %, {first.intervals.samples} resamples of the tiles."
        )
    if first.eroded and first.boundary:
        lines.append(
            f"Eroded: without reference pixels within {first.eroded.radius} px of another class. Boundary F1:"
            f" boundaries match within {first.boundary.tolerance} px. ECE: expected calibration error."
        )
    if evaluation.no_scenes and first.eroded:
        lines.append(f"No scene-level score: {evaluation.no_scenes}.")
    elif first.scenes:
        lines.append(
            f"Scene: {len(first.scenes.each)} scenes stitched from their tiles, every pixel scored once; erosion"
            " and boundaries there see across tile edges."
        )
        if first.scenes.metrics.pixels < first.metrics.pixels:
            lines.append(
                "Tiles overlap: all but the scene scores count a pixel once per tile; scenes average the tiles'"
                " probabilities."
            )
    return lines


def _columns(evaluation: Evaluation) -> list[Column]:
    """One row per scenario; columns that no scenario has are left out."""
    heads: list[tuple[str, Callable[[ScenarioResult], str]]] = [
        ("mIoU interval", lambda s: span(s.intervals.miou) if s.intervals else NONE),
        ("OA interval", lambda s: span(s.intervals.oa) if s.intervals else NONE),
        ("eroded mIoU", lambda s: number(s.eroded.metrics.miou) if s.eroded else NONE),
        ("eroded OA", lambda s: number(s.eroded.metrics.oa) if s.eroded else NONE),
        ("bnd. F1", lambda s: number(s.boundary.mean_f1) if s.boundary else NONE),
        ("ECE", lambda s: number(s.calibration.ece) if s.calibration else NONE),
        ("scene mIoU", lambda s: number(s.scenes.metrics.miou) if s.scenes else NONE),
        ("eroded", lambda s: number(s.scenes.eroded.metrics.miou) if s.scenes else NONE),
    ]
    columns = [Column(head, tuple(cell(s) for s in evaluation.scenarios)) for head, cell in heads]
    return [c for c in columns if set(c.cells) != {NONE}]


def _class_details(s: ScenarioResult) -> list[Column]:
    ks = range(len(s.classes))
    parts = {"precision": "precision", "recall": "recall", "f1": "F1", "iou": "IoU"}
    found = s.metrics.classes
    columns = [Column(h, tuple(number(getattr(c, p)) for c in found)) for p, h in parts.items()]
    if s.intervals:
        columns.append(Column("interval", tuple(span(i) for i in s.intervals.iou)))
    if s.eroded:
        eroded = s.eroded.metrics.classes
        for part, head in (("f1", "er. F1"), ("iou", "er. IoU")):
            columns.append(Column(head, tuple(number(getattr(c, part)) for c in eroded)))
    if s.boundary:
        columns.append(Column("bnd. F1", tuple(number(v) for v in s.boundary.f1)))
    return [*columns, Column("pixels", tuple(str(found[k].reference) for k in ks))]


def _further(evaluation: Evaluation) -> list[tuple[str, Sequence[str], list[Column]]]:
    """Tables that are not one row per scenario: (heading, row names, columns)."""
    tables: list[tuple[str, Sequence[str], list[Column]]] = []
    staged = [s for s in evaluation.scenarios if s.scenes]
    if staged:
        names = sorted({each.name for s in staged if s.scenes for each in s.scenes.each})
        tables.append(("mIoU per scene", names, [_scene_column(s, names) for s in staged]))
    measured = [(s, s.calibration) for s in evaluation.scenarios if s.calibration]
    if measured:
        bins = [f"{b.lower:.2f}..{b.upper:.2f}" for b in measured[0][1].bins]
        columns = [
            Column(
                short_name(s.name),
                tuple(f"{number(b.accuracy, digits=2)} ({b.count})" for b in c.bins),
            )
            for s, c in measured
        ]
        tables.append(("Accuracy (pixels) by confidence", bins, columns))
    return tables


def _scene_column(s: ScenarioResult, names: Sequence[str]) -> Column:
    found = {each.name: each.metrics.miou for each in s.scenes.each} if s.scenes else {}
    return Column(short_name(s.name), tuple(number(found.get(name)) for name in names))
