"""``dis2 compare``: several evaluated runs or seeds side by side."""

from __future__ import annotations

import argparse
from typing import Any

from dis2_jax.cli.arguments import refuse


def add_parser(subparsers: Any) -> None:
    """Add ``compare``."""
    parser = subparsers.add_parser(
        "compare",
        help="mean, deviation and paired differences of several evaluated runs",
        description="Compare runs that `dis2 evaluate` has scored on the same split. Runs that differ only in "
        "seed are one setting: mean and standard deviation. Other settings are compared with the first, or with "
        "--baseline, with bootstrap intervals over the tiles.",
    )
    parser.add_argument(
        "runs", nargs="+", metavar="W", help="workdir, or an evaluation*.json that `dis2 evaluate` wrote"
    )
    parser.add_argument(
        "--baseline",
        nargs="+",
        default=[],
        metavar="W0",
        help="the run (or the seeds of one setting) to take differences to",
    )
    parser.add_argument("--split", metavar="NAME", help="default: what evaluation.json of each run holds")
    parser.add_argument(
        "--bootstrap", type=int, default=1000, metavar="N", help="resamples of the tiles (default: 1000)"
    )
    parser.add_argument("--out", metavar="DIR", help="write comparison.md and comparison.json there")
    parser.set_defaults(func=run, parser=parser)


def run(arguments: argparse.Namespace, rest: list[str]) -> None:
    """Print the tables, and write them with ``--out``."""
    refuse(rest, arguments.parser)
    from dis2_jax.evaluation.comparison.compare import compare_runs, write_comparison
    from dis2_jax.evaluation.comparison.tables import text_comparison

    comparison = compare_runs(
        arguments.runs, baseline=arguments.baseline, split=arguments.split, samples=arguments.bootstrap
    )
    print(text_comparison(comparison))
    if arguments.out:
        for path in write_comparison(comparison, arguments.out):
            print(path)
