"""Every condition x branch over the chosen tiles, in one pass that reads each tile once."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from dis2_jax.data.batch import Batch
from dis2_jax.data.normalize import normalize
from dis2_jax.data.tileset import StoredTile
from dis2_jax.evaluation.chosen import Study, complete, no_complete_tile
from dis2_jax.evaluation.degrade.kinds import Condition, degrade
from dis2_jax.evaluation.degrade.results import CLEAN, Degraded, DegradedRow
from dis2_jax.evaluation.degrade.sensor import Sensor
from dis2_jax.evaluation.evaluate import Counts, count_confusion
from dis2_jax.schema import Dis2Error, Scenario
from dis2_jax.sharding.mesh import put_batch


@dataclasses.dataclass(frozen=True)
class Line:
    """One row before it has numbers. ``condition`` None: clean."""

    condition: Condition | None
    branch: Scenario


def lines_of(study: Study, conditions: Sequence[Condition], *, students: bool) -> tuple[Line, ...]:
    """Every branch clean, then per condition the full branch and, with ``students``, those that use the modality."""
    full, *others = study.model.scenarios
    lines = [Line(None, s) for s in (full, *others)]
    for c in conditions:
        users = [s for s in others if c.modality.name in s.available] if students else []
        lines += [Line(c, s) for s in (full, *users)]
    return tuple(lines)


def sweep(
    study: Study,
    conditions: Sequence[Condition],
    *,
    students: bool = True,
    on_line: Callable[[int, int], None] | None = None,
) -> Degraded:
    """Count confusion matrices of every line on the study's complete tiles.

    Each (condition, tile) is spoiled once and shown to every branch of its lines. Nothing is compiled but one
    program per branch. The counts are exact, whatever the batch size.

    Args:
        study: weights and tiles.
        conditions: what to measure (``plan_conditions``).
        students: also the students that still use the degraded modality.
        on_line: called with (tiles x lines done, in all).

    Raises:
        Dis2Error: no tile with every modality, or an output that is not finite.
    """
    lines = lines_of(study, conditions, students=students)
    k = len(study.card.legend)
    confusion = {line: np.zeros((k, k), np.int64) for line in lines}
    tiles_counted = done = 0
    for tiles, batch in study.batches():
        usable = complete(batch)
        if usable.any():
            tiles_counted += int(usable.sum())
            for line, counts in _run_batch(study, tiles, batch, lines=lines):
                confusion[line] += _checked(counts, line, study)
                done += len(tiles)
                if on_line is not None:
                    on_line(done, len(lines) * len(study.indices))
        else:
            done += len(tiles) * len(lines)
    if not tiles_counted:
        raise no_complete_tile(study)
    return _frozen(study, confusion, tiles=tiles_counted)


def _run_batch(
    study: Study, tiles: Sequence[StoredTile], batch: Batch, *, lines: Sequence[Line]
) -> Iterator[tuple[Line, Counts]]:
    """Yield every line's counts; while the host spoils the next input, the device works on the last one."""
    common: Any = {"label": batch["label"], "usable": complete(batch), "image": batch["image"]}
    placed: Any = put_batch(common, study.mesh)
    condition, image = None, placed["image"]
    waiting: tuple[Line, Counts] | None = None
    for line in lines:
        if line.condition is not condition:
            condition = line.condition
            image = placed["image"]
            if condition is not None:
                spoiled: Any = put_batch({"x": spoiled_input(study, tiles, batch, condition)}, study.mesh)
                image = {**image, condition.modality.name: spoiled["x"]}
        started = count_confusion(
            study.variables,
            {m: image[m] for m in line.branch.available},
            placed["label"],
            placed["usable"],
            model=study.model,
            branch=line.branch,
            num_classes=len(study.card.legend),
        )
        if waiting is not None:
            yield waiting
        waiting = (line, started)
    if waiting is not None:
        yield waiting


def spoiled_input(
    study: Study, tiles: Sequence[StoredTile], batch: Batch, condition: Condition
) -> np.ndarray:
    """Return the condition's modality of a batch, degraded and normalised: float32 ``[B, H, W, C]``.

    Tiles that do not count, and padding rows, stay as they are.
    """
    modality = condition.modality
    out = batch["image"][modality.name].copy()
    for row in map(int, np.flatnonzero(complete(batch))):
        stored = tiles[row]["image"][modality.name]
        sensor = Sensor.of(modality, stored.dtype, study.data.normalize)
        x = degrade(
            np.array(stored, np.float32), condition, sensor, seed=study.seed, tile=tiles[row]["index"]
        )
        out[row] = normalize(x, modality, study.data.normalize)
    return out


def _checked(counts: Counts, line: Line, study: Study) -> np.ndarray:
    matrix = np.asarray(counts.confusion).astype(np.int64)
    lost = int(counts.pixels) - int(matrix.sum())
    if lost:
        what = f" with {line.condition.kind.name}" if line.condition else ""
        raise Dis2Error(
            f"split {study.split!r}, scenario {line.branch}{what}: {lost} pixels could not be counted: the"
            " model's output is not finite there"
        )
    return matrix


def _frozen(study: Study, confusion: dict[Line, np.ndarray], *, tiles: int) -> Degraded:
    names = study.card.legend.names
    rows = tuple(
        DegradedRow(
            kind=line.condition.kind.name if line.condition else CLEAN,
            modality=line.condition.modality.name if line.condition else "",
            severity=float(line.condition.severity) if line.condition else 0.0,
            branch=str(line.branch),
            tiles=tiles,
            confusion=tuple(tuple(int(n) for n in row) for row in matrix),
            classes=names,
        )
        for line, matrix in confusion.items()
    )
    return Degraded(
        dataset=study.card.name,
        split=study.split,
        classes=names,
        modalities=study.card.modality_names,
        tiles=tiles,
        sample_seed=study.seed,
        units={c.kind.name: c.kind.unit for line in confusion if (c := line.condition)},
        rows=rows,
        **study.provenance,
    )
