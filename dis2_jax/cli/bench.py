"""``dis2 bench step``: how long one training step takes, and what it needs; the others: see their files."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dis2_jax.cli import bench_input, bench_plan, bench_predict, bench_sharding
from dis2_jax.cli.arguments import parse_tile, write_json
from dis2_jax.schema import CARD_FILE, DatasetCard, Dis2Error

if TYPE_CHECKING:
    from dis2_jax.config import Config

DEFAULT_MODALITIES = "rgb:3,ndsm:1"
DEFAULT_CLASSES = 5


def add_parser(subparsers: Any) -> None:
    """Add ``bench`` with ``step``, ``predict``, ``plan``, ``input``, ``encodings`` and ``sharding``."""
    bench = subparsers.add_parser("bench", help="measure speed and memory")
    which = bench.add_subparsers(dest="benchmark", required=True, metavar="BENCHMARK")
    parser = which.add_parser(
        "step",
        help="one training step on random data",
        description="Compile and time one training step on random data; no dataset is needed. "
        "Further options: --config.a.b=value, as in `dis2 train`.",
    )
    parser.add_argument("--config", metavar="FILE", help="configs/*.py (default: the built-in values)")
    parser.add_argument("--tile", metavar="N or HxW", help="pixels (default: the config's crop, or 128)")
    parser.add_argument("--batch", type=int, metavar="B", help="tiles per step (default: the config's)")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float64"), help="default: the config's")
    parser.add_argument("--steps", type=int, default=10, metavar="N", help="timed steps (default: 10)")
    parser.add_argument(
        "--modalities",
        metavar="a:C,b:C",
        help=f"when the dataset is not there (default: {DEFAULT_MODALITIES})",
    )
    parser.add_argument("--classes", type=int, metavar="K", help=f"likewise (default: {DEFAULT_CLASSES})")
    parser.add_argument("--json", metavar="FILE", help="also write the figures there")
    parser.set_defaults(func=run)
    bench_predict.add_parser(which)
    bench_plan.add_parser(which)
    bench_input.add_parsers(which)
    bench_sharding.add_parser(which)


def run(arguments: argparse.Namespace, rest: list[str]) -> None:
    """Measure and print."""
    from dis2_jax.bench import bench_step

    config = read_config(arguments.config, rest)
    if arguments.dtype:
        config = dataclasses.replace(config, model=dataclasses.replace(config.model, dtype=arguments.dtype))
    tile = parse_tile(arguments.tile) if arguments.tile else default_tile(config)
    card = dataset_card(config, arguments, tile)
    batch = config.data.batch_size if arguments.batch is None else arguments.batch
    result = bench_step(config, card, tile=tile, batch=batch, steps=arguments.steps)
    print("\n".join(result.lines()))
    if arguments.json:
        write_json(Path(arguments.json), dataclasses.asdict(result))


def read_config(path: str | None, rest: list[str]) -> Config:
    """Read a config file, or the built-in values, with ``--config.a.b=value`` on top."""
    from dis2_jax import config_file, recipes
    from dis2_jax.config import Config

    if path:
        return config_file.load(path, rest)
    overrides = config_file.parse_overrides(rest)
    base = recipes.base(overrides.get("recipe", "ours")).to_dict()
    return config_file.override(Config.from_dict(base), overrides)


def parse_modalities(text: str) -> list[tuple[str, int]]:
    """Read ``rgb:3,ndsm:1``."""
    found = []
    for item in text.split(","):
        name, _, channels = item.strip().partition(":")
        if not channels.isdigit():
            raise Dis2Error(f"--modalities {text!r}: write name:channels, such as {DEFAULT_MODALITIES}")
        found.append((name, int(channels)))
    return found


def default_tile(config: Config) -> tuple[int, int]:
    """The config's crop, or 128 x 128."""
    return config.data.crop if min(config.data.crop) > 0 else (128, 128)


def dataset_card(config: Config, arguments: argparse.Namespace, tile: tuple[int, int]) -> DatasetCard:
    """The config's dataset where it is prepared and nothing else is asked for; else one made up."""
    from dis2_jax.random_tiles import random_card

    prepared = bool(config.data.dir) and (Path(config.data.dir) / CARD_FILE).is_file()
    if prepared and arguments.modalities is None and arguments.classes is None:
        return DatasetCard.load(config.data.dir).select(config.data.modalities)
    if arguments.modalities is None and config.data.modalities:
        named = ",".join(f"{name}:CHANNELS" for name in config.data.modalities)
        raise Dis2Error(f"{config.data.dir or 'the dataset'} is not there: give --modalities {named}")
    classes = DEFAULT_CLASSES if arguments.classes is None else arguments.classes
    modalities = parse_modalities(arguments.modalities or DEFAULT_MODALITIES)
    return random_card(modalities, classes=classes, tile=tile)
