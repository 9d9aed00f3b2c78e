"""What several sub-commands need to read their arguments."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence

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


def parse_tile(text: str, *, option: str = "--tile") -> tuple[int, int]:
    """Read ``128`` or ``128x256`` (height x width) in pixels."""
    match = re.fullmatch(r"(\d+)(?:x(\d+))?", text.strip().lower())
    if not match:
        raise Dis2Error(f"{option} {text!r}: write pixels, such as 128 or 128x256")
    height = int(match[1])
    return height, int(match[2] or height)
