"""Before several processes begin: is it the same run on all of them?"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from dis2_jax import config_file
from dis2_jax.config import Config
from dis2_jax.distributed.agreement import card_part, check_agreement, check_shared, code_part, config_part
from dis2_jax.distributed.jointly import jointly, several
from dis2_jax.schema import DatasetCard
from dis2_jax.training.checkpoint import find_step
from dis2_jax.training.environment import package_versions
from dis2_jax.training.workdir import read_card


def check_same_everywhere(config: Config, card: DatasetCard, workdir: str | Path) -> None:
    """Raise ``JointError`` unless all processes train with the same code, config, data card and workdir."""
    if not several():
        return
    check_agreement({"code": _code(), "config": config_part(config), "data card": card_part(card)})
    check_shared(Path(workdir))


def check_same_weights_everywhere(
    workdir: str | Path, which: Literal["best", "last"] | int, *, options: Any
) -> None:
    """Raise ``JointError`` unless all processes use the same code, options (JSON-like) and checkpoint of one run."""
    if not several():
        return
    with jointly():
        run = {
            "code": _code(),
            "config": config_part(config_file.read(workdir)),
            "data card": card_part(read_card(workdir)),
            "checkpoint": find_step(workdir, which),
            "options": options,
        }
    check_agreement(run)


def _code() -> dict[str, Any]:
    return code_part(package_versions())
