"""``dis2 data prepare sen12ms | dfc2020 | terramind_mini``: their options."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from dis2_jax.cli.arguments import parse_names
from dis2_jax.cli.prepare_isprs import AddOut

if TYPE_CHECKING:
    from dis2_jax.data.builders.scene_jobs import SceneDataset


def add_sentinel(names: Any, add_out: AddOut) -> None:
    """Add the three."""
    sen12ms = names.add_parser(
        "sen12ms", help="SEN12MS: Sentinel-1, Sentinel-2 and MODIS land cover", description=_DESCRIPTION
    )
    _add_patch_options(sen12ms, scheme="simplified", validation="those of the owners' ValidationScenes.txt")
    add_out(sen12ms, partial(_find_patches, name="sen12ms"))
    dfc2020 = names.add_parser(
        "dfc2020",
        help="data fusion contest 2020: Sentinel-1, Sentinel-2 and land cover",
        description=_DESCRIPTION,
    )
    _add_patch_options(
        dfc2020, scheme="contest", validation="held out patches; of the release by cities Chabarovsk"
    )
    dfc2020.add_argument(
        "--label", choices=("dfc", "lc"), default="dfc", help="10 m reference or MODIS (default: dfc)"
    )
    dfc2020.add_argument(
        "--holdout",
        type=int,
        default=100,
        metavar="N",
        help="training patches kept for validation where no scene is (default: 100)",
    )
    add_out(dfc2020, partial(_find_patches, name="dfc2020"))
    terramind = names.add_parser(
        "terramind_mini", help="TerraMind's five example scenes: Sentinel-2 L2A, Sentinel-1 RTC, heights"
    )
    _add_terramind_options(terramind)
    add_out(terramind, _find_terramind)


_DESCRIPTION = (
    "Files are found by their published names (ROIs1158_spring_s1_1_p30.tif and the like) below --source, in "
    "folders or zip archives; .tar.gz must be unpacked. SCENES are patterns such as 'ROIs1158_spring_*', by comma."
)


def _add_patch_options(parser: argparse.ArgumentParser, *, scheme: str, validation: str) -> None:
    from dis2_jax.data.builders.land_cover import Scheme

    parser.add_argument("--source", required=True, metavar="DIR|ZIP", help="folder or archive with the files")
    parser.add_argument(
        "--scheme",
        choices=get_args(Scheme),
        default=scheme,
        help=f"8 scored classes, 10 simplified, 17 IGBP (default: {scheme})",
    )
    parser.add_argument(
        "--s1-bands", type=parse_names, default=(), metavar="BANDS", help="of VV,VH (default: both)"
    )
    parser.add_argument(
        "--s2-bands",
        type=parse_names,
        default=(),
        metavar="BANDS",
        help="such as B02,B03,B04,B08 (default: all 13)",
    )
    parser.add_argument(
        "--dem",
        action="store_true",
        help="use heights, dem_1/ROIs1158_spring_dem_1_p30.tif, where there are some",
    )
    parser.add_argument(
        "--only", type=parse_names, default=(), metavar="SCENES", help="use these scenes alone"
    )
    parser.add_argument(
        "--validation", type=parse_names, metavar="SCENES", help=f"scenes to hold out (default: {validation})"
    )
    parser.add_argument(
        "--test", type=parse_names, metavar="SCENES", help="test scenes (default: the official ones)"
    )
    parser.add_argument(
        "--lists", metavar="DIR", help="folder with train_list.txt, val_list.txt, test_list.txt of file names"
    )
    parser.add_argument(
        "--tile", type=int, default=256, metavar="PIXELS", help="side of a tile (default: 256)"
    )


def _add_terramind_options(parser: argparse.ArgumentParser) -> None:
    from dis2_jax.data.builders.terramind_mini import TerramindOptions

    default = TerramindOptions(Path())
    parser.add_argument(
        "--source", required=True, metavar="DIR", help="folder with S2L2A, S1RTC, DEM and LULC"
    )
    parser.add_argument(
        "--s2-bands",
        type=parse_names,
        default=(),
        metavar="BANDS",
        help="such as B02,B03,B04,B08 (default: all 12)",
    )
    for split in ("validation", "test"):
        scenes = getattr(default, split)
        parser.add_argument(
            f"--{split}",
            type=parse_names,
            default=scenes,
            metavar="SCENES",
            help=f"default: {','.join(scenes)}",
        )
    parser.add_argument(
        "--tile",
        type=int,
        default=default.tile,
        metavar="PIXELS",
        help=f"side of a tile (default: {default.tile})",
    )


def _find_patches(arguments: argparse.Namespace, *, name: str) -> SceneDataset:
    from dis2_jax.data.builders.sentinel_dataset import SentinelOptions, find_sentinel

    contest: dict[str, Any] = {"name": "sen12ms", "label": "lc"}
    if name == "dfc2020":
        contest = {"name": "dfc2020", "label": arguments.label, "holdout": arguments.holdout}
    return find_sentinel(
        SentinelOptions(
            Path(arguments.source),
            **contest,
            scheme=arguments.scheme,
            s1_bands=arguments.s1_bands,
            s2_bands=arguments.s2_bands,
            dem=arguments.dem,
            only=arguments.only,
            validation=arguments.validation,
            test=arguments.test,
            lists=Path(arguments.lists) if arguments.lists else None,
            tile=arguments.tile,
        )
    )


def _find_terramind(arguments: argparse.Namespace) -> SceneDataset:
    from dis2_jax.data.builders.terramind_mini import TerramindOptions, find_terramind

    return find_terramind(
        TerramindOptions(
            Path(arguments.source),
            validation=arguments.validation,
            test=arguments.test,
            s2_bands=arguments.s2_bands,
            tile=arguments.tile,
        )
    )
