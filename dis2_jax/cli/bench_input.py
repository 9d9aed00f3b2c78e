"""``dis2 bench input`` and ``dis2 bench encodings``: is the data there in time, and how is it best stored?"""

from __future__ import annotations

import argparse
import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

from dis2_jax.cli.arguments import refuse, write_json


def add_parsers(which: Any) -> None:
    """Add ``input`` and ``encodings`` to the benchmarks."""
    parser = which.add_parser(
        "input",
        help="the input pipeline of a config, on its dataset",
        description="Time reading, decoding, augmenting, batching and the transfer to the device, the pipeline as"
        " a whole, and how long steps of a given time wait for it. Also: --config.a.b=value, as in `dis2 train`.",
    )
    parser.add_argument("--config", metavar="FILE", help="configs/*.py (default: the built-in values)")
    parser.add_argument(
        "--step-ms", type=float, metavar="X", help="time of a step, as `dis2 bench step` says"
    )
    parser.add_argument("--workers", type=int, metavar="N", help="reader processes (default: the config's)")
    parser.add_argument(
        "--seconds", type=float, default=10.0, metavar="S", help="per measurement (default: 10)"
    )
    parser.add_argument("--json", metavar="FILE", help="also write the figures there")
    parser.set_defaults(func=_input)
    parser = which.add_parser("encodings", help="size and decoding time of a dataset's tiles, by encoding")
    parser.add_argument("dir", metavar="DIR", help="dataset folder")
    parser.add_argument("--split", default="train", help="split to take tiles from (default: train)")
    parser.add_argument("--tiles", type=int, default=32, metavar="N", help="tiles (default: 32)")
    parser.add_argument("--json", metavar="FILE", help="also write the figures there")
    parser.set_defaults(func=partial(_encodings, parser=parser))


def _input(arguments: argparse.Namespace, rest: list[str]) -> None:
    from dis2_jax.bench_input import bench_input
    from dis2_jax.cli.bench import read_config

    if arguments.workers is not None:
        rest = [*rest, f"--config.data.workers={arguments.workers}"]
    config = read_config(arguments.config, rest)
    result = bench_input(config, step_ms=arguments.step_ms, seconds=arguments.seconds)
    print("\n".join(result.lines()))
    if arguments.json:
        write_json(Path(arguments.json), dataclasses.asdict(result))


def _encodings(arguments: argparse.Namespace, rest: list[str], *, parser: argparse.ArgumentParser) -> None:
    from dis2_jax.bench_encodings import bench_encodings

    refuse(rest, parser)
    result = bench_encodings(arguments.dir, split=arguments.split, tiles=arguments.tiles)
    print("\n".join(result.lines()))
    if arguments.json:
        write_json(Path(arguments.json), dataclasses.asdict(result))
