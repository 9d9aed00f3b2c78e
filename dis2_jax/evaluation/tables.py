"""The scenario x class table: for the terminal, as CSV and as Markdown."""

from __future__ import annotations

import csv
import dataclasses
import io
import textwrap
from collections.abc import Callable, Sequence

from dis2_jax.evaluation.results import Evaluation, ScenarioResult

NONE = "-"
"""Stands for a ratio that is not defined: the class is absent, or the scenario had no tile."""

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


@dataclasses.dataclass(frozen=True)
class _Column:
    head: str
    cells: tuple[str, ...]

    @property
    def width(self) -> int:
        return max(len(c) for c in (self.head, *self.cells))

    def shorten(self, limit: int) -> _Column:
        """Cut a long head, with a full stop to say so."""
        head = self.head if len(self.head) <= limit else self.head[: limit - 1] + "."
        return dataclasses.replace(self, head=head)


def text_table(evaluation: Evaluation, *, width: int = 100) -> str:
    """Aligned plain text: IoU per class, mIoU, mF1, OA, kappa, gap to full; the worst scenario has a star.

    Long class names are cut first; class columns that still do not fit into ``width`` go into further blocks.
    """
    names = [f"  {label(s)}{' *' if s == evaluation.worst else ''}" for s in evaluation.scenarios]
    left = max(len(n) for n in names)
    columns = [*_class_columns(evaluation), *_summary_columns(evaluation)]
    lines = [title(evaluation), ""]
    for block in _fit(columns, room=max(width - left, 40)):
        lines += [*_block_lines(evaluation, names, block, left=left), ""]
    for note in notes(evaluation):
        lines += textwrap.wrap(note, width, subsequent_indent="    ", break_long_words=False)
    return "\n".join(lines).rstrip() + "\n"


def csv_table(evaluation: Evaluation) -> str:
    """One line per scenario with every number: ratios empty where undefined, pixel counts per class."""
    out = io.StringIO()
    head = ["scenario", "kind", "available", "tiles", "pixels", "worst", "gap_to_full"]
    head += ["miou", "mf1", "oa", "kappa"]
    parts = ("iou", "f1", "precision", "recall", "reference", "predicted")
    head += [f"{part}/{name}" for part in parts for name in evaluation.classes]
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(head)
    for s in evaluation.scenarios:
        m = s.metrics
        row = [s.name, s.kind, label(s), s.tiles, m.pixels, int(s == evaluation.worst)]
        ratios = [evaluation.gap(s), m.miou, m.mf1, m.oa, m.kappa]
        per_class = [getattr(c, part) for part in parts for c in m.classes]
        writer.writerow(["" if v is None else v for v in [*row, *ratios, *per_class]])
    return out.getvalue()


def markdown_table(evaluation: Evaluation) -> str:
    """Two tables, IoU and F1 per class, with the summary columns in the first; the worst scenario in bold."""
    tiles = _Column("tiles", tuple(str(s.tiles) for s in evaluation.scenarios))
    iou = [*_class_columns(evaluation), *_summary_columns(evaluation), tiles]
    f1 = _class_columns(evaluation, part="f1")
    lines = [f"# {title(evaluation)}", "", "IoU per class and summary", ""]
    lines += [*_markdown_lines(evaluation, iou), "", "F1 per class", "", *_markdown_lines(evaluation, f1)]
    return "\n".join([*lines, "", *(f"- {n}" for n in notes(evaluation))]) + "\n"


def title(evaluation: Evaluation) -> str:
    """Return one line: dataset, split, and which weights."""
    tiles = max((s.tiles for s in evaluation.scenarios), default=0)
    parts = [f"{evaluation.dataset}, {evaluation.split} split, {tiles} tiles"]
    if evaluation.step is not None:
        which = f" ({evaluation.checkpoint})" if evaluation.checkpoint else ""
        parts.append(f"step {evaluation.step}{which}")
    if evaluation.recipe is not None:
        parts.append(f"recipe {evaluation.recipe}, seed {evaluation.seed}")
    return "; ".join(parts)


