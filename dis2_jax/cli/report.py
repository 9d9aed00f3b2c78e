"""``dis2 report``: one HTML page about a run."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from dis2_jax.cli.arguments import add_run, refuse
from dis2_jax.cli.evaluate import parse_checkpoint


def add_parser(subparsers: Any) -> None:
    """Add ``report``."""
    parser = subparsers.add_parser(
        "report",
        help="one self-contained HTML page about a run, and its figures as PNG and SVG",
        description="Write a page that opens in any browser, offline: scores of every scenario and class, gaps,"
        " confusion, tiles, calibration, diagnostics, curves, dataset, config, code, hardware and cost. The"
        " figures lie as files in <page>_figures beside it. The run is evaluated first if it was not yet.",
    )
    add_run(parser)
    parser.add_argument("--out", metavar="FILE.html", help="default: W/report.html")
    parser.add_argument(
        "--tiles",
        type=int,
        default=2,
        metavar="N",
        help="best, typical and worst tiles, N of each (default: 2; 0: none, which is quicker)",
    )
    parser.set_defaults(func=run, parser=parser)


def run(arguments: argparse.Namespace, rest: list[str]) -> None:
    """Build with progress on stderr; print what is missing and where the page is."""
    refuse(rest, arguments.parser)
    checkpoint = parse_checkpoint(arguments.checkpoint)
    from tqdm import tqdm

    from dis2_jax.evaluation.report.build import ReportOptions, build_report

    options = ReportOptions(
        out=arguments.out, split=arguments.split, checkpoint=checkpoint, tiles=arguments.tiles
    )
    bars: list[Any] = []

    def advance(done: int, total: int) -> None:
        if not bars:
            bars.append(tqdm(desc="evaluate", unit="tile", total=total, leave=False))
        bars[0].update(done - bars[0].n)
        if done == total:
            bars[0].close()

    def say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    built = build_report(arguments.workdir, options, say=say, on_batch=advance)
    for line in built.missing:
        print(f"missing  {line}")
    print(f"figures  {built.figures}")
    print(f"report   {built.page}")
