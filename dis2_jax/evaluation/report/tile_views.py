"""Chosen tiles with what every scenario makes of them and where its class queries look."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from dis2_jax.data.normalize import denormalize
from dis2_jax.data.pipeline import load_batch
from dis2_jax.evaluation.pictures.palette import readable
from dis2_jax.evaluation.report.pick import Picked
from dis2_jax.evaluation.run import matching_card
from dis2_jax.models.dis2 import DIS2
from dis2_jax.schema import DatasetCard, Scenario
from dis2_jax.training.checkpoint import load_eval_variables


@dataclasses.dataclass(frozen=True, eq=False)
class TileView:
    """One tile on the host.

    ``images``: modality -> float32 ``[H, W, C]`` in physical units, without those that the tile lacks;
    ``reference`` int32 ``[H, W]``, 255 ignored; ``predictions``: scenario -> int32 ``[H, W]``; ``attention``:
    scenario -> float32 ``[K, H/16, W/16]``, each class sums to 1. Scenarios whose modalities the tile lacks
    are in neither. The legend of ``card`` is one for readers: see ``readable``.
    """

    picked: Picked
    card: DatasetCard
    images: Mapping[str, np.ndarray]
    reference: np.ndarray
    predictions: Mapping[str, np.ndarray]
    attention: Mapping[str, np.ndarray]


def view_tiles(
    workdir: str | Path,
    picked: Sequence[Picked],
    *,
    split: str,
    checkpoint: Literal["best", "last"] | int,
) -> tuple[TileView, ...]:
    """Run every scenario of a run on the chosen tiles, as one batch.

    Raises ``Dis2Error``: no such checkpoint, or a dataset that is not where the run's config says.
    """
    run = load_eval_variables(workdir, checkpoint)
    card, _ = matching_card(run.config.data.dir, run.card)
    shown = dataclasses.replace(card, legend=readable(card.legend))
    records = [p.record for p in picked]
    batch = load_batch(run.config.data.dir, card, run.config.data, split=split, indices=records)
    answers = {
        str(s): jax.device_get(
            _answer(run.variables, _images(batch["image"], s), model=run.model, scenario=s)
        )
        for s in run.model.scenarios
    }
    names = card.modality_names
    views = []
    for i, p in enumerate(picked):
        there = {m for m, is_there in zip(names, batch["available"][i], strict=True) if is_there}
        mine = {s: a for s, a in answers.items() if set(s.split("+")) <= there}
        views.append(
            TileView(
                picked=p,
                card=shown,
                images={
                    m.name: denormalize(batch["image"][m.name][i], m, run.config.data.normalize)
                    for m in card.modalities
                    if m.name in there
                },
                reference=batch["label"][i],
                predictions={s: a[0][i] for s, a in mine.items()},
                attention={s: a[1][i] for s, a in mine.items()},
            )
        )
    return tuple(views)


def _images(images: Mapping[str, np.ndarray], scenario: Scenario) -> dict[str, np.ndarray]:
    return {m: images[m] for m in scenario.available}


@functools.partial(jax.jit, static_argnames=("model", "scenario"))
def _answer(
    variables: Mapping[str, Any], images: Mapping[str, jax.Array], *, model: DIS2, scenario: Scenario
) -> tuple[jax.Array, jax.Array]:
    """Class maps int32 ``[B, H, W]`` and class attention float32 ``[B, K, h, w]``."""
    out: Any = model.apply(variables, images, scenario=scenario, method="branch")
    return jnp.argmax(out.logits, -1).astype(jnp.int32), out.attention.astype(jnp.float32)
