"""``dis2 data prepare NAME`` makes a dataset folder; ``dis2 data inspect DIR`` looks at one."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dis2_jax.cli.arguments import parse_pairs, refuse
from dis2_jax.cli.data_index import add_index, add_mix
from dis2_jax.cli.prepare_isprs import add_isprs
from dis2_jax.cli.prepare_sentinel import add_sentinel
from dis2_jax.schema import Dis2Error

if TYPE_CHECKING:
    from dis2_jax.data.builders.scene_jobs import SceneDataset
    from dis2_jax.data.preparing.engines import Engine

Build = Callable[[argparse.Namespace], "SceneDataset"]
"""Arguments -> the dataset that they describe, its source files looked at."""


def add_parser(subparsers: Any) -> None:
    """Add ``data`` with ``prepare``, ``index``, ``mix`` and ``inspect``."""
    data = subparsers.add_parser("data", help="prepare and inspect datasets")
    actions = data.add_subparsers(dest="action", required=True, metavar="ACTION")
    prepare = actions.add_parser("prepare", help="turn source files into a dataset folder")
    names = prepare.add_subparsers(dest="name", required=True, metavar="NAME")
    _add_synthetic_city(names)
    _add_ombria(names)
    _add_folder(names)
    add_index(actions)
    add_mix(actions)
    add_isprs(names, _add_out)
    add_sentinel(names, _add_out)
    inspect = actions.add_parser(
        "inspect", help="check every record, print counts and statistics, draw a contact sheet"
    )
    inspect.add_argument("dir", metavar="DIR", help="dataset folder")
    inspect.add_argument("--sheet", metavar="PNG", help="where to draw (default: DIR/contact_sheet.png)")
    inspect.add_argument("--split", default="train", help="split that the sheet shows (default: train)")
    inspect.add_argument("--rows", type=int, default=8, metavar="N", help="tiles on the sheet (default: 8)")
    inspect.set_defaults(func=partial(_inspect, parser=inspect))


def _add_synthetic_city(names: Any) -> None:
    parser = names.add_parser(
        "synthetic_city", help="embedded demo data: procedural scenes, RGB and height, 6 classes"
    )
    parser.add_argument("--train-scenes", type=int, default=24, metavar="N", help="default: 24")
    parser.add_argument("--validation-scenes", type=int, default=8, metavar="N", help="default: 8")
    parser.add_argument(
        "--test-scenes", type=int, default=8, metavar="N", help="default: 8; 0: no test split"
    )
    parser.add_argument(
        "--scene", type=int, default=256, metavar="PIXELS", help="side of a scene (default: 256)"
    )
    parser.add_argument("--tile", type=int, default=64, metavar="PIXELS", help="side of a tile (default: 64)")
    parser.add_argument("--seed", type=int, default=0, help="another seed, another city (default: 0)")
    _add_out(parser, _synthetic_city)


def _add_ombria(names: Any) -> None:
    parser = names.add_parser("ombria", help="OMBRIA flood chips: Sentinel-1 and -2, before and after")
    parser.add_argument("--source", required=True, metavar="DIR", help="folder with OmbriaS1 and OmbriaS2")
    parser.add_argument(
        "--holdout",
        type=int,
        default=48,
        metavar="N",
        help="training chips kept for validation (default: 48)",
    )
    parser.add_argument(
        "--keep-clouds",
        action="store_true",
        help="call fully clouded Sentinel-2 after-chips available all the same",
    )
    _add_out(parser, _ombria)


def _add_folder(names: Any) -> None:
    parser = names.add_parser(
        "folder",
        help="bring your own PNG or GeoTIFF files with a TOML card",
        description="`dis2 data prepare folder --example-card > card.toml` gives a card to start from.",
    )
    parser.add_argument("--source", metavar="DIR", help="folder that the card's patterns are relative to")
    parser.add_argument("--card", metavar="TOML", help="what the files are")
    parser.add_argument("--example-card", action="store_true", help="print a commented card and stop")
    _add_out(parser, _folder, required=False)


def _add_out(parser: argparse.ArgumentParser, build: Build, *, required: bool = True) -> None:
    parser.add_argument("--out", required=required, metavar="DIR", help="dataset folder to write")
    parser.add_argument(
        "--overwrite", action="store_true", help="replace a prepared dataset that is at --out"
    )
    parser.add_argument(
        "--workers", type=int, metavar="N", help="processes (default: one per core; 0: this one alone)"
    )
    parser.add_argument(
        "--engine", choices=("local", "dask"), default="local", help="what runs the jobs (default: local)"
    )
    parser.add_argument(
        "--engine-options",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        help="dask: scheduler=ADDRESS or its scheduler file (default: --workers here), retries=N (default: 3)",
    )
    parser.add_argument(
        "--encoding",
        choices=("raw", "zlib", "zstd"),
        default="zstd",
        help="how rasters are stored (default: zstd; raw: no compression, fastest to read, largest)",
    )
    parser.set_defaults(func=partial(_prepare, parser=parser, build=build))


def _prepare(
    arguments: argparse.Namespace, rest: list[str], *, parser: argparse.ArgumentParser, build: Build
) -> int:
    refuse(rest, parser)
    if getattr(arguments, "example_card", False):
        from dis2_jax.data.builders.example_card import EXAMPLE_CARD

        print(EXAMPLE_CARD, end="")
        return 0
    from dis2_jax.data.prepare import check_out, prepare

    if arguments.out is None:
        raise Dis2Error(f"{parser.prog}: --out is missing: name the folder to write")
    engine = _engine(arguments)
    check_out(arguments.out, overwrite=arguments.overwrite)
    try:
        prepared = prepare(
            build(arguments),
            arguments.out,
            engine=engine,
            overwrite=arguments.overwrite,
            encoding=arguments.encoding,
            progress=True,
        )
    except KeyboardInterrupt:
        print("\ndis2: interrupted; run the same command again to go on", file=sys.stderr)
        return 130
    for note in prepared.notes:
        print(f"note: {note}")
    counts = ", ".join(f"{n} {split}" for split, n in prepared.card.splits.items())
    print(f"wrote {arguments.out}: {counts} tiles; look at it with `dis2 data inspect {arguments.out}`")
    return 0


def _engine(arguments: argparse.Namespace) -> Engine:
    from dis2_jax.data.preparing.engines import local_engine

    options = parse_pairs(arguments.engine_options, option="--engine-options")
    if arguments.engine == "local":
        if options:
            raise Dis2Error(
                "--engine-options: the local engine has none; --workers is all there is to choose"
            )
        return local_engine(arguments.workers)
    from dis2_jax.data.preparing.dask_engine import DaskEngine

    return DaskEngine.of(options, workers=arguments.workers)


def _synthetic_city(arguments: argparse.Namespace) -> SceneDataset:
    from dis2_jax.data.builders.synthetic_city import SyntheticCity, SyntheticCityOptions

    return SyntheticCity(
        SyntheticCityOptions(
            train_scenes=arguments.train_scenes,
            validation_scenes=arguments.validation_scenes,
            test_scenes=arguments.test_scenes,
            scene=arguments.scene,
            tile=arguments.tile,
            seed=arguments.seed,
        )
    )


def _ombria(arguments: argparse.Namespace) -> SceneDataset:
    from dis2_jax.data.builders.ombria import OmbriaOptions, find_ombria

    return find_ombria(
        OmbriaOptions(Path(arguments.source), holdout=arguments.holdout, keep_clouds=arguments.keep_clouds)
    )


def _folder(arguments: argparse.Namespace) -> SceneDataset:
    from dis2_jax.data.builders.folder import find_folder

    for name in ("source", "card"):
        if getattr(arguments, name) is None:
            raise Dis2Error(
                f"dis2 data prepare folder: --{name} is missing; --example-card prints a card to start from"
            )
    return find_folder(arguments.source, arguments.card, progress=True)


def _inspect(arguments: argparse.Namespace, rest: list[str], *, parser: argparse.ArgumentParser) -> None:
    from dis2_jax.data.inspect import SHEET_FILE, describe, draw_contact_sheet, inspect_dataset

    refuse(rest, parser)
    if arguments.rows < 1:
        raise Dis2Error(f"--rows {arguments.rows}: it must be at least 1")
    inspection = inspect_dataset(arguments.dir, progress=True)
    print(describe(inspection))
    path = Path(arguments.sheet) if arguments.sheet else Path(arguments.dir) / SHEET_FILE
    draw_contact_sheet(arguments.dir, inspection.card, path, split=arguments.split, rows=arguments.rows)
    print(f"\nevery record read and checked; contact sheet: {path}")
