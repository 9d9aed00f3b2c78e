"""``tiles.csv``: the scores of every tile under every scenario, and the counts that they come from. No JAX."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from dis2_jax.evaluation.scoring.bootstrap import HIT, PREDICTED, REFERENCE, Ratios
from dis2_jax.evaluation.scoring.measures import BoundaryCounts
from dis2_jax.evaluation.scoring.metrics import mean_of_known
from dis2_jax.schema import Dis2Error

_COUNTS = {"hit": HIT, "reference": REFERENCE, "predicted": PREDICTED}
_SCORES = ("miou", "mf1", "oa")


@dataclasses.dataclass(frozen=True, eq=False)
class TileScores:
    """One scenario's T tiles by name.

    ``records`` int64 ``[T]``; ``counts`` and ``eroded`` int64 ``[T, 3, K]`` (see ``bootstrap``); ``boundary``
    int64 ``[T, K, 4]`` in the order of ``BoundaryCounts``.
    """

    records: np.ndarray
    counts: np.ndarray
    eroded: np.ndarray
    boundary: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class TileCounts:
    """One scenario's tiles with what ratios need: ``tile_ids``, ``counts`` ``[T, 3, K]``, ``records``."""

    tile_ids: tuple[str, ...]
    counts: np.ndarray
    records: tuple[int, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class TileTable:
    """Scenario -> its tiles; ``tile_ids`` by record number."""

    classes: tuple[str, ...]
    tile_ids: tuple[str, ...]
    scenarios: Mapping[str, TileScores]

    def to_csv(self) -> str:
        """One line per scenario and tile; ratios are empty where undefined."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        head = ["scenario", "record", "tile_id", "pixels", *_SCORES]
        head += ["eroded_pixels", *(f"eroded_{s}" for s in _SCORES), "boundary_f1"]
        head += [f"{part}/{name}" for part in ("iou", "f1", *_COUNTS) for name in self.classes]
        writer.writerow(head)
        for scenario, tiles in self.scenarios.items():
            for line in _lines(tiles, self.tile_ids):
                writer.writerow([scenario, *line])
        return out.getvalue()


def read_tile_counts(path: str | Path, classes: Sequence[str]) -> dict[str, TileCounts]:
    """Read the counts in a ``tiles.csv``: scenario -> tiles. Raises ``Dis2Error`` for any other file."""
    ids: dict[str, list[str]] = {}
    records: dict[str, list[int]] = {}
    counts: dict[str, list[list[list[int]]]] = {}
    try:
        with Path(path).open(newline="") as f:
            for row in csv.DictReader(f):
                ids.setdefault(row["scenario"], []).append(row["tile_id"])
                records.setdefault(row["scenario"], []).append(int(row["record"]))
                own = [[int(row[f"{part}/{name}"]) for name in classes] for part in _COUNTS]
                counts.setdefault(row["scenario"], []).append(own)
    except (OSError, KeyError, ValueError, TypeError, csv.Error) as e:
        raise Dis2Error(f"{path} is not a table of tiles ({type(e).__name__}: {e}): evaluate again") from e
    return {s: TileCounts(tuple(ids[s]), np.array(counts[s], np.int64), tuple(records[s])) for s in ids}


def _lines(tiles: TileScores, tile_ids: Sequence[str]) -> Iterator[list[object]]:
    """Cells from the record number on."""
    if not len(tiles.records):
        return
    whole, eroded = Ratios.of(tiles.counts), Ratios.of(tiles.eroded)
    for t, record in enumerate(tiles.records):
        boundary = mean_of_known(BoundaryCounts(*(int(n) for n in row)).f1 for row in tiles.boundary[t])
        cells: list[object] = [int(record), tile_ids[record], int(tiles.counts[t, REFERENCE].sum())]
        cells += [_cell(getattr(whole, s)[t]) for s in _SCORES]
        cells += [int(tiles.eroded[t, REFERENCE].sum())]
        cells += [_cell(getattr(eroded, s)[t]) for s in _SCORES]
        cells += ["" if boundary is None else boundary]
        cells += [_cell(v) for v in (*whole.iou[t], *whole.f1[t])]
        cells += [int(n) for part in _COUNTS.values() for n in tiles.counts[t, part]]
        yield cells


def _cell(value: float) -> object:
    return "" if np.isnan(value) else float(value)
