"""Bootstrap over tiles: how much the scores of a split depend on which tiles happen to be in it.

The unit is a tile's class counts; a resample adds up the counts of tiles drawn with replacement and takes ratios
of the sum, as the table does. Tiles of one scene resemble each other, so intervals are, if anything, too narrow.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np

from dis2_jax.evaluation.scoring.measures import Interval, Intervals

HIT, REFERENCE, PREDICTED = range(3)
"""First axis of class counts ``[3, K]``: pixels on the diagonal, in the reference, predicted."""
_CHUNK = 2**22


def class_counts_of(confusion: np.ndarray) -> np.ndarray:
    """Turn confusion matrices ``[..., K, K]`` into class counts ``[..., 3, K]``; all our ratios follow from them."""
    hit = np.diagonal(confusion, axis1=-2, axis2=-1)
    return np.stack([hit, confusion.sum(-1), confusion.sum(-2)], axis=-2)


@dataclasses.dataclass(frozen=True, eq=False)
class Ratios:
    """Scores of many sums at once, float64 with NaN where undefined: ``[S]``, and ``[S, K]`` per class."""

    miou: np.ndarray
    mf1: np.ndarray
    oa: np.ndarray
    iou: np.ndarray
    f1: np.ndarray

    @classmethod
    def of(cls, counts: np.ndarray) -> Ratios:
        """Compute from class counts ``[S, 3, K]`` (any numbers that are whole): the rules of ``summarize``."""
        hit, reference, predicted = (counts[:, i].astype(np.float64) for i in range(3))
        present = reference > 0
        iou = _divide(hit, reference + predicted - hit, present)
        f1 = _divide(2 * hit, reference + predicted, present)
        total = reference.sum(-1)
        return cls(
            miou=_mean(iou, present),
            mf1=_mean(f1, present),
            oa=_divide(hit.sum(-1), total, total > 0),
            iou=iou,
            f1=f1,
        )


def resampled(counts: np.ndarray, *, samples: int, seed: int) -> Iterator[np.ndarray]:
    """Yield sums ``[s, 3, K]`` (whole float64 numbers, exact) over tiles drawn with replacement, in chunks.

    ``counts`` is ``[T, 3, K]``. The same T and seed draw the same tiles, so that runs and scenarios scored on
    the same tiles can be compared sample by sample.
    """
    tiles = len(counts)
    flat = counts.reshape(tiles, -1).astype(np.float64)
    rng = np.random.default_rng(seed)
    chunk = max(1, _CHUNK // max(tiles, 1))
    for start in range(0, samples, chunk):
        size = min(chunk, samples - start)
        drawn = rng.integers(0, tiles, (size, tiles)) + tiles * np.arange(size)[:, None]
        weights = np.bincount(drawn.ravel(), minlength=size * tiles).reshape(size, tiles)
        yield (weights.astype(np.float64) @ flat).reshape(size, *counts.shape[1:])


def resampled_ratios(counts: np.ndarray, *, samples: int, seed: int) -> Ratios:
    """Scores of every resample. ``counts`` is ``[T, 3, K]`` with at least one tile."""
    parts = [Ratios.of(sums) for sums in resampled(counts, samples=samples, seed=seed)]
    fields = [f.name for f in dataclasses.fields(Ratios)]
    return Ratios(**{name: np.concatenate([getattr(p, name) for p in parts]) for name in fields})


def percentile_interval(values: np.ndarray, *, level: float) -> Interval | None:
    """Central interval that holds ``level`` of the values ``[S]``; NaN is left out, None without a number."""
    known = values[~np.isnan(values)]
    if not known.size:
        return None
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def tile_intervals(counts: np.ndarray, *, samples: int, seed: int, level: float = 0.95) -> Intervals | None:
    """Percentile intervals of one scenario from its tiles' class counts ``[T, 3, K]``; None without a tile."""
    if not len(counts) or samples < 1:
        return None
    ratios = resampled_ratios(counts, samples=samples, seed=seed)
    return Intervals(
        level=level,
        samples=samples,
        miou=percentile_interval(ratios.miou, level=level),
        mf1=percentile_interval(ratios.mf1, level=level),
        oa=percentile_interval(ratios.oa, level=level),
        iou=tuple(percentile_interval(column, level=level) for column in ratios.iou.T),
    )


def _divide(a: np.ndarray, b: np.ndarray, where: np.ndarray) -> np.ndarray:
    return np.divide(a, b, out=np.full(a.shape, np.nan), where=where)


def _mean(values: np.ndarray, where: np.ndarray) -> np.ndarray:
    count = where.sum(-1)
    return _divide(np.where(where, values, 0).sum(-1), count.astype(np.float64), count > 0)
