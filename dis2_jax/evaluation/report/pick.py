"""Which tiles a report shows: the best, the most typical and the worst by a rule. No JAX."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from dis2_jax.evaluation.scoring.bootstrap import REFERENCE, Ratios
from dis2_jax.evaluation.scoring.tile_table import TileCounts

Group = Literal["best", "typical", "worst"]

RULE = (
    "A tile's score is the mean over the scenarios of its own mIoU (classes in its reference). Tiles with at least two"
    " classes and every modality are ranked: best are the highest, worst the lowest, typical those nearest the"
    " median; of equals the lower record number comes first."
)


@dataclasses.dataclass(frozen=True)
class Picked:
    """A tile, its place in the split, its score, and its mIoU by scenario."""

    group: Group
    record: int
    tile_id: str
    score: float
    miou: dict[str, float]


def pick_tiles(
    tiles: Mapping[str, TileCounts], scenarios: Sequence[str], *, count: int
) -> tuple[Picked, ...]:
    """Choose up to ``count`` tiles of each group by ``RULE``, best first; never one twice.

    Where no tile has two classes, those with one are ranked; where none has every modality, the scenarios that
    a tile has decide.
    """
    scores = _scores(tiles, scenarios)
    if not scores or count < 1:
        return ()
    for wanted in (lambda p: p.whole and p.classes > 1, lambda p: p.whole, lambda p: True):
        usable = [p for p in scores if wanted(p)]
        if usable:
            break
    ranked = sorted(usable, key=lambda p: (-p.score, p.record))
    each = min(count, max(1, len(ranked) // 3))
    best, rest = ranked[:each], ranked[each:]
    worst = sorted(rest, key=lambda p: (p.score, p.record))[:each]
    middle = float(np.median([p.score for p in ranked]))
    others = [p for p in rest if p not in worst]
    typical = sorted(others, key=lambda p: (abs(p.score - middle), p.record))[:each]
    groups: list[tuple[Group, list[_Scored]]] = [("best", best), ("typical", typical), ("worst", worst)]
    return tuple(Picked(group, p.record, p.tile_id, p.score, p.miou) for group, ps in groups for p in ps)


@dataclasses.dataclass(frozen=True)
class _Scored:
    record: int
    tile_id: str
    score: float
    miou: dict[str, float]
    classes: int
    whole: bool


def _scores(tiles: Mapping[str, TileCounts], scenarios: Sequence[str]) -> list[_Scored]:
    miou: dict[int, dict[str, float]] = {}
    ids: dict[int, str] = {}
    classes: dict[int, int] = {}
    for name in scenarios:
        if name not in tiles:
            continue
        own = tiles[name]
        values = Ratios.of(own.counts).miou
        present = (own.counts[:, REFERENCE] > 0).sum(-1)
        for record, tile_id, value, k in zip(own.records, own.tile_ids, values, present, strict=True):
            if not np.isnan(value):
                miou.setdefault(record, {})[name] = float(value)
                ids[record], classes[record] = tile_id, int(k)
    return [
        _Scored(r, ids[r], sum(m.values()) / len(m), m, classes[r], len(m) == len(scenarios))
        for r, m in miou.items()
    ]
