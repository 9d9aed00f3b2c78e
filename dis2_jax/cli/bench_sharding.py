"""``dis2 bench sharding``: memory, time and traffic of a training step under several strategies."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

from dis2_jax.cli.arguments import parse_tile, write_json

DEFAULT = ("dp", "zero1", "fsdp", "spatial")
"""``class`` needs as many classes as devices, or axes that fit both."""


def add_parser(which: Any) -> None:
    """Add ``sharding`` to the benchmarks."""
    parser = which.add_parser(
        "sharding",
        help="one training step under several strategies",
        description="Compile and time one training step on random data under each strategy, on all devices here"
        " (JAX_NUM_CPU_DEVICES=8 makes eight out of a CPU). Also: --config.a.b=value, as in `dis2 train`.",
    )
    parser.add_argument("--config", metavar="FILE", help="configs/*.py (default: the built-in values)")
    parser.add_argument(
        "--strategies",
        nargs="+",
        metavar="S",
        default=DEFAULT,
        help=f"name, name@axes:sizes, either with /remat (default: {' '.join(DEFAULT)})",
    )
    parser.add_argument("--tile", metavar="N or HxW", help="pixels (default: the config's crop, or 128)")
    parser.add_argument("--batch", type=int, metavar="B", help="tiles per step (default: the config's)")
    parser.add_argument(
        "--steps",
        type=int,
        default=3,
        metavar="N",
        help="timed steps (default: 3; 0: memory and traffic only)",
    )
    parser.add_argument(
        "--modalities", metavar="a:C,b:C", help="when the dataset is not there (default: rgb:3,ndsm:1)"
    )
    parser.add_argument("--classes", type=int, metavar="K", help="likewise (default: 5)")
    parser.add_argument("--json", metavar="FILE", help="also write the figures there")
    parser.set_defaults(func=run)


def run(arguments: argparse.Namespace, rest: list[str]) -> None:
    """Measure and print a markdown table."""
    from dis2_jax.bench_sharding import HEAD, bench_sharding
    from dis2_jax.cli.bench import dataset_card, default_tile, read_config

    config = read_config(arguments.config, rest)
    tile = parse_tile(arguments.tile) if arguments.tile else default_tile(config)
    card = dataset_card(config, arguments, tile)
    batch = config.data.batch_size if arguments.batch is None else arguments.batch
    print(HEAD)
    rows = []
    # Each as soon as it is there: the next one may be refused after minutes.
    for row in bench_sharding(
        config, card, arguments.strategies, tile=tile, batch=batch, steps=arguments.steps
    ):
        print(row.line(), flush=True)
        rows.append(row)
    if arguments.json:
        write_json(Path(arguments.json), {row.name: dataclasses.asdict(row) for row in rows})
