"""Everything that `dis2 evaluate` reports, in one pass over a split.

Per tile and scenario: confusion, eroded confusion, boundaries, reliability; whole scenes where the tiles' places
are known; bootstrap intervals at the end. All sums are of integers, taken per tile: given the network's output
(XLA may round it differently in its last bits for another batch shape) they do not depend on batch size, devices,
hosts or the order of the records.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jax.sharding import Mesh

from dis2_jax.config import DataConfig
from dis2_jax.data.batch import Batch
from dis2_jax.data.opening import open_tiles
from dis2_jax.data.places import any_overlap, reading_order
from dis2_jax.evaluation.evaluate import (
    Counts,
    Outputs,
    Row,
    check_lost,
    everywhere,
    fetch,
    predict_split,
    rows_of,
    usable_tiles,
)
from dis2_jax.evaluation.results import Evaluation, ScenarioResult
from dis2_jax.evaluation.scoring.bootstrap import class_counts_of, tile_intervals
from dis2_jax.evaluation.scoring.measures import Eroded, Scenes, read_confusion
from dis2_jax.evaluation.scoring.ruler import MapScore, MeasureOptions, Reference, Ruler, calibration_of
from dis2_jax.evaluation.scoring.scenes import SceneScorer, TileMaps
from dis2_jax.evaluation.scoring.tile_table import TileScores, TileTable
from dis2_jax.models.dis2 import DIS2
from dis2_jax.schema import DatasetCard


@dataclasses.dataclass(frozen=True)
class Measured:
    """The evaluation, the table of its tiles, and what came off the device (for pictures without a compile)."""

    evaluation: Evaluation
    tiles: TileTable
    outputs: Outputs


def measure_split(
    model: DIS2,
    variables: Mapping[str, Any],
    dataset_dir: str,
    card: DatasetCard,
    data: DataConfig,
    *,
    split: str,
    batch_size: int,
    options: MeasureOptions,
    mesh: Mesh | None = None,
    baselines: bool = False,
    on_batch: Callable[[int, int], None] | None = None,
) -> Measured:
    """Measure every scenario of a split. Arguments and errors as ``evaluate_split``; see ``MeasureOptions``.

    Every host of a job must call this; all get the same result.
    """
    ruler = Ruler.of(options, card.legend)
    rows = rows_of(model, card, baselines=baselines)
    source = open_tiles(dataset_dir, split, card, kind=data.source)
    places = source.places()
    outputs: Outputs = "probabilities" if places and any_overlap(places) else "confidence"
    ledgers = {row.name: _Ledger(ruler) for row in rows}
    stitcher = SceneScorer([row.name for row in rows], places, ruler) if places else None
    reading: dict[str, Any] = {"split": split, "batch_size": batch_size, "mesh": mesh, "on_batch": on_batch}
    order = reading_order(places) if places else None
    what = (model, variables, dataset_dir, card, data)
    read: set[int] = set()
    for share, found in predict_split(rows, *what, outputs=outputs, order=order, **reading):
        batch, maps = _whole_batch(share, found, rows=rows, card=card, mesh=mesh)
        read.update(batch["index"][batch["valid"]].tolist())
        for i in np.flatnonzero(batch["valid"]).tolist():
            usable = {
                n: _tile_maps(m, i, split=split, scenario=n) for n, (m, there) in maps.items() if there[i]
            }
            _score_tile(int(batch["index"][i]), batch["label"][i], usable, ledgers, ruler, stitcher)
    classes = card.legend.names
    ids = tuple(source.tile_id(i) for i in range(len(source)))
    scenes = stitcher.results(classes) if stitcher else {}
    results = tuple(
        ledgers[row.name].result(row, classes, ids, scenes=scenes.get(row.name), options=options)
        for row in rows
    )
    evaluation = Evaluation(
        dataset=card.name,
        split=split,
        classes=classes,
        scenarios=results,
        excluded=options.excluded(card.legend),
        no_scenes=None if places else _why_no_scenes(dataset_dir, split),
        unread=tuple(name for i, name in enumerate(ids) if i not in read),
    )
    table = TileTable(
        classes=classes,
        tile_ids=ids,
        scenarios={name: ledger.tiles(ids) for name, ledger in ledgers.items()},
    )
    return Measured(evaluation, table, outputs)


class _Ledger:
    """One scenario's counts: the total, and each tile's by record number."""

    def __init__(self, ruler: Ruler) -> None:
        self._ruler = ruler
        self._total = MapScore.zero(ruler)
        self._tiles: dict[int, tuple[np.ndarray, np.ndarray, np.ndarray]] = {}

    def add(self, record: int, score: MapScore) -> None:
        self._total += score
        counts, eroded = class_counts_of(np.stack([score.confusion, score.eroded])).astype(np.int32)
        self._tiles[record] = (counts, eroded, score.boundary.astype(np.int32))

    def tiles(self, ids: Sequence[str]) -> TileScores:
        """By name, so that resampling does not depend on the order of the records."""
        k = self._ruler.num_classes
        records = sorted(self._tiles, key=lambda record: ids[record])
        counts, eroded, boundary = (
            np.array([self._tiles[r][part] for r in records], np.int64).reshape(len(records), *shape)
            for part, shape in enumerate([(3, k), (3, k), (k, 4)])
        )
        return TileScores(np.array(records, np.int64), counts, eroded, boundary)

    def result(
        self,
        row: Row,
        classes: tuple[str, ...],
        ids: Sequence[str],
        *,
        scenes: Scenes | None,
        options: MeasureOptions,
    ) -> ScenarioResult:
        total = self._total
        intervals = tile_intervals(self.tiles(ids).counts, samples=options.samples, seed=options.seed)
        return ScenarioResult(
            name=row.name,
            kind=row.kind,
            available=row.available,
            tiles=len(self._tiles),
            confusion=read_confusion(total.confusion),
            classes=classes,
            excluded_pixels=total.excluded,
            calibration=calibration_of(total.reliability),
            intervals=intervals,
            boundary=total.boundaries(self._ruler),
            eroded=Eroded(self._ruler.erode, read_confusion(total.eroded), classes),
            scenes=scenes,
        )


def _score_tile(
    record: int,
    label: np.ndarray,
    maps: Mapping[str, TileMaps],
    ledgers: Mapping[str, _Ledger],
    ruler: Ruler,
    stitcher: SceneScorer | None,
) -> None:
    reference = Reference.of(label, ruler)
    for name, tile in maps.items():
        ledgers[name].add(record, reference.score(tile.predicted, tile.confidence))
    if stitcher is not None:
        stitcher.add(record, reference.label, maps)


def _whole_batch(
    share: Batch,
    found: Mapping[str, Counts],
    *,
    rows: Sequence[Row],
    card: DatasetCard,
    mesh: Mesh | None,
) -> tuple[Batch, dict[str, tuple[Counts, np.ndarray]]]:
    """Collect all hosts' rows of a batch: the batch without images, and row -> (maps, usable tiles ``[B]``)."""
    batch: Batch = everywhere({**share, "image": {}}, mesh)
    return batch, {
        row.name: (fetch(found[row.name]), usable_tiles(batch, row, card))
        for row in rows
        if row.name in found
    }


def _tile_maps(counts: Counts, i: int, *, split: str, scenario: str) -> TileMaps:
    predicted = np.asarray(counts.predicted[i])
    check_lost(int((predicted < 0).sum()), split=split, scenario=scenario)
    assert counts.confidence is not None
    probabilities = None if counts.probabilities is None else np.asarray(counts.probabilities[i])
    return TileMaps(predicted.astype(np.uint8), np.asarray(counts.confidence[i]), probabilities)


def _why_no_scenes(dataset_dir: str, split: str) -> str:
    return (
        f"{dataset_dir} does not say where the tiles of split {split!r} lie in their scenes; prepare it again"
        " with this version, if they were cut from scenes"
    )
