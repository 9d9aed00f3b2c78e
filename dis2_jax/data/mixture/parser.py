"""Parse the TOML description of a mixture."""

from __future__ import annotations

import dataclasses
import math
import re
import tomllib
from pathlib import Path
from typing import Any

from dis2_jax.data.builders.toml_table import TomlTable
from dis2_jax.schema import Dis2Error

IGNORED = "ignore"
"""In a class table: pixels of this class take part in nothing."""

_NAME = re.compile(r"[a-z][a-z0-9_]*")
_HELP = "`dis2 data mix --example`"

EXAMPLE = """\
# A mixture of datasets for `dis2 data mix --recipe mixture.toml --out DIR`.
name = "everything"              # lower case, digits and _
# tile = 128                     # or [height, width]; larger tiles are cut to it. Default: the members' smallest
# modalities = ["rgb", "ndsm"]   # which, and in what order; default: all, as the members bring them

[[member]]                       # one block per dataset (prepared, or an index of scenes)
dir = "city"                     # relative to this file
# weight = 1.0                   # share of a training batch; default: by its number of training tiles

[[member]]
dir = "floods"
name = "floods_2022"             # default: the folder's name; splits are called test-floods_2022
[member.modalities]              # name in the mixture = name there; others keep theirs
s2 = "s2_after"                  # one name, one product: call only what is alike by one name
[member.classes]                 # class there = class of the mixture, or "ignore"; others by their name
flooded = "water"
dry = "ignore"

# The joint legend. Default: all classes of all members. Classes that are not in it are ignored.
[[class]]
name = "building"
color = [0, 0, 255]

[[class]]
name = "water"
color = [0, 0, 255]
"""


@dataclasses.dataclass(frozen=True)
class MemberRecipe:
    """A ``[[member]]`` block; ``weight`` None: by size."""

    dir: Path
    name: str
    weight: float | None
    modalities: dict[str, str]
    classes: dict[str, str]


@dataclasses.dataclass(frozen=True)
class MixtureRecipe:
    """A parsed description. ``tile`` None, ``modalities`` and ``classes`` empty: as the members have them."""

    path: Path
    name: str
    members: tuple[MemberRecipe, ...]
    tile: tuple[int, int] | None
    modalities: tuple[str, ...]
    classes: dict[str, tuple[int, int, int] | None]


def load_recipe(path: str | Path) -> MixtureRecipe:
    """Read a description. Raises ``Dis2Error`` with the file and the key that is missing, unknown or wrong."""
    path = Path(path)
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as e:
        raise Dis2Error(f"{path} not found: {_HELP} prints one to start from") from e
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as e:
        raise Dis2Error(f"{path} is not a TOML file: {e}") from e
    try:
        return _parse(path, values)
    except Dis2Error as e:
        raise Dis2Error(f"{path}: {e}") from e


def _parse(path: Path, values: dict[str, Any]) -> MixtureRecipe:
    t = TomlTable(values, "", see=_HELP)
    name = t.take("name", str)
    if not _NAME.fullmatch(name):
        raise Dis2Error(f"name = {name!r}: use lower-case letters, digits and _")
    tile = t.take("tile", (int, list), None)
    modalities = t.take("modalities", list, [])
    if not all(isinstance(m, str) for m in modalities):
        raise Dis2Error(f'modalities = {modalities!r}: names are wanted, such as ["rgb", "ndsm"]')
    members = tuple(_member(m, i, path.parent) for i, m in enumerate(t.take("member", list), start=1))
    blocks = [_class(c, i) for i, c in enumerate(t.take("class", list, []), start=1)]
    classes = dict(blocks)
    t.done()
    if len(classes) < len(blocks):
        raise Dis2Error(f"class names repeat: {', '.join(n for n, _ in blocks)}")
    if not members:
        raise Dis2Error("no [[member]] block: name at least one dataset")
    names = [m.name for m in members]
    if len(set(names)) != len(names):
        twice = next(n for n in names if names.count(n) > 1)
        raise Dis2Error(f"two members are called {twice!r}: give one another `name`")
    return MixtureRecipe(
        path=path,
        name=name,
        members=members,
        tile=_sides(tile),
        modalities=tuple(modalities),
        classes=classes,
    )


def _member(values: Any, number: int, beside: Path) -> MemberRecipe:
    t = TomlTable(values, f"member {number}", see=_HELP)
    folder = beside / t.take("dir", str)
    name = t.take("name", str, folder.resolve().name)
    weight = t.take("weight", (int, float), None)
    modalities, classes = t.take("modalities", dict, {}), t.take("classes", dict, {})
    t.done()
    if not _NAME.fullmatch(name):
        raise Dis2Error(f"[member {number}] name {name!r}: use lower-case letters, digits and _")
    if weight is not None and not 0 < weight < math.inf:
        raise Dis2Error(
            f"[member {number}] weight = {weight}: it must be above 0 and finite; leave the member out for 0"
        )
    for table in (modalities, classes):
        for key, value in table.items():
            if not isinstance(value, str):
                raise Dis2Error(f"[member {number}] {key} = {value!r}: a name is wanted")
    twice = [v for v in modalities.values() if list(modalities.values()).count(v) > 1]
    if twice:
        raise Dis2Error(f"[member {number}] modalities: {twice[0]!r} gets two names")
    return MemberRecipe(folder, name, None if weight is None else float(weight), modalities, classes)


def _class(values: Any, number: int) -> tuple[str, tuple[int, int, int] | None]:
    t = TomlTable(values, f"class {number}", see=_HELP)
    name, color = t.take("name", str), t.take("color", list, None)
    t.done()
    if color is None:
        return name, None
    if len(color) != 3 or not all(isinstance(v, int) and 0 <= v <= 255 for v in color):
        raise Dis2Error(f"[class {number}] color = {color!r}: [r, g, b] with 0..255 is wanted")
    return name, (color[0], color[1], color[2])


def _sides(value: int | list[Any] | None) -> tuple[int, int] | None:
    if value is None:
        return None
    sides = [value, value] if isinstance(value, int) else value
    if len(sides) != 2 or not all(isinstance(s, int) for s in sides):
        raise Dis2Error(f"tile = {value!r}: one number or [height, width] is wanted")
    return sides[0], sides[1]
