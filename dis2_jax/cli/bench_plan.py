"""``dis2 bench plan``: the model of time of ``dis2 plan`` against steps measured on this CPU."""

from __future__ import annotations

import argparse
import dataclasses
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dis2_jax.cli.arguments import write_json
from dis2_jax.schema import Dis2Error

if TYPE_CHECKING:
    from dis2_jax.planning.check import Check, Size

DEFAULT_SIZES = "8:32:8,8:64:4,8:128:1,8:128:4,16:32:2,16:64:2,16:128:1"


def add_parser(which: Any) -> None:
    """Add ``plan`` to the benchmarks."""
    parser = which.add_parser(
        "plan",
        help="how far the predictions of `dis2 plan` are off",
        description="Describe one core of this CPU by two micro-benchmarks, predict training steps of several sizes"
        " for it, run them, and compare. Further options: --config.a.b=value, as in `dis2 train`.",
    )
    parser.add_argument("--config", metavar="FILE", help="configs/*.py (default: the built-in values)")
    parser.add_argument(
        "--sizes",
        default=DEFAULT_SIZES,
        metavar="W:T:B,...",
        help=f"width:tile:batch (default: {DEFAULT_SIZES})",
    )
    parser.add_argument("--steps", type=int, default=5, metavar="N", help="timed steps each (default: 5)")
    parser.add_argument("--json", metavar="FILE", help="also write the figures there")
    parser.set_defaults(func=run)


def run(arguments: argparse.Namespace, rest: list[str]) -> None:
    """Measure and print."""
    from dis2_jax.cli.bench import read_config
    from dis2_jax.planning.check import check_model

    config = read_config(arguments.config, rest)
    check = check_model(config, parse_sizes(arguments.sizes), steps=arguments.steps)
    print("\n".join(check.lines()))
    if arguments.json:
        write_json(Path(arguments.json), _figures(check))


def parse_sizes(text: str) -> list[Size]:
    """Read ``width:tile:batch,...``."""
    from dis2_jax.planning.check import Size

    found = []
    for item in text.split(","):
        match = re.fullmatch(r"\s*(\d+):(\d+):(\d+)\s*", item)
        if not match:
            raise Dis2Error(f"--sizes {text!r}: write width:tile:batch,... such as 8:64:4,16:128:1")
        found.append(Size(*(int(n) for n in match.groups())))
    return found


def _figures(check: Check) -> dict[str, Any]:
    return {**dataclasses.asdict(check), "factor": check.factor, "spread": check.spread}
