"""``dis2 data index`` makes scenes a dataset without preparing them; ``dis2 data mix`` joins datasets."""

from __future__ import annotations

import argparse
from functools import partial
from typing import Any

from dis2_jax.cli.arguments import refuse
from dis2_jax.schema import Dis2Error


def add_index(actions: Any) -> None:
    """Add ``index``."""
    parser = actions.add_parser(
        "index",
        help="make GeoTIFF scenes a dataset folder that reads them where they lie",
        description="The card is that of `dis2 data prepare folder`, or names a list of scenes (CSV, Parquet).",
    )
    parser.add_argument("--card", required=True, metavar="TOML", help="what the files are")
    parser.add_argument(
        "--source", default=".", metavar="DIR", help="folder that its paths are relative to (.)"
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="dataset folder to write")
    parser.add_argument(
        "--samples", type=int, default=256, metavar="N", help="windows for mean and deviation (default: 256)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace a dataset that is at --out")
    parser.set_defaults(func=partial(_index, parser=parser))


def add_mix(actions: Any) -> None:
    """Add ``mix``."""
    parser = actions.add_parser("mix", help="join datasets of other modalities and classes into one")
    parser.add_argument("--recipe", metavar="TOML", help="which datasets, and how they are joined")
    parser.add_argument("--out", metavar="DIR", help="dataset folder to write")
    parser.add_argument("--overwrite", action="store_true", help="replace a dataset that is at --out")
    parser.add_argument("--example", action="store_true", help="print a commented recipe and stop")
    parser.set_defaults(func=partial(_mix, parser=parser))


def _index(arguments: argparse.Namespace, rest: list[str], *, parser: argparse.ArgumentParser) -> None:
    from dis2_jax.data.scenes.build import index_scenes

    refuse(rest, parser)
    made = index_scenes(
        arguments.source,
        arguments.card,
        arguments.out,
        samples=arguments.samples,
        overwrite=arguments.overwrite,
        progress=True,
    )
    _tell(made, arguments.out)


def _mix(arguments: argparse.Namespace, rest: list[str], *, parser: argparse.ArgumentParser) -> None:
    from dis2_jax.data.mixture.build import mix_datasets
    from dis2_jax.data.mixture.parser import EXAMPLE

    refuse(rest, parser)
    if arguments.example:
        print(EXAMPLE, end="")
        return
    if arguments.recipe is None or arguments.out is None:
        raise Dis2Error(
            "dis2 data mix: --recipe and --out are needed; --example prints a recipe to start from"
        )
    _tell(mix_datasets(arguments.recipe, arguments.out, overwrite=arguments.overwrite), arguments.out)


def _tell(made: Any, out: str) -> None:
    for note in made.notes:
        print(f"note: {note}")
    counts = ", ".join(f"{n} {split}" for split, n in made.card.splits.items())
    print(f"wrote {out}: {counts} tiles; look at it with `dis2 data inspect {out}`")
