"""Every condition x branch over the chosen tiles: one condition after the other, so that each can be kept."""

from __future__ import annotations

import dataclasses
import itertools
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
from dis2_jax.evaluation.degrade.stored import Point, Unfinished
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
    unfinished: Unfinished | None = None,
    on_line: Callable[[int, int], None] | None = None,
) -> Degraded:
    """Count confusion matrices of every line on the study's complete tiles, one condition after the other.

    Each (condition, tile) is spoiled once and shown to every branch of its lines. Nothing is compiled but one
    program per branch. The counts are exact, whatever the batch size.

    Args:
        study: weights and tiles.
        conditions: what to measure (``plan_conditions``).
        students: also the students that still use the degraded modality.
        unfinished: finished conditions are kept there, and those that it has are not measured again.
        on_line: called with (tiles x lines done, in all).

    Raises:
        Dis2Error: no tile with every modality, or an output that is not finite.
    """
    lines = lines_of(study, conditions, students=students)
    progress = _Progress(len(lines) * len(study.indices), on_line)
    rows: list[DegradedRow] = []
    for condition, group in itertools.groupby(lines, key=lambda line: line.condition):
        own = list(group)
        known = unfinished.rows(point_of(condition), [str(x.branch) for x in own]) if unfinished else None
        if known is None:
            known = _measured(study, own, progress)
            if unfinished is not None:
                unfinished.add(point_of(condition), known)
        else:
            progress.add(len(own) * len(study.indices))
        rows += known
    return _frozen(study, rows, conditions)


def point_of(condition: Condition | None) -> Point:
    """Return what tells one condition from another; None: the undegraded one."""
    if condition is None:
        return (CLEAN, "", 0.0)
    return (condition.kind.name, condition.modality.name, float(condition.severity))


class _Progress:
    def __init__(self, total: int, tell: Callable[[int, int], None] | None) -> None:
        self._done, self._total, self._tell = 0, total, tell

    def add(self, count: int) -> None:
        self._done += count
        if self._tell is not None:
            self._tell(self._done, self._total)


def _measured(study: Study, lines: Sequence[Line], progress: _Progress) -> list[DegradedRow]:
    """Count the lines of one condition over all tiles."""
    k = len(study.card.legend)
    confusion = {line: np.zeros((k, k), np.int64) for line in lines}
    counted = 0
    for tiles, batch in study.batches():
        usable = complete(batch)
        counted += int(usable.sum())
        if not usable.any():
            progress.add(len(tiles) * len(lines))
            continue
        for line, counts in _run_batch(study, tiles, batch, lines=lines):
            confusion[line] += _checked(counts, line, study)
            progress.add(len(tiles))
    if not counted:
        raise no_complete_tile(study)
    return [_row(study, line, matrix, tiles=counted) for line, matrix in confusion.items()]


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


def _row(study: Study, line: Line, confusion: np.ndarray, *, tiles: int) -> DegradedRow:
    kind, modality, severity = point_of(line.condition)
    return DegradedRow(
        kind=kind,
        modality=modality,
        severity=severity,
        branch=str(line.branch),
        tiles=tiles,
        confusion=tuple(tuple(int(n) for n in row) for row in confusion),
        classes=study.card.legend.names,
    )


def _frozen(study: Study, rows: Sequence[DegradedRow], conditions: Sequence[Condition]) -> Degraded:
    return Degraded(
        dataset=study.card.name,
        split=study.split,
        classes=study.card.legend.names,
        modalities=study.card.modality_names,
        tiles=rows[0].tiles,
        sample_seed=study.seed,
        units={c.kind.name: c.kind.unit for c in conditions},
        rows=tuple(rows),
        **study.provenance,
    )
