"""What several sub-commands need to read their arguments."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dis2_jax.schema import Dis2Error, nearest


def refuse(rest: Sequence[str], parser: argparse.ArgumentParser) -> None:
    """Raise ``Dis2Error`` for the first argument that ``parser`` did not know, with its nearest option."""
    if not rest:
        return
    given = rest[0].split("=", 1)[0]
    known = [option for action in parser._actions for option in action.option_strings if option != "-h"]
    raise Dis2Error(
        f"{parser.prog}: unknown argument {given!r}{nearest(given, known)}; see {parser.prog} --help"
    )


def add_run(parser: argparse.ArgumentParser) -> None:
    """Add ``--workdir``, ``--split`` and ``--checkpoint``: weights, and what to look at."""
    parser.add_argument("--workdir", required=True, metavar="W", help="folder of the run")
    parser.add_argument("--split", help="default: test if the dataset has it, else validation")
    parser.add_argument(
        "--checkpoint", default="best", metavar="best|last|STEP", help="default: best on validation"
    )


def add_dataset(parser: argparse.ArgumentParser) -> None:
    """Add ``--dataset`` and ``--batch-size``."""
    parser.add_argument("--dataset", metavar="DIR", help="another prepared dataset (default: the run's own)")
    parser.add_argument(
        "--batch-size", type=int, metavar="N", help="tiles at a time (default: config.train.eval_batch_size)"
    )


def parse_tile(text: str, *, option: str = "--tile") -> tuple[int, int]:
    """Read ``128`` or ``128x256`` (height x width) in pixels."""
    match = re.fullmatch(r"(\d+)(?:x(\d+))?", text.strip().lower())
    if not match:
        raise Dis2Error(f"{option} {text!r}: write pixels, such as 128 or 128x256")
    height = int(match[1])
    return height, int(match[2] or height)


def parse_names(text: str) -> tuple[str, ...]:
    """Read names separated by commas."""
    return tuple(name for part in text.split(",") if (name := part.strip()))


def parse_pairs(texts: Sequence[str], *, option: str) -> dict[str, str]:
    """Read ``KEY=VALUE`` texts."""
    pairs = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not key or not equals:
            raise Dis2Error(f"{option} {text!r}: write KEY=VALUE")
        pairs[key] = value
    return pairs


def write_json(path: Path, figures: dict[str, Any]) -> None:
    """Write figures to a file; ``Dis2Error`` where that cannot be."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(figures, indent=1) + "\n")
    except OSError as e:
        raise Dis2Error(f"{path}: cannot be written: {e.strerror or e}") from e
