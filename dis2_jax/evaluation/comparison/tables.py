"""A comparison as terminal text, Markdown and JSON."""

from __future__ import annotations

import dataclasses
import json
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from dis2_jax.evaluation.comparison.statistics import (
    WORST,
    Comparison,
    Difference,
    GroupStatistics,
    Statistic,
)
from dis2_jax.evaluation.tables.layout import NONE, Column, Rows, markdown_block, short_name, text_blocks

_HEADS = {
    "miou": "mIoU",
    "mf1": "mF1",
    "oa": "OA",
    "kappa": "kappa",
    "eroded_miou": "mIoU, eroded boundaries",
    "boundary_f1": "boundary F1",
    "ece": "expected calibration error",
    "scene_miou": "mIoU of whole scenes",
}


def text_comparison(comparison: Comparison, *, width: int = 100) -> str:
    """The groups, mIoU per scenario with differences, and IoU per class."""
    lines = [_title(comparison), ""]
    for i, g in enumerate(comparison.groups):
        lines += textwrap.wrap(_describe(i, g), width, initial_indent="  ", subsequent_indent="      ")
    lines.append("")
    rows = Rows(tuple(short_name(n) for n in _row_names(comparison)))
    lines += text_blocks("mIoU", rows, _columns(comparison, "miou"), width=width)
    for head, columns in _class_tables(comparison, "iou", interval=False):
        lines += text_blocks(head, Rows(rows.names[:-1]), columns, width=width)
    for note in _notes(comparison):
        lines += textwrap.wrap(note, width, subsequent_indent="    ", break_long_words=False)
    return "\n".join(lines).rstrip() + "\n"


def markdown_comparison(comparison: Comparison) -> str:
    """Every score: one table each, and IoU and F1 per class."""
    names = _row_names(comparison)
    lines = [f"# {_title(comparison)}", ""]
    lines += [f"- {_describe(i, g)}" for i, g in enumerate(comparison.groups)]
    for key, head in _HEADS.items():
        columns = _columns(comparison, key)
        if any(set(c.cells) != {NONE} for c in columns):
            lines += ["", head, "", *markdown_block("scenario", names, columns)]
    for part, name in (("iou", "IoU"), ("f1", "F1")):
        for head, columns in _class_tables(comparison, part, interval=True):
            lines += ["", head.replace("IoU", name), "", *markdown_block("scenario", names[:-1], columns)]
    return "\n".join([*lines, "", *(f"- {n}" for n in _notes(comparison))]) + "\n"


def json_comparison(comparison: Comparison) -> str:
    """Every number: groups with their runs, then row -> score -> mean, deviation, runs, difference."""
    first = comparison.groups[0].group.runs[0].evaluation
    head = {k: getattr(first, k) for k in ("dataset", "split", "classes", "excluded")}
    groups = []
    for g in comparison.groups:
        runs = [
            {
                "name": r.name,
                "path": str(r.path),
                "seed": r.evaluation.seed,
                "step": r.evaluation.step,
                "checkpoint": r.evaluation.checkpoint,
            }
            for r in g.group.runs
        ]
        rows = {row: {k: _statistic(s) for k, s in scores.items()} for row, scores in g.rows.items()}
        groups.append({"name": g.group.name, "differs": g.group.differs, "runs": runs, "scenarios": rows})
    baseline = comparison.groups[0].group.name if len(groups) > 1 else None
    bootstrap = {"samples": comparison.samples, "level": comparison.level}
    return json.dumps(
        {**head, "baseline": baseline, "bootstrap": bootstrap, "notes": comparison.notes, "groups": groups},
        indent=1,
    )


def _statistic(s: Statistic) -> dict[str, Any]:
    return dataclasses.asdict(s)


def _title(comparison: Comparison) -> str:
    first = comparison.groups[0].group.runs[0].evaluation
    runs = sum(len(g.group.runs) for g in comparison.groups)
    without = f" without {', '.join(first.excluded)}" if first.excluded else ""
    return f"{first.dataset}, {first.split} split{without}: {runs} runs, {len(comparison.groups)} settings"


