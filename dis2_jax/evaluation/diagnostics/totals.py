"""Running sums of the compensation diagnostics, on the host: exact counts, float64 distances and moments."""

from __future__ import annotations

from typing import Any

import numpy as np

from dis2_jax.data.batch import Batch
from dis2_jax.evaluation.chosen import Study, complete
from dis2_jax.evaluation.diagnostics.cka import StreamingCKA
from dis2_jax.evaluation.diagnostics.results import FILLS, LEVELS, Diagnostics, FillScore, Similarity
from dis2_jax.evaluation.scoring.metrics import confusion_matrix
from dis2_jax.schema import Dis2Error, Fill, Scenario


class Totals:
    """Running sums of every scenario and fill."""

    def __init__(self, study: Study, students: list[Scenario]) -> None:
        self._study = study
        self._students = students
        k = len(study.card.legend)
        full = study.model.scenarios[0]
        keys: list[tuple[Scenario, Fill | None]] = [(full, None)]
        keys += [(s, f) for s in students for f in FILLS]
        self._confusion = {key: np.zeros((k, k), np.int64) for key in keys}
        rows = [(s, f, level) for s in students for f in FILLS for level in LEVELS]
        self._cka = {row: StreamingCKA() for row in rows}
        self._distance = {row: np.zeros(2) for row in rows}
        self.tiles = 0

    def count(self, s: Scenario, fill: Fill | None, batch: Batch, classes: np.ndarray) -> None:
        """Add the confusion of the complete tiles."""
        usable = complete(batch)
        if (classes[usable] < 0).any():
            raise Dis2Error(
                f"split {self._study.split!r}, scenario {s}: the model's output is not finite on"
                f" {int((classes[usable] < 0).sum())} pixels{f' with {fill}' if fill else ''}"
            )
        k = len(self._study.card.legend)
        self._confusion[s, fill] += confusion_matrix(batch["label"][usable], classes[usable], num_classes=k)
        if fill is None:
            self.tiles += int(usable.sum())

    def add(self, s: Scenario, fill: Fill, found: Any, usable: np.ndarray) -> None:
        """Add distances and sampled features of the complete tiles."""
        for level, values in found.items():
            for i in np.flatnonzero(usable):
                self._cka[s, fill, level].add(values["x"][i], values["y"][i])
            pair = np.stack([values["relative_l2"], values["cosine_distance"]], -1).astype(np.float64)
            self._distance[s, fill, level] += pair[usable].sum(0)

    def results(self, *, positions: int) -> Diagnostics:
        """Freeze."""
        study = self._study
        names = study.card.legend.names
        scores = tuple(
            FillScore(
                scenario=str(s),
                fill=fill,
                missing=tuple(m for m in study.model.names if m not in s.available),
                tiles=self.tiles,
                confusion=tuple(tuple(int(n) for n in line) for line in matrix),
                classes=names,
            )
            for (s, fill), matrix in self._confusion.items()
        )
        return Diagnostics(
            dataset=study.card.name,
            split=study.split,
            classes=names,
            modalities=study.card.modality_names,
            tiles=self.tiles,
            sample_seed=study.seed,
            positions_per_tile=positions,
            similarities=tuple(self._similarity(*row) for row in self._cka),
            scores=scores,
            **study.provenance,
        )

    def _similarity(self, s: Scenario, fill: Fill, level: str) -> Similarity:
        cka = self._cka[s, fill, level]
        relative, cosine = self._distance[s, fill, level] / max(self.tiles, 1)
        return Similarity(
            scenario=str(s),
            fill=fill,
            level=level,
            relative_l2=float(relative),
            cosine_distance=float(cosine),
            cka=cka.value,
            cka_debiased=cka.debiased,
            distance_positions=self.tiles * map_positions(self._study.card.tile)[level],
            cka_positions=cka.count,
        )


def map_positions(tile: tuple[int, int]) -> dict[str, int]:
    """Positions of each level's map in a tile (height, width)."""
    strides = (2, 4, 8, 16, 0, 1)
    return {
        level: (tile[0] // stride) * (tile[1] // stride) if stride else 1
        for level, stride in zip(LEVELS, strides, strict=True)
    }
