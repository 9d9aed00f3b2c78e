"""``dis2 data prepare potsdam | vaihingen``: their options."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from dis2_jax.cli.arguments import parse_names

if TYPE_CHECKING:
    from dis2_jax.data.builders.isprs import Benchmark
    from dis2_jax.data.builders.scene_jobs import SceneDataset

AddOut = Callable[[argparse.ArgumentParser, Callable[[argparse.Namespace], "SceneDataset"]], None]


def add_isprs(names: Any, add_out: AddOut) -> None:
    """Add both benchmarks."""
    from dis2_jax.data.builders.potsdam import POTSDAM
    from dis2_jax.data.builders.potsdam import VALIDATION as POTSDAM_VALIDATION
    from dis2_jax.data.builders.vaihingen import VAIHINGEN
    from dis2_jax.data.builders.vaihingen import VALIDATION as VAIHINGEN_VALIDATION

    potsdam = names.add_parser(
        "potsdam", help="ISPRS Potsdam, 5 cm: RGB, IRRG or RGBIR, and heights", description=_DESCRIPTION
    )
    _add_options(potsdam, POTSDAM, validation=POTSDAM_VALIDATION)
    add_out(potsdam, partial(_find, benchmark=POTSDAM))
    vaihingen = names.add_parser(
        "vaihingen", help="ISPRS Vaihingen, 9 cm: IRRG and heights", description=_DESCRIPTION
    )
    _add_options(vaihingen, VAIHINGEN, validation=VAIHINGEN_VALIDATION)
    add_out(vaihingen, partial(_find, benchmark=VAIHINGEN))


_DESCRIPTION = (
    "Files are found by their published names, below --source, in folders or in zip archives (which stay packed). "
    "Sides that --tile does not divide give padded tiles: the image mirrored, the label ignored."
)


def _add_options(
    parser: argparse.ArgumentParser, benchmark: Benchmark, *, validation: tuple[str, ...]
) -> None:
    from dis2_jax.data.builders.align import Align
    from dis2_jax.data.builders.isprs import Edges, Height, Labels
    from dis2_jax.data.builders.isprs_labels import Stray

    images, heights = tuple(benchmark.images), tuple(benchmark.ndsm)
    parser.add_argument("--source", required=True, metavar="DIR|ZIP", help="folder or archive with the files")
    parser.add_argument("--image", choices=images, default=images[0], help=f"default: {images[0]}")
    parser.add_argument(
        "--height",
        choices=get_args(Height),
        default="ndsm",
        help="above ground or of the surface (default: ndsm)",
    )
    parser.add_argument(
        "--ndsm", choices=heights, default=heights[0], help=f"which one (default: {heights[0]})"
    )
    parser.add_argument(
        "--labels",
        choices=get_args(Labels),
        default="full",
        help="eroded: boundaries are ignored (default: full)",
    )
    parser.add_argument(
        "--clutter", default="class", metavar="POLICY", help="class, ignore or merge:CLASS (default: class)"
    )
    parser.add_argument(
        "--stray-colors",
        choices=get_args(Stray),
        default="refuse",
        help="label colours outside the code: list and refuse, ignore, or nearest class colour (default: refuse)",
    )
    parser.add_argument(
        "--validation",
        type=parse_names,
        default=validation,
        metavar="IDS",
        help=f"training scenes to hold out (default: {','.join(validation)})",
    )
    parser.add_argument(
        "--exclude", type=parse_names, default=(), metavar="IDS", help="scenes to leave out, in any split"
    )
    parser.add_argument(
        "--tile", type=int, default=512, metavar="PIXELS", help="side of a tile (default: 512)"
    )
    parser.add_argument(
        "--overlap", type=int, default=0, metavar="PIXELS", help="that training tiles share (default: 0)"
    )
    parser.add_argument(
        "--test-overlap", type=int, default=0, metavar="PIXELS", help="that test tiles share (default: 0)"
    )
    parser.add_argument(
        "--edges",
        choices=get_args(Edges),
        default="pad",
        help="last tiles of a scene: pad, or move inward over their neighbours (default: pad)",
    )
    parser.add_argument(
        "--align",
        choices=get_args(Align),
        default="georeference",
        help="lay files on each other by world file, or by their upper left corners (default: georeference)",
    )


def _find(arguments: argparse.Namespace, *, benchmark: Benchmark) -> SceneDataset:
    from dis2_jax.data.builders.isprs import IsprsOptions
    from dis2_jax.data.builders.isprs_scenes import find_isprs

    options = IsprsOptions(
        Path(arguments.source),
        image=arguments.image,
        ndsm=arguments.ndsm,
        validation=arguments.validation,
        height=arguments.height,
        labels=arguments.labels,
        clutter=arguments.clutter,
        stray=arguments.stray_colors,
        exclude=arguments.exclude,
        tile=arguments.tile,
        overlap=arguments.overlap,
        test_overlap=arguments.test_overlap,
        edges=arguments.edges,
        align=arguments.align,
    )
    return find_isprs(benchmark, options, progress=True)
