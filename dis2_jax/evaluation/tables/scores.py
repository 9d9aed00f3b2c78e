"""The scenario x class table: for the terminal, as CSV and as Markdown."""

from __future__ import annotations

import csv
import io
import textwrap
from collections.abc import Callable

from dis2_jax.evaluation.results import Evaluation, ScenarioResult
from dis2_jax.evaluation.tables.layout import NONE, Column, Rows, markdown_block, number, text_blocks
from dis2_jax.evaluation.tables.measures import measure_notes, measures_markdown, measures_text

_GROUPS = {
    "full": "all modalities",
    "student": "student branches",
    "baseline": "full model, zeros for what is missing",
}
_RATIOS: tuple[tuple[str, Callable[[ScenarioResult], float | None]], ...] = (
    ("mIoU", lambda s: s.metrics.miou),
    ("mF1", lambda s: s.metrics.mf1),
    ("OA", lambda s: s.metrics.oa),
    ("kappa", lambda s: s.metrics.kappa),
)
_SUMMARY = len(_RATIOS) + 1
"""Summary columns: the ratios and the gap."""


def text_table(evaluation: Evaluation, *, width: int = 100) -> str:
    """Aligned plain text: IoU per class, mIoU, mF1, OA, kappa, gap to full; the worst scenario has a star.

    Below it one table of the further measures, where there are any (see ``measures_text``). Long class names
    are cut first; class columns that still do not fit into ``width`` go into further blocks.
    """
    rows = _rows(evaluation)
    columns = [*_class_columns(evaluation), *_summary_columns(evaluation)]
    lines = [title(evaluation), ""]
    lines += text_blocks("IoU", rows, columns, width=width, together=_SUMMARY)
    lines += measures_text(evaluation, rows, width=width)
    for note in [*notes(evaluation), *measure_notes(evaluation)]:
        lines += textwrap.wrap(note, width, subsequent_indent="    ", break_long_words=False)
    return "\n".join(lines).rstrip() + "\n"


def csv_table(evaluation: Evaluation) -> str:
    """One line per scenario with every number: ratios empty where undefined, pixel counts per class."""
    out = io.StringIO()
    head = ["scenario", "kind", "available", "tiles", "pixels", "worst", "gap_to_full"]
    head += ["miou", "mf1", "oa", "kappa"]
    parts = ("iou", "f1", "precision", "recall", "reference", "predicted")
    head += [f"{part}/{name}" for part in parts for name in evaluation.classes]
    more = [_csv_measures(s) for s in evaluation.scenarios]
    head += list(more[0])
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(head)
    for s, measures in zip(evaluation.scenarios, more, strict=True):
        m = s.metrics
        row = [s.name, s.kind, label(s), s.tiles, m.pixels, int(s == evaluation.worst)]
        ratios = [evaluation.gap(s), m.miou, m.mf1, m.oa, m.kappa]
        per_class = [getattr(c, part) for part in parts for c in m.classes]
        writer.writerow(["" if v is None else v for v in [*row, *ratios, *per_class, *measures.values()]])
    return out.getvalue()


def markdown_table(evaluation: Evaluation) -> str:
    """IoU and F1 per class, with the summary columns in the first, the worst scenario in bold; then the rest."""
    names = [f"**{s.name}** (worst)" if s == evaluation.worst else s.name for s in evaluation.scenarios]
    tiles = Column("tiles", tuple(str(s.tiles) for s in evaluation.scenarios))
    iou = [*_class_columns(evaluation), *_summary_columns(evaluation), tiles]
    lines = [f"# {title(evaluation)}", "", "IoU per class and summary", ""]
    lines += [*markdown_block("scenario", names, iou), ""]
    for part, head in (("f1", "F1"), ("precision", "Precision"), ("recall", "Recall")):
        columns = _class_columns(evaluation, part=part)
        lines += [f"{head} per class", "", *markdown_block("scenario", names, columns), ""]
    lines += measures_markdown(evaluation, names)
    told = [*notes(evaluation), *measure_notes(evaluation)]
    return "\n".join([*lines, *(f"- {n}" for n in told)]) + "\n"


def title(evaluation: Evaluation) -> str:
    """Return one line: dataset, split, which weights, and whether they looked at each tile from all sides."""
    tiles = max((s.tiles for s in evaluation.scenarios), default=0)
    parts = [f"{evaluation.dataset}, {evaluation.split} split, {tiles} tiles"]
    if evaluation.step is not None:
        which = f" ({evaluation.checkpoint})" if evaluation.checkpoint else ""
        parts.append(f"step {evaluation.step}{which}")
    if evaluation.tta:
        parts.append("test-time augmentation")
    if evaluation.recipe is not None:
        parts.append(f"recipe {evaluation.recipe}, seed {evaluation.seed}")
    return "; ".join(parts)


