"""Before the first step of several processes: is it the same run on all of them?"""

from __future__ import annotations

from pathlib import Path

from dis2_jax.config import Config
from dis2_jax.distributed.agreement import card_part, check_agreement, check_shared, code_part, config_part
from dis2_jax.distributed.jointly import several
from dis2_jax.schema import DatasetCard
from dis2_jax.training.environment import checkout, package_versions


def check_same_everywhere(config: Config, card: DatasetCard, workdir: str | Path) -> None:
    """Raise ``JointError`` unless all processes have the same code, config, data card and workdir."""
    if not several():
        return
    check_agreement(
        {
            "code": code_part(commit=checkout()[0], versions=package_versions()),
            "config": config_part(config),
            "data card": card_part(card),
        }
    )
    check_shared(Path(workdir))
