"""Config files and overrides: ``configs/x.py`` + ``--config.a.b=value`` -> ``Config``; ``W/config.json``.

Own parsing of the overrides instead of ``ml_collections.config_flags``: that one wants global absl flags,
reads ``a,b`` as one string where a tuple is meant, and answers a typo with a traceback. Values are checked
by ``Config.from_dict``.
"""

from __future__ import annotations

import ast
import dataclasses
import importlib.util
import inspect
import json
import re
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_collections

from dis2_jax.config import Config
from dis2_jax.files import write_whole
from dis2_jax.schema import Dis2Error, nearest

CONFIG_FILE = "config.json"
_OVERRIDE = re.compile(r"--?config\.([^=\s]+)(?:=(.*))?", re.DOTALL)
_WORDS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def load(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read a config file and apply ``--config.a.b=value`` arguments.

    ``--config.recipe=released`` comes first, as ``get_config(recipe="released")``; then the others.
    Raises ``Dis2Error`` for a missing or broken file, an unknown key or a value of the wrong kind.
    """
    given = parse_overrides(overrides)
    values = _call_get_config(Path(path), recipe=given.get("recipe"))
    try:
        return override(Config.from_dict(values), given)
    except Dis2Error as e:
        raise e if given else Dis2Error(f"{path}: {e}") from e


def override(config: Config, given: Mapping[str, str]) -> Config:
    """Return ``config`` with ``{"a.b": text}`` put in, each text read as the key's type."""
    if not given:
        return config
    values = config.to_dict()
    hints = keys(type(config))
    for key, text in given.items():
        if key not in hints:
            raise Dis2Error(f"config has no key {key!r}{_suggest(key, list(hints))}")
        *sections, leaf = key.split(".")
        target = values
        for section in sections:
            target = target[section]
        target[leaf] = _read(text, hints[key])
    return Config.from_dict(values)


def parse_overrides(arguments: Sequence[str]) -> dict[str, str]:
    """Split ``--config.a.b=value`` (or ``--config.a.b value``) into ``{"a.b": "value"}``; the last one wins.

    Anything else raises ``Dis2Error``.
    """
    given: dict[str, str] = {}
    waiting = iter(arguments)
    for argument in waiting:
        match = _OVERRIDE.fullmatch(argument)
        if not match:
            raise Dis2Error(
                f"unknown argument {argument!r}: options of the run are written --config.a.b=value"
            )
        key, text = match.groups()
        text = next(waiting, None) if text is None else text
        if text is None or (text.startswith("--config.")):
            raise Dis2Error(f"--config.{key} has no value: write --config.{key}=value")
        given[key] = text
    return given


def keys(cls: type = Config, prefix: str = "") -> dict[str, Any]:
    """Every leaf of a config class as ``{"a.b": type}``, in order."""
    found: dict[str, Any] = {}
    for name, hint in typing.get_type_hints(cls).items():
        if dataclasses.is_dataclass(hint) and isinstance(hint, type):
            found |= keys(hint, f"{prefix}{name}.")
        else:
            found[prefix + name] = hint
    return found


def write(config: Config, workdir: str | Path) -> None:
    """Store ``config`` as ``workdir/config.json``, whole or not at all."""
    write_whole(Path(workdir) / CONFIG_FILE, json.dumps(config.to_dict(), indent=1) + "\n")


def read(workdir: str | Path) -> Config:
    """Read what ``write`` stored. A missing or damaged file raises ``Dis2Error``."""
    path = Path(workdir) / CONFIG_FILE
    if not path.is_file():
        raise Dis2Error(
            f"{path} not found: {workdir} is not a training workdir (make one with `dis2 train --workdir`)"
        )
    try:
        return Config.from_dict(json.loads(path.read_text()))
    except (ValueError, AttributeError, Dis2Error) as e:
        raise Dis2Error(f"{path}: {e}") from e


@dataclasses.dataclass(frozen=True)
class Difference:
    """One key on which two configurations disagree."""

    key: str
    old: Any
    new: Any

    def __str__(self) -> str:
        return f"{self.key} was {self.old!r}, now {self.new!r}"


def differences(old: Config, new: Config) -> tuple[Difference, ...]:
    """Every key whose value is not the same in both, in the order of ``Config``."""
    return tuple(Difference(key, a, b) for key in keys() if (a := get(old, key)) != (b := get(new, key)))


def get(config: Config, key: str) -> Any:
    """Value of the leaf ``a.b``."""
    value: Any = config
    for name in key.split("."):
        value = getattr(value, name)
    return value


def _call_get_config(path: Path, *, recipe: str | None) -> dict[str, Any]:
    """Run ``get_config`` of a Python file; any fault in the file becomes one line that names it."""
    if not path.is_file():
        there = sorted(p.name for p in path.parent.glob("*.py")) if path.parent.is_dir() else []
        raise Dis2Error(f"config file {path} not found{nearest(path.name, there)}")
    spec = importlib.util.spec_from_file_location(f"dis2_config_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise Dis2Error(f"config file {path}: a Python file (.py) with get_config() is wanted")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        get_config = module.get_config
        takes_recipe = "recipe" in inspect.signature(get_config).parameters
        if recipe is not None and not takes_recipe:
            raise Dis2Error(f"{path}: its get_config() takes no recipe, so --config.recipe cannot be given")
        config = get_config(recipe=recipe) if recipe is not None else get_config()
        return ml_collections.ConfigDict(config).to_dict()
    except Dis2Error:
        raise
    except Exception as e:
        text = " ".join(str(e).split())
        raise Dis2Error(f"config file {path}: {type(e).__name__}: {text}") from e


def _suggest(key: str, known: list[str]) -> str:
    """Name the nearest key; a section or a bare leaf name (``steps``) leads to its full path."""
    inside = [k for k in known if k.startswith(key + ".")]
    if inside:
        return f": it is a section; set one of its keys, such as {inside[0]}"
    leaf = key.rsplit(".", 1)[-1]
    same = [k for k in known if k.rsplit(".", 1)[-1] == leaf]
    if same:
        return f" (did you mean {same[0]!r}?)"
    if close := nearest(key, known):
        return close
    close_leaf = nearest(leaf, [k.rsplit(".", 1)[-1] for k in known])
    return close_leaf or f"; sections: {', '.join(dict.fromkeys(k.split('.')[0] for k in known))}"


def _read(text: str, hint: Any) -> Any:
    """Turn text into the type of its key. What cannot be read stays text: ``Config.from_dict`` refuses it."""
    if typing.get_origin(hint) is tuple:
        return _read_tuple(text, typing.get_args(hint))
    try:
        if hint is bool:
            return _WORDS.get(text.strip().lower(), text)
        if hint in (int, float):
            return hint(text)
    except ValueError:
        pass
    return text


def _read_tuple(text: str, hints: tuple[Any, ...]) -> Any:
    """``(1, 2)``, ``[1, 2]``, ``1,2``, ``a,b``, ``('a',)``, ``()`` and nothing at all are tuples."""
    try:
        value = ast.literal_eval(text)
        return tuple(value) if isinstance(value, (tuple, list)) else (value,)
    except (ValueError, SyntaxError):
        items = [item.strip(" \t'\"") for item in text.strip(" \t()[]").split(",")]
        element = hints[0] if hints else str
        return tuple(_read(item, element) for item in items if item)
