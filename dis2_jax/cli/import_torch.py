"""``dis2 import-torch``: a published checkpoint becomes a workdir."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from dis2_jax.cli.arguments import parse_tile, refuse


def add_parser(subparsers: Any) -> None:
    """Add ``import-torch``."""
    parser = subparsers.add_parser(
        "import-torch",
        help="make a workdir from a published PyTorch checkpoint",
        description="Make a workdir that evaluates, predicts and trains on from a published checkpoint. "
        "Names that are missing, extra or of another shape are listed, and nothing is written.",
    )
    parser.add_argument(
        "--checkpoint",
        required=True,
        metavar="FILE",
        help="state dict: .npz, .safetensors, or PyTorch's (needs the extra [torch])",
    )
    parser.add_argument("--workdir", required=True, metavar="W", help="a new folder")
    parser.add_argument(
        "--card",
        metavar="FILE",
        help="dataset_card.json, or the folder of a prepared dataset, to evaluate and train on "
        "(default: published Potsdam, raw 0-255 rgb and ndsm)",
    )
    parser.add_argument(
        "--tile",
        metavar="N or HxW",
        help="pixels that the position tables stand for (default: from the card or shapes)",
    )
    parser.set_defaults(func=run, parser=parser)


def run(arguments: argparse.Namespace, rest: list[str]) -> None:
    """Import and say what was made."""
    refuse(rest, arguments.parser)
    from dis2_jax.interop.names import StateDictError
    from dis2_jax.interop.transfer import import_checkpoint

    try:
        made = import_checkpoint(
            arguments.checkpoint,
            arguments.workdir,
            card=arguments.card,
            tile=parse_tile(arguments.tile) if arguments.tile else None,
        )
    except StateDictError as e:
        print("\n".join(e.mismatch.lines()), file=sys.stderr)
        raise
    if made.unused:
        print(f"unused by the network, left out: {', '.join(made.unused)}")
    inputs = ", ".join(f"{m.name} ({m.channels})" for m in made.card.modalities)
    print(f"{made.workdir}: {made.parameters:,} parameters, {inputs}, {len(made.card.legend)} classes")
