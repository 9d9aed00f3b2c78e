"""``dis2 export``: a trained model as a folder that runs without this package."""

from __future__ import annotations

import argparse
from typing import Any

from dis2_jax.cli.arguments import parse_tile, refuse
from dis2_jax.cli.evaluate import parse_checkpoint


def add_parser(subparsers: Any) -> None:
    """Add ``export``."""
    parser = subparsers.add_parser(
        "export",
        help="StableHLO or ONNX files that run without this package",
        description="Write a folder with one function per set of modalities (physical units in, class "
        "probabilities out), the weights, a card, and run.py, which needs jax alone. It is compared with the "
        "model before it takes its name.",
    )
    parser.add_argument("--workdir", required=True, metavar="W", help="a training or imported workdir")
    parser.add_argument(
        "--out", required=True, metavar="DIR", help="new folder, or an older export to replace"
    )
    parser.add_argument(
        "--checkpoint", default="best", metavar="best|last|STEP", help="default: best on validation"
    )
    parser.add_argument(
        "--scenarios", nargs="+", default=[], metavar="A+B", help="modality sets to export (default: all)"
    )
    parser.add_argument(
        "--tile",
        metavar="HxW",
        help="fix height and width (default: any multiples of 16; ONNX and position tables: the training tile)",
    )
    parser.add_argument(
        "--platforms", metavar="P,P", help="of cpu, cuda, rocm, tpu (StableHLO; default: cpu,cuda,tpu)"
    )
    parser.add_argument(
        "--format",
        default="stablehlo",
        metavar="stablehlo|onnx",
        help="onnx needs more packages, see the README",
    )
    parser.add_argument(
        "--tolerance",
        type=float,
        metavar="P",
        help="greatest difference in probability to the model (default: 1e-5; ONNX 1e-4; bfloat16 models 1e-2)",
    )
    parser.set_defaults(func=run, parser=parser)


def run(arguments: argparse.Namespace, rest: list[str]) -> None:
    """Export, then print the files and how far they are from the model."""
    refuse(rest, arguments.parser)
    checkpoint = parse_checkpoint(arguments.checkpoint)
    tile = None if arguments.tile is None else parse_tile(arguments.tile)
    from dis2_jax.inference.export import ExportOptions, export_workdir

    chosen = {} if arguments.platforms is None else {"platforms": _split([arguments.platforms])}
    options = ExportOptions(
        format=arguments.format,
        checkpoint=checkpoint,
        scenarios=_split(arguments.scenarios),
        tile=tile,
        tolerance=arguments.tolerance,
        **chosen,
    )
    made = export_workdir(arguments.workdir, arguments.out, options)
    for name, size in made.files.items():
        print(f"{made.path / name}  {size / 2**20:.2f} MiB")
    for scenario, difference in made.differences.items():
        print(f"{scenario}: within {difference:.1e} of predict_proba")


def _split(texts: list[str]) -> tuple[str, ...]:
    """Names out of ``a,b c``."""
    return tuple(name.strip() for text in texts for name in text.split(",") if name.strip())
