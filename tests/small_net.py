"""A network with DIS2's interface that compiles in a second: what a test of the machinery around it needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from dis2_jax.config import ModelConfig
from dis2_jax.models.dis2 import DIS2, BranchOutput, DLKDOutput, StudentOutput
from dis2_jax.schema import DatasetCard, Scenario


class SmallBranch(nn.Module):
    """Dense layers per pixel, normalised over the global batch; one kernel is large enough to be split."""

    num_classes: int
    dropout: float

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> BranchOutput:
        x = nn.BatchNorm(use_running_average=not train)(nn.Dense(64)(x))
        x = nn.Dense(64)(nn.relu(x))
        x = nn.relu(nn.Dropout(self.dropout, deterministic=not train)(x))
        logits = nn.Dense(self.num_classes)(x)
        token = x.mean((1, 2))
        return BranchOutput(logits, x, [logits], [x, x, x, x], token, jax.nn.softmax(logits).mean((1, 2)))


class SmallNet(nn.Module):
    """One branch per scenario on the concatenated images; no encoders, no compensation."""

    modalities: tuple[tuple[str, int], ...]
    num_classes: int
    students: tuple[tuple[str, ...], ...]
    tile: tuple[int, int] = (32, 32)
    dropout: float = 0.1
    position: str = "sincos"
    dtype: Any = jnp.float32
    tta: bool = False
    names = DIS2.names
    scenarios = DIS2.scenarios

    def setup(self) -> None:
        self.full = SmallBranch(self.num_classes, self.dropout)
        self.head = {m: nn.Dense(self.num_classes) for m in self.names}
        self.student = {"+".join(s): SmallBranch(self.num_classes, self.dropout) for s in self.students}

    def used_modules(self, students: Sequence[Scenario]) -> dict[str, list[tuple[str, ...]]]:
        heads: dict[str, list[tuple[str, ...]]] = {f"head_{m}": [(m,)] for m in self.names}
        return {"full": [self.names], **heads, **{f"student_{s}": [s.available] for s in students}}

    def __call__(
        self,
        images: Mapping[str, jax.Array],
        *,
        students: Sequence[Scenario],
        train: bool,
        available: jax.Array | None = None,
    ) -> DLKDOutput:
        def pooled(branch: BranchOutput) -> list[jax.Array]:
            return [branch.token] * 3

        full = self.full(_joined(images, self.names), train=train)
        outputs = {}
        for s in students:
            branch = self.student[str(s)](_joined(images, s.available), train=train)
            outputs[str(s)] = StudentOutput(branch, pooled(branch), {})
        return DLKDOutput(full, pooled(full), {m: self.head[m](images[m]) for m in self.names}, {}, outputs)

    def predict(self, images: Mapping[str, jax.Array], *, scenario: Scenario) -> jax.Array:
        whole = len(scenario.available) == len(self.names)
        branch = self.full if whole else self.student[str(scenario)]
        return nn.softmax(branch(_joined(images, scenario.available), train=False).logits)


def _joined(images: Mapping[str, jax.Array], names: Sequence[str]) -> jax.Array:
    return jnp.concatenate([images[m] for m in names], axis=-1)


def build_small(config: ModelConfig, card: DatasetCard, *, tile: tuple[int, int], remat: str = "none") -> Any:
    """Stand in for ``build_model``."""
    assert remat == "none", "this network keeps everything"
    return SmallNet(
        modalities=tuple((m.name, m.channels) for m in card.modalities),
        num_classes=len(card.legend),
        students=tuple(s.available for s in Scenario.students(config.students, card.modality_names)),
        tile=tile,
        dropout=config.dropout,
    )