def _describe(i: int, g: GroupStatistics) -> str:
    runs = ", ".join(r.name for r in g.group.runs)
    seeds = ", ".join("?" if s is None else str(s) for s in g.group.seeds)
    what = "; ".join(g.group.differs) or ("the first" if i == 0 else "")
    return f"#{i + 1} {runs} (seed {seeds})" + (f": {what}" if what else "")


def _row_names(comparison: Comparison) -> list[str]:
    return list(comparison.groups[0].rows)


def _columns(comparison: Comparison, key: str) -> list[Column]:
    """Per group its mean, and behind it the difference to the first."""
    columns = []
    for i, g in enumerate(comparison.groups):
        found = [scores.get(key) for scores in g.rows.values()]
        columns.append(Column(f"#{i + 1}", tuple(_value(s) for s in found)))
        if i:
            cells = tuple(_signed(s.difference if s else None) for s in found)
            columns.append(Column(f"#{i + 1} - #1", cells))
    return columns


def _class_tables(comparison: Comparison, part: str, *, interval: bool) -> list[tuple[str, list[Column]]]:
    """Per group its mean per class, and for all but the first its difference; without the worst scenario."""
    classes = comparison.groups[0].group.runs[0].evaluation.classes
    tables = []
    for i, g in enumerate(comparison.groups):
        columns = [
            Column(c, tuple(_value(row.get(f"{part}/{c}")) for row in _class_rows(g))) for c in classes
        ]
        tables.append((f"IoU of #{i + 1}", _known(columns)))
        if i:
            columns = [
                Column(
                    c,
                    tuple(
                        _signed(s.difference if (s := row.get(f"{part}/{c}")) else None, interval=interval)
                        for row in _class_rows(g)
                    ),
                )
                for c in classes
            ]
            tables.append((f"IoU #{i + 1} - #1", _known(columns)))
    return tables


def _class_rows(g: GroupStatistics) -> list[Mapping[str, Statistic]]:
    return [scores for row, scores in g.rows.items() if row != WORST]


def _known(columns: Sequence[Column]) -> list[Column]:
    """Leave out classes that no row has a number for, unless that is all of them."""
    return [c for c in columns if set(c.cells) != {NONE}] or list(columns)


def _value(s: Statistic | None) -> str:
    if s is None or s.mean is None:
        return NONE
    return f"{s.mean:.3f}" + ("" if s.deviation is None else f" ±{s.deviation:.3f}")


def _signed(d: Difference | None, *, interval: bool = True) -> str:
    """Difference, deviation over pairs, interval, and a star where the interval leaves 0 out."""
    if d is None:
        return NONE
    text = f"{d.mean:+.3f}" + ("" if d.deviation is None else f" ±{d.deviation:.3f}")
    if interval and d.interval is not None:
        text += f" ({d.interval[0]:+.3f}..{d.interval[1]:+.3f})"
    return f"{text}*" if d.certain else text


def _notes(comparison: Comparison) -> list[str]:
    lines = []
    if any(
        s.deviation is not None for g in comparison.groups for row in g.rows.values() for s in row.values()
    ):
        lines.append(
            "± is the standard deviation (n - 1) over runs; of a difference, over runs paired by seed."
        )
    has_interval = any(
        s.difference is not None and s.difference.interval is not None
        for g in comparison.groups
        for row in g.rows.values()
        for s in row.values()
    )
    if has_interval:
        lines.append(
            f"In brackets: {100 * comparison.level:g} % interval of the difference over {comparison.samples}"
            " resamples of the tiles, the same tiles in all runs; * where it leaves 0 out. It does not hold the"
            " spread between seeds."
        )
    return [*lines, *(f"{n[0].upper()}{n[1:]}." for n in comparison.notes)]
