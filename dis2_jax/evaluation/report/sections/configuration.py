"""Every key of the config; those that differ from the recipe's defaults are marked."""

from __future__ import annotations

from typing import Any

from dis2_jax import config_file, recipes
from dis2_jax.config import Config
from dis2_jax.evaluation.report.blocks import NoteBlock, Section, TableBlock
from dis2_jax.evaluation.report.inputs import Inputs


def configuration(inputs: Inputs) -> Section:
    """What was changed first, then the whole config, folded."""
    config = inputs.config
    defaults = Config.from_dict(recipes.base(config.recipe).to_dict())
    changed = {d.key: d for d in config_file.differences(defaults, config)}
    table = TableBlock(
        caption=f"Changed from the defaults of recipe {config.recipe}",
        head=("key", "value", "default"),
        rows=tuple((key, _text(d.new), _text(d.old)) for key, d in changed.items()),
        numeric=False,
    )
    names = config_file.keys()
    rows = tuple((key, _text(config_file.get(config, key))) for key in names)
    whole = TableBlock(
        caption="The whole config",
        head=("key", "value"),
        rows=rows,
        numeric=False,
        marked=tuple(i for i, (key, _) in enumerate(rows) if key in changed),
        mark="changed",
        folded=True,
    )
    first = table if changed else NoteBlock(f"All values are the defaults of recipe {config.recipe}.")
    return Section("config", "Config", (first, whole))


def _text(value: Any) -> str:
    """Write a value as it is written on the command line."""
    if isinstance(value, tuple | list):
        return f"({', '.join(map(str, value))})"
    return repr(value) if value == "" else str(value)