def label(result: ScenarioResult) -> str:
    """Name a row below its group's heading: what the model was given."""
    return "+".join(result.available)


def notes(evaluation: Evaluation) -> list[str]:
    """Sentences under the table: mean, worst, classes left out or absent, scenarios with fewer tiles."""
    lines = []
    mean, worst = evaluation.mean_miou, evaluation.worst
    if mean is not None and worst is not None:
        lines.append(
            f"Mean mIoU over the {len(evaluation.real)} scenarios: {mean:.3f}. Worst (Last-1): {worst.name} with"
            f" {number(worst.metrics.miou)} (gap to full {number(evaluation.gap(worst))})."
        )
    if evaluation.excluded:
        lines.append(_excluded_note(evaluation))
    lines += [n for k in range(len(evaluation.classes)) if (n := _absent_note(evaluation, k))]
    if evaluation.unread:
        lines.append(_unread_note(evaluation.unread))
    most = max((s.tiles for s in evaluation.real), default=0)
    short = [f"{s.name} {s.tiles}" for s in evaluation.real if s.tiles < most]
    if short:
        lines.append(
            f"Tiles that really lack a needed modality are left out; used of {most}: {', '.join(short)}."
        )
    return lines


def _unread_note(tiles: tuple[str, ...], *, named: int = 5) -> str:
    more = f" and {len(tiles) - named} more" if len(tiles) > named else ""
    return f"{len(tiles)} tiles could not be read and are in no score: {', '.join(tiles[:named])}{more}."


def _excluded_note(evaluation: Evaluation) -> str:
    names = ", ".join(evaluation.excluded)
    counts = [f"{s.name} {s.excluded_pixels}" for s in evaluation.real]
    return (
        f"Excluded: {names}. Pixels with such a reference are not scored ({', '.join(counts)} px); no mean"
        " counts the class; a pixel of another class that is predicted so is wrong."
    )


def _absent_note(evaluation: Evaluation, k: int) -> str:
    found = [(s.name, s.metrics.classes[k]) for s in evaluation.real]
    if evaluation.classes[k] in evaluation.excluded or any(c.present for _, c in found):
        return ""
    wrong = [(n, c.predicted) for n, c in found if c.predicted]
    counts = [p for _, p in wrong]
    if not wrong:
        told = "never predicted"
    elif len(wrong) <= 3:
        told = "predicted (wrongly): " + ", ".join(f"{p} px in {n}" for n, p in wrong)
    else:
        told = f"predicted (wrongly) on {min(counts)} to {max(counts)} px in {len(wrong)} scenarios"
    return f"Class {evaluation.classes[k]} is absent from the reference and in no mean; {told}."


def _rows(evaluation: Evaluation) -> Rows:
    return Rows(
        names=tuple(f"  {label(s)}{' *' if s == evaluation.worst else ''}" for s in evaluation.scenarios),
        groups=tuple(_GROUPS[s.kind] for s in evaluation.scenarios),
    )


def _class_columns(evaluation: Evaluation, *, part: str = "iou") -> list[Column]:
    return [
        Column(name, tuple(number(getattr(s.metrics.classes[k], part)) for s in evaluation.scenarios))
        for k, name in enumerate(evaluation.classes)
    ]


def _summary_columns(evaluation: Evaluation) -> list[Column]:
    rows = evaluation.scenarios
    columns = [Column(head, tuple(number(ratio(s)) for s in rows)) for head, ratio in _RATIOS]
    gaps = tuple(NONE if s.kind == "full" else number(evaluation.gap(s)) for s in rows)
    return [*columns, Column("gap", gaps)]


def _csv_measures(s: ScenarioResult) -> dict[str, float | None]:
    """Further columns; all empty where nothing further was measured."""
    eroded = s.eroded.metrics if s.eroded else None
    whole = s.scenes.metrics if s.scenes else None
    edge, low_high = s.boundary, s.intervals
    found = {f"eroded_{r}": getattr(eroded, r, None) for r in ("miou", "mf1", "oa", "kappa")}
    found |= {f"scene_{r}": getattr(whole, r, None) for r in ("miou", "mf1", "oa", "kappa")}
    found["boundary_f1"] = edge.mean_f1 if edge else None
    found["ece"] = s.calibration.ece if s.calibration else None
    for ratio in ("miou", "mf1", "oa"):
        ends = getattr(low_high, ratio, None) or (None, None)
        found |= {f"{ratio}_low": ends[0], f"{ratio}_high": ends[1]}
    found |= {f"boundary_f1/{n}": edge.f1[k] if edge else None for k, n in enumerate(s.classes)}
    return found