def label(result: ScenarioResult) -> str:
    """Name a row below its group's heading: what the model was given."""
    return "+".join(result.available)


def notes(evaluation: Evaluation) -> list[str]:
    """Sentences under the table: mean, worst, absent classes, scenarios with fewer tiles."""
    lines = []
    mean, worst = evaluation.mean_miou, evaluation.worst
    if mean is not None and worst is not None:
        lines.append(
            f"Mean mIoU over the {len(evaluation.real)} scenarios: {mean:.3f}. Worst: {worst.name} with"
            f" {_number(worst.metrics.miou)} (gap to full {_number(evaluation.gap(worst))})."
        )
    lines += [n for k in range(len(evaluation.classes)) if (n := _absent_note(evaluation, k))]
    most = max((s.tiles for s in evaluation.real), default=0)
    short = [f"{s.name} {s.tiles}" for s in evaluation.real if s.tiles < most]
    if short:
        lines.append(
            f"Tiles that really lack a needed modality are left out; used of {most}: {', '.join(short)}."
        )
    return lines


def _absent_note(evaluation: Evaluation, k: int) -> str:
    found = [(s.name, s.metrics.classes[k]) for s in evaluation.real]
    if any(c.present for _, c in found):
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


def _number(value: float | None) -> str:
    return NONE if value is None else f"{value:.3f}"


def _class_columns(evaluation: Evaluation, *, part: str = "iou") -> list[_Column]:
    return [
        _Column(name, tuple(_number(getattr(s.metrics.classes[k], part)) for s in evaluation.scenarios))
        for k, name in enumerate(evaluation.classes)
    ]


def _summary_columns(evaluation: Evaluation) -> list[_Column]:
    rows = evaluation.scenarios
    columns = [_Column(head, tuple(_number(ratio(s)) for s in rows)) for head, ratio in _RATIOS]
    gaps = tuple(NONE if s.kind == "full" else _number(evaluation.gap(s)) for s in rows)
    return [*columns, _Column("gap", gaps)]


def _fit(columns: Sequence[_Column], *, room: int) -> list[list[_Column]]:
    """One block if cutting class names (down to 7 characters, still distinct) allows it, else several."""
    for limit in (99, 12, 10, 8, 7):
        short = [c.shorten(limit) for c in columns]
        distinct = len({c.head for c in short}) == len({c.head for c in columns})
        if distinct and sum(c.width + 2 for c in short) <= room:
            return [short]
    return _split(columns, room=room)


def _split(columns: Sequence[_Column], *, room: int) -> list[list[_Column]]:
    """Cut into blocks no wider than ``room``; the summary columns at the end stay together."""
    blocks: list[list[_Column]] = [[]]
    used = 0
    for i, column in enumerate(columns):
        rest = columns[i:] if i == len(columns) - _SUMMARY else [column]
        if blocks[-1] and used + sum(c.width + 2 for c in rest) > room:
            blocks.append([])
            used = 0
        blocks[-1].append(column)
        used += column.width + 2
    return blocks


def _block_lines(
    evaluation: Evaluation, names: Sequence[str], block: Sequence[_Column], *, left: int
) -> list[str]:
    lines = [f"{'IoU':<{left}}" + "".join(f"  {c.head:>{c.width}}" for c in block)]
    lines.append("-" * len(lines[0]))
    group = ""
    for i, s in enumerate(evaluation.scenarios):
        if s.kind != group:
            group = s.kind
            lines.append(_GROUPS[group])
        lines.append(f"{names[i]:<{left}}" + "".join(f"  {c.cells[i]:>{c.width}}" for c in block))
    return lines


def _markdown_lines(evaluation: Evaluation, columns: Sequence[_Column]) -> list[str]:
    heads = [c.head.replace("|", "\\|") for c in columns]
    lines = ["| scenario | " + " | ".join(heads) + " |", "|:--|" + "--:|" * len(columns)]
    for i, s in enumerate(evaluation.scenarios):
        name = f"**{s.name}** (worst)" if s == evaluation.worst else s.name
        lines.append(f"| {name} | " + " | ".join(c.cells[i] for c in columns) + " |")
    return lines
