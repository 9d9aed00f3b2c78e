"""The ``dis2`` command: parsing and error lines only; every sub-command is a file beside this one."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

from dis2_jax.schema import Dis2Error

COMMANDS = ("data", "train", "evaluate", "bench", "import_torch", "export_torch")


def build_parser() -> argparse.ArgumentParser:
    """Return the parser with every sub-command."""
    parser = argparse.ArgumentParser(
        prog="dis2",
        description="Multimodal remote-sensing segmentation that keeps working when a sensor is missing.",
    )
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name in COMMANDS:
        importlib.import_module(f"dis2_jax.cli.{name}").add_parser(subparsers)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status (2: bad input, 130: interrupted)."""
    arguments, rest = build_parser().parse_known_args(argv)
    try:
        return int(arguments.func(arguments, rest) or 0)
    except Dis2Error as e:
        print(f"dis2: error: {e}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("dis2: interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
