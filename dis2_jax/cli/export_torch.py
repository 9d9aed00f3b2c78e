"""``dis2 export-torch``: a trained model as a published state dict."""

from __future__ import annotations

import argparse
from typing import Any

from dis2_jax.cli.arguments import refuse


def add_parser(subparsers: Any) -> None:
    """Add ``export-torch``."""
    parser = subparsers.add_parser(
        "export-torch",
        help="write a model under the published PyTorch names",
        description="Write a run's best checkpoint as a state dict that the published code loads. "
        "Parameters that it has and never uses are written as zeros.",
    )
    parser.add_argument("--workdir", required=True, metavar="W", help="a training or imported workdir")
    parser.add_argument(
        "--out", required=True, metavar="FILE", help=".pth (needs the extra [torch]), .npz or .safetensors"
    )
    parser.add_argument("--step", type=int, metavar="N", help="another checkpoint than the best")
    parser.set_defaults(func=run, parser=parser)


def run(arguments: argparse.Namespace, rest: list[str]) -> None:
    """Export and say what the published code must be told."""
    refuse(rest, arguments.parser)
    from dis2_jax.interop.transfer import export_checkpoint

    made = export_checkpoint(arguments.workdir, arguments.out, step=arguments.step)
    print(f"{made.path}: {made.names} entries, {made.parameters:,} parameters")
    for note in made.notes:
        print(f"note: {note}")
