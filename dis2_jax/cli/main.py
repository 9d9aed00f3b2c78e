"""The ``dis2`` command: parsing and error lines only; every sub-command is a file beside this one."""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

from dis2_jax.files import no_room
from dis2_jax.schema import Dis2Error, nearest

COMMANDS = (
    "data",
    "train",
    "evaluate",
    "compare",
    "diagnose",
    "degrade",
    "predict",
    "export",
    "report",
    "bench",
    "plan",
    "import_torch",
    "export_torch",
)
CACHE_VARIABLE = "DIS2_CACHE"


def build_parser() -> argparse.ArgumentParser:
    """Return the parser with every sub-command."""
    parser = argparse.ArgumentParser(
        prog="dis2",
        description="Multimodal remote-sensing segmentation that keeps working when a sensor is missing.",
        epilog=f"Compiled programs are kept in ~/.cache/dis2_jax; ${CACHE_VARIABLE} names another folder,"
        " or nothing to keep none.",
        allow_abbrev=False,
    )
    version = importlib.metadata.version("dis2-jax")
    parser.add_argument("--version", action="version", version=f"dis2 {version}")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name in COMMANDS:
        importlib.import_module(f"dis2_jax.cli.{name}").add_parser(subparsers)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status (2: bad input, 130: interrupted).

    Without ``argv`` it is the command that a user typed: warnings of libraries are then not for him (what matters
    of them we say in our own lines), unless Python was told to show them (``-W``, ``PYTHONWARNINGS``).
    """
    with warnings.catch_warnings():
        if argv is None and not sys.warnoptions:
            warnings.simplefilter("ignore")
        return _run(argv)


def _run(argv: Sequence[str] | None) -> int:
    argv = list(sys.argv[1:] if argv is None else argv)
    parser = build_parser()
    try:
        _check_command(parser, argv)
        arguments, rest = parser.parse_known_args(argv)
        keep_compiled_programs()
        status = int(arguments.func(arguments, rest) or 0)
        sys.stdout.flush()  # a closed pipe shows here, not at interpreter exit
        return status
    except Dis2Error as e:
        print(f"dis2: error: {e}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("dis2: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `dis2 ... | head`: the reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as e:
        told = no_room(e)
        if told is None:
            raise
        print(f"dis2: error: {told}", file=sys.stderr)
        return 2


def keep_compiled_programs() -> None:
    """Set JAX's persistent compilation cache by environment, so that it holds for reader processes too.

    ``$DIS2_CACHE/xla`` (default ``~/.cache/dis2_jax/xla``); empty: off. ``JAX_COMPILATION_CACHE_DIR`` wins. A
    folder that cannot be written turns it off.
    """
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    base = os.environ.get(CACHE_VARIABLE, "~/.cache/dis2_jax")
    if not base:
        return
    folder = Path(base).expanduser() / "xla"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder)
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")


def _check_command(parser: argparse.ArgumentParser, argv: Sequence[str]) -> None:
    """Refuse an unknown command with the nearest one; argparse would list them all in usage text."""
    known = [name.replace("_", "-") for name in COMMANDS]
    word = next((a for a in argv if not a.startswith("-")), None)
    if word is not None and word not in known and argv[0] == word:
        raise Dis2Error(f"no command {word!r}{nearest(word, known)}; {parser.prog} has {', '.join(known)}")


if __name__ == "__main__":
    sys.exit(main())
