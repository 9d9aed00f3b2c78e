"""Score one map (a tile or a whole scene) against its reference: integer counts that add up. No JAX."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Sequence

import numpy as np

from dis2_jax.evaluation.scoring.boundaries import BoundaryMap, near_other_class
from dis2_jax.evaluation.scoring.measures import Bin, Boundary, BoundaryCounts, Calibration
from dis2_jax.evaluation.scoring.metrics import confusion_matrix
from dis2_jax.schema import IGNORE, ClassLegend, Dis2Error, nearest

CONFIDENCE_ONE = 65535
"""Confidence is counted in 1/65535, so that sums are integers: the same in any order."""
_BAND_PIXELS = 2**20


@dataclasses.dataclass(frozen=True)
class MeasureOptions:
    """What `dis2 evaluate` measures beside the confusion matrix."""

    erode: int = 3
    """Radius of the disk that eroded boundaries are ignored by, in pixels (ISPRS: 3)."""
    tolerance: int = 3
    """Distance up to which boundaries match, in pixels."""
    exclude: tuple[str, ...] = ()
    """Classes whose reference pixels are not scored."""
    bins: int = 15
    """Of the reliability data."""
    samples: int = 1000
    """Bootstrap resamples; 0: no intervals."""
    seed: int = 0
    """Of the bootstrap."""

    def __post_init__(self) -> None:
        for option, value, least in (
            ("--erode", self.erode, 0),
            ("--boundary-tolerance", self.tolerance, 0),
            ("--bootstrap", self.samples, 0),
            ("bins", self.bins, 1),
        ):
            if value < least:
                raise Dis2Error(f"{option} {value}: it must be at least {least}")

    def excluded(self, legend: ClassLegend) -> tuple[str, ...]:
        """Return ``exclude`` in the legend's order. Raises ``Dis2Error``: no such class, or none would be left."""
        for name in self.exclude:
            if name not in legend.names:
                known = ", ".join(legend.names)
                raise Dis2Error(
                    f"--exclude: no class {name!r}{nearest(name, legend.names)}; there are {known}"
                )
        if set(self.exclude) == set(legend.names):
            raise Dis2Error("--exclude names every class: leave at least one to score")
        return tuple(n for n in legend.names if n in self.exclude)


