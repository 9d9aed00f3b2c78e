"""A few tiles of a split with what every scenario makes of them, for pictures."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from dis2_jax.config import DataConfig
from dis2_jax.data.batch import Batch
from dis2_jax.data.normalize import denormalize
from dis2_jax.data.pipeline import load_batch
from dis2_jax.evaluation.evaluate import (
    Outputs,
    check_size,
    everywhere,
    fetch,
    on_mesh,
    round_up,
    rows_of,
    run_rows,
)
from dis2_jax.models.dis2 import DIS2
from dis2_jax.schema import DatasetCard, Dis2Error


@dataclasses.dataclass(frozen=True, eq=False)
class Example:
    """One tile on the host.

    ``images``: modality -> float32 ``[H, W, C]`` in physical units, without those that this tile lacks.
    ``reference``: int32 ``[H, W]``, 255 ignored. ``predictions``: scenario (full first, then the students) ->
    int32 class map ``[H, W]``, or None where the tile lacks what the scenario needs.
    """

    title: str
    images: dict[str, np.ndarray]
    reference: np.ndarray
    predictions: dict[str, np.ndarray | None]


def make_examples(
    model: DIS2,
    variables: Mapping[str, Any],
    dataset_dir: str,
    card: DatasetCard,
    data: DataConfig,
    *,
    split: str,
    titles: Mapping[int, str],
    batch_size: int,
    mesh: Mesh | None = None,
    outputs: Outputs = "tally",
) -> tuple[Example, ...]:
    """Predict the tiles that ``titles`` (record number -> title) names, with every scenario.

    With the ``batch_size``, ``mesh`` and ``outputs`` of a pass over a split before it, nothing is compiled
    again. Every host of a job must call this; all get the same result. Errors as ``evaluate_split``.
    """
    check_size(model, card.tile)
    if mesh is not None:
        batch_size, variables = round_up(batch_size, mesh), on_mesh(variables, mesh)
    indices = list(titles)
    examples: list[Example] = []
    for start in range(0, len(indices), batch_size):
        chosen = indices[start : start + batch_size]
        filled = chosen + chosen[-1:] * (batch_size - len(chosen))  # one batch shape, one compilation
        batch = load_batch(dataset_dir, card, data, split=split, indices=filled)
        maps = _predict(model, variables, batch, card=card, mesh=mesh, outputs=outputs)
        examples += [
            _example(batch, i, maps, card=card, data=data, title=titles[record])
            for i, record in enumerate(chosen)
        ]
    return tuple(examples)


def spread_tiles(card: DatasetCard, *, split: str, count: int) -> dict[int, str]:
    """Record number -> title of up to ``count`` tiles, evenly over the split. ``Dis2Error``: no such split."""
    if split not in card.splits:
        raise Dis2Error(f"no split {split!r}; the dataset has {', '.join(card.splits)}")
    total = card.splits[split]
    records = sorted({round(i) for i in np.linspace(0, total - 1, min(count, total))})
    return {r: f"{split} tile {r}" for r in records}


def _predict(
    model: DIS2,
    variables: Mapping[str, Any],
    batch: Batch,
    *,
    card: DatasetCard,
    mesh: Mesh | None,
    outputs: Outputs,
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Scenario -> (class maps ``[B, H, W]``, which tiles have what it needs ``[B]``)."""
    rows = rows_of(model, card, baselines=False)
    share = jax.tree.map(_own_rows, batch) if mesh is not None else batch
    position = _own_rows(np.arange(len(batch["label"]), dtype=np.int32)) if mesh is not None else None
    back = None if position is None else np.argsort(everywhere(position, mesh))
    started = run_rows(rows, variables, share, model=model, card=card, mesh=mesh, outputs=outputs)
    maps = {}
    for row in rows:
        columns = [card.modality_names.index(m) for m in row.available]
        there: np.ndarray = np.asarray(batch["available"][:, columns].all(axis=1))
        if row.name in started:
            found = fetch(started[row.name].predicted)
            maps[row.name] = (found if back is None else found[back], there)
        else:
            maps[row.name] = (np.zeros_like(batch["label"]), there)
    return maps


def _own_rows(leaf: np.ndarray) -> np.ndarray:
    """This host's rows of a global batch."""
    size = len(leaf) // jax.process_count()
    return leaf[jax.process_index() * size :][:size]


def _example(
    batch: Batch,
    i: int,
    maps: Mapping[str, tuple[np.ndarray, np.ndarray]],
    *,
    card: DatasetCard,
    data: DataConfig,
    title: str,
) -> Example:
    images = {
        m.name: denormalize(batch["image"][m.name][i], m, data.normalize)
        for m, there in zip(card.modalities, batch["available"][i], strict=True)
        if there
    }
    return Example(
        title=title,
        images=images,
        reference=batch["label"][i],
        predictions={name: values[i] if there[i] else None for name, (values, there) in maps.items()},
    )
