"""``dis2 degrade``: what noise, gaps, shifts, old heights and clouds do, and when to switch to a student."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from dis2_jax.cli.arguments import refuse
from dis2_jax.cli.diagnose import add_choice, read_choice
from dis2_jax.schema import Dis2Error


def add_parser(subparsers: Any) -> None:
    """Add ``degrade``."""
    parser = subparsers.add_parser(
        "degrade",
        help="curves of mIoU against degraded inputs, and when to switch to a student",
        description="Degrade one modality at a time (sensor noise, part of the tile missing, shift in pixels, "
        "stale height, clouds) and score the full branch and the students that still use it, against the "
        "student that ignores it. Writes W/evaluation/degraded.json, .md, .png, .svg and degraded-classes.*; "
        "curves of earlier calls on the same weights and tiles stay. Interrupted, the same command goes on after the "
        "last finished severity.",
    )
    add_choice(parser)
    parser.add_argument(
        "--kind", metavar="K,...", help="of noise, partial, shift, stale, cloud (default: all that fit)"
    )
    parser.add_argument("--modality", metavar="M,...", help="which to degrade (default: each in turn)")
    parser.add_argument(
        "--severity", metavar="S,...", help="instead of the default ones; with one --kind (units differ)"
    )
    parser.add_argument(
        "--no-students", action="store_true", help="only the full branch, not the students that use it too"
    )
    parser.set_defaults(func=run, parser=parser)


def run(arguments: argparse.Namespace, rest: list[str]) -> int:
    """Measure with a progress bar, print the tables and what was written; 130 when interrupted."""
    refuse(rest, arguments.parser)
    severities = _numbers(arguments.severity)
    choice = read_choice(arguments)
    from tqdm import tqdm

    from dis2_jax.evaluation.degrade.run import Damage, Interrupted, degrade_workdir
    from dis2_jax.evaluation.degrade.tables import text_report

    damage = Damage(
        kinds=_words(arguments.kind),
        modalities=_words(arguments.modality),
        severities=severities,
        students=not arguments.no_students,
    )
    with tqdm(desc="degrade (compiles first)", unit="tile", leave=False) as bar:

        def advance(done: int, total: int) -> None:
            bar.total = total
            bar.set_description("degrade", refresh=False)
            bar.update(done - bar.n)

        try:
            report = degrade_workdir(arguments.workdir, choice, damage, on_line=advance)
        except Interrupted as e:
            bar.close()
            print(f"dis2: {e}", file=sys.stderr)
            return 130
    print(text_report(report.measured))
    kept = len(report.degraded.curves) - len(report.measured.curves)
    if kept:
        print(f"{kept} curves of earlier calls are in the files too.\n")
    for path in report.paths:
        print(path)
    return 0


def _words(text: str | None) -> tuple[str, ...]:
    return tuple(w.strip() for w in (text or "").split(",") if w.strip())


def _numbers(text: str | None) -> tuple[float, ...]:
    try:
        return tuple(float(w) for w in _words(text))
    except ValueError:
        raise Dis2Error(f"--severity {text!r}: write numbers, such as 0.5,1,2") from None