@dataclasses.dataclass(frozen=True)
class Ruler:
    """How maps are scored: ``MeasureOptions`` for K classes, excluded ones by position."""

    num_classes: int
    excluded: tuple[int, ...]
    erode: int
    tolerance: int
    bins: int

    @classmethod
    def of(cls, options: MeasureOptions, legend: ClassLegend) -> Ruler:
        """Look the excluded classes up."""
        excluded = tuple(legend.names.index(n) for n in options.excluded(legend))
        return cls(len(legend), excluded, options.erode, options.tolerance, options.bins)

    @functools.cached_property
    def bin_table(self) -> np.ndarray:
        """Confidence in 1/65535 -> bin ``(i/bins, (i+1)/bins]``; 0 goes to the first."""
        steps = np.arange(CONFIDENCE_ONE + 1, dtype=np.int64) * self.bins
        return np.maximum(-(-steps // CONFIDENCE_ONE) - 1, 0)


@dataclasses.dataclass(frozen=True, eq=False)
class MapScore:
    """int64 counts of one map, or the sum of several.

    ``confusion`` and ``eroded`` ``[K, K]``; ``boundary`` ``[K, 4]`` in the order of ``BoundaryCounts``;
    ``reliability`` ``[bins, 3]``: pixels, correct ones, sum of confidence in 1/65535; ``excluded``: reference
    pixels of excluded classes.
    """

    confusion: np.ndarray
    eroded: np.ndarray
    boundary: np.ndarray
    reliability: np.ndarray
    excluded: int = 0

    @classmethod
    def zero(cls, ruler: Ruler) -> MapScore:
        """Nothing counted yet."""
        k = ruler.num_classes
        shapes = {
            "confusion": (k, k),
            "eroded": (k, k),
            "boundary": (k, 4),
            "reliability": (ruler.bins, 3),
        }
        counts = {name: np.zeros(shape, np.int64) for name, shape in shapes.items()}
        return cls(**counts, excluded=0)

    def __add__(self, other: MapScore) -> MapScore:
        """Counts of two maps together."""
        return MapScore(
            self.confusion + other.confusion,
            self.eroded + other.eroded,
            self.boundary + other.boundary,
            self.reliability + other.reliability,
            self.excluded + other.excluded,
        )

    def boundaries(self, ruler: Ruler) -> Boundary:
        """Boundary counts by class."""
        return Boundary(
            ruler.tolerance, tuple(BoundaryCounts(*(int(n) for n in row)) for row in self.boundary)
        )


def calibration_of(reliability: np.ndarray) -> Calibration:
    """Means of each bin of ``MapScore.reliability``.

    Confidence is rounded to 1e-6: finer digits hold the network's last bits, which change with the batch shape.
    """
    bins = len(reliability)
    return Calibration(
        tuple(
            Bin(
                lower=i / bins,
                upper=(i + 1) / bins,
                count=int(n),
                confidence=round(int(confidence) / (CONFIDENCE_ONE * int(n)), 6) if n else None,
                accuracy=int(correct) / int(n) if n else None,
            )
            for i, (n, correct, confidence) in enumerate(reliability)
        )
    )


@dataclasses.dataclass(frozen=True, eq=False)
class Reference:
    """A reference map with all that does not depend on a prediction.

    ``label`` uint8 ``[H, W]``; ``scored`` bool: neither ignored nor of an excluded class; ``kept``: scored and
    away from boundaries. Excluded classes still are classes where boundaries are found.
    """

    label: np.ndarray
    scored: np.ndarray
    kept: np.ndarray
    boundary: BoundaryMap
    ruler: Ruler

    @classmethod
    def of(cls, label: np.ndarray, ruler: Ruler) -> Reference:
        """Prepare a label ``[H, W]`` of integers, 0..K-1 or ``IGNORE``."""
        label = label.astype(np.uint8)
        counts = np.ones(IGNORE + 1, bool)
        counts[[*ruler.excluded, IGNORE]] = False
        scored = counts[label]
        near = near_other_class(label, radius=ruler.erode, num_classes=ruler.num_classes)
        boundary = BoundaryMap.of(label, tolerance=ruler.tolerance, num_classes=ruler.num_classes)
        return cls(label, scored, scored & ~near, boundary, ruler)

    def score(self, predicted: np.ndarray, confidence: np.ndarray) -> MapScore:
        """Count one prediction.

        Args:
            predicted: uint8 ``[H, W]``, 0..K-1 wherever the label is not ``IGNORE``.
            confidence: uint16 ``[H, W]``, probability of the predicted class in 1/65535.
        """
        k = self.ruler.num_classes
        total = MapScore.zero(self.ruler)
        table = self.ruler.bin_table
        for rows in _bands(self.label.shape):
            label, scored = self.label[rows], self.scored[rows]
            for matrix, counted in ((total.confusion, scored), (total.eroded, self.kept[rows])):
                kept = np.where(counted, label, IGNORE)
                matrix += confusion_matrix(kept, predicted[rows], num_classes=k)
            hit = (predicted[rows] == label)[scored]
            total.reliability[:] += _reliability(confidence[rows][scored], hit, table, bins=self.ruler.bins)
        total.boundary[:] = self._boundary_counts(predicted)
        unscored = (self.label != IGNORE) & ~self.scored
        return dataclasses.replace(total, excluded=int(unscored.sum()))

    def _boundary_counts(self, predicted: np.ndarray) -> np.ndarray:
        k = self.ruler.num_classes
        known = np.where(self.label == IGNORE, IGNORE, predicted).astype(np.uint8)
        own = BoundaryMap.of(known, tolerance=self.ruler.tolerance, num_classes=k)
        pairs = ((own, self.boundary), (self.boundary, own))
        found = [a.matched(b, counted=self.scored, num_classes=k) for a, b in pairs]
        counts: np.ndarray = np.concatenate(found, axis=-1)
        counts[list(self.ruler.excluded)] = 0
        return counts


def _reliability(confidence: np.ndarray, hit: np.ndarray, table: np.ndarray, *, bins: int) -> np.ndarray:
    """Count pixels ``[N]``, hits and confidence per bin, int64 ``[bins, 3]``; the sums are exact below 2^53."""
    where = table[confidence]
    return np.stack(
        [
            np.bincount(where, minlength=bins),
            np.bincount(where[hit], minlength=bins),
            np.bincount(where, weights=confidence, minlength=bins).astype(np.int64),
        ],
        axis=-1,
    )


def _bands(shape: Sequence[int]) -> Iterator[slice]:
    """Rows at a time, so that the temporaries of a large scene stay small."""
    step = max(1, _BAND_PIXELS // max(shape[1], 1))
    for start in range(0, shape[0], step):
        yield slice(start, start + step)
