"""What `dis2 evaluate` measures beside the confusion matrix: frozen results, each with its JSON form. No JAX.

Stored are counts wherever a ratio follows from them; ratios in the JSON are for readers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from dis2_jax.evaluation.scoring.metrics import Metrics, mean_of_known, summarize

Interval = tuple[float, float]
"""Low and high end."""
Confusion = tuple[tuple[int, ...], ...]
"""Rows are the reference, columns the prediction, in pixels."""


@dataclasses.dataclass(frozen=True)
class Bin:
    """Pixels whose confidence lies in ``(lower, upper]``; mean confidence and accuracy None without any."""

    lower: float
    upper: float
    count: int
    confidence: float | None
    accuracy: float | None


@dataclasses.dataclass(frozen=True)
class Calibration:
    """Reliability data: confidence is the probability of the predicted class."""

    bins: tuple[Bin, ...]

    @property
    def ece(self) -> float | None:
        """Expected calibration error (Guo et al. 2017): mean of |accuracy - confidence|, weighted by pixels."""
        total = sum(b.count for b in self.bins)
        gaps = (
            b.count * abs(b.accuracy - b.confidence)
            for b in self.bins
            if b.accuracy is not None and b.confidence is not None
        )
        return sum(gaps) / total if total else None

    def to_dict(self) -> dict[str, Any]:
        """``{"ece", "bins"}``."""
        return {"ece": self.ece, "bins": [dataclasses.asdict(b) for b in self.bins]}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Calibration:
        """Read ``to_dict``."""
        return cls(tuple(Bin(**b) for b in values["bins"]))


@dataclasses.dataclass(frozen=True)
class Intervals:
    """Percentile bootstrap over tiles; None where the split leaves the ratio undefined. ``iou``: per class."""

    level: float
    samples: int
    miou: Interval | None
    mf1: Interval | None
    oa: Interval | None
    iou: tuple[Interval | None, ...]

    def to_dict(self, classes: Sequence[str]) -> dict[str, Any]:
        """Per-class intervals become a dict by name."""
        return {**dataclasses.asdict(self), "iou": dict(zip(classes, self.iou, strict=True))}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], classes: Sequence[str]) -> Intervals:
        """Read ``to_dict``."""
        ends = {k: _interval(values[k]) for k in ("miou", "mf1", "oa")}
        iou = tuple(_interval(values["iou"][name]) for name in classes)
        return cls(level=values["level"], samples=values["samples"], iou=iou, **ends)


@dataclasses.dataclass(frozen=True)
class BoundaryCounts:
    """Boundary pixels of one class, and how many of them the other map's boundary of that class comes near."""

    predicted: int
    predicted_near: int
    reference: int
    reference_near: int

    @property
    def f1(self) -> float | None:
        """Harmonic mean of boundary precision and recall; None without a boundary in the reference."""
        if not self.reference:
            return None
        precision = self.predicted_near / self.predicted if self.predicted else 0.0
        recall = self.reference_near / self.reference
        return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


@dataclasses.dataclass(frozen=True)
class Boundary:
    """Boundary F1 (Csurka et al. 2013) from counts summed over all maps; ``counts`` per class."""

    tolerance: int
    """Pixels, Euclidean, inclusive."""
    counts: tuple[BoundaryCounts, ...]

    @property
    def f1(self) -> tuple[float | None, ...]:
        """Per class."""
        return tuple(c.f1 for c in self.counts)

    @property
    def mean_f1(self) -> float | None:
        """Over the classes with a boundary in the reference."""
        return mean_of_known(self.f1)

    def to_dict(self, classes: Sequence[str]) -> dict[str, Any]:
        """``{"tolerance", "mean_f1", "f1", "counts"}``, the last two dicts by class."""
        return {
            "tolerance": self.tolerance,
            "mean_f1": self.mean_f1,
            "f1": dict(zip(classes, self.f1, strict=True)),
            "counts": {n: dataclasses.asdict(c) for n, c in zip(classes, self.counts, strict=True)},
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], classes: Sequence[str]) -> Boundary:
        """Read ``to_dict``."""
        return cls(values["tolerance"], tuple(BoundaryCounts(**values["counts"][n]) for n in classes))


@dataclasses.dataclass(frozen=True)
class Eroded:
    """The confusion matrix without reference pixels that lie within ``radius`` px of another class."""

    radius: int
    confusion: Confusion
    classes: tuple[str, ...]

    @property
    def metrics(self) -> Metrics:
        """Ratios of ``confusion``."""
        return summarize(self.confusion, self.classes)

    def to_dict(self) -> dict[str, Any]:
        """Radius, ratios, confusion."""
        return {
            "radius": self.radius,
            **dataclasses.asdict(self.metrics),
            "confusion": self.confusion,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], classes: tuple[str, ...]) -> Eroded:
        """Read ``to_dict``; ratios are computed again."""
        return cls(values["radius"], read_confusion(values["confusion"]), classes)


@dataclasses.dataclass(frozen=True)
class SceneScore:
    """One scene, stitched from ``tiles`` tiles."""

    name: str
    tiles: int
    confusion: Confusion
    classes: tuple[str, ...]

    @property
    def metrics(self) -> Metrics:
        """Ratios of ``confusion``."""
        return summarize(self.confusion, self.classes)


@dataclasses.dataclass(frozen=True)
class Scenes:
    """Whole scenes: overlapping tiles averaged in probability, every scene pixel scored once.

    ``each`` in order of name; ``confusion`` is their sum. Erosion and boundaries see across tile edges.
    """

    confusion: Confusion
    eroded: Eroded
    boundary: Boundary
    calibration: Calibration
    each: tuple[SceneScore, ...]
    classes: tuple[str, ...]

    @property
    def metrics(self) -> Metrics:
        """Ratios of ``confusion``."""
        return summarize(self.confusion, self.classes)

    def to_dict(self) -> dict[str, Any]:
        """Total ratios and counts, then ``each`` scene."""
        return {
            **dataclasses.asdict(self.metrics),
            "confusion": self.confusion,
            "eroded": self.eroded.to_dict(),
            "boundary": self.boundary.to_dict(self.classes),
            "calibration": self.calibration.to_dict(),
            "each": [
                {
                    "name": s.name,
                    "tiles": s.tiles,
                    **dataclasses.asdict(s.metrics),
                    "confusion": s.confusion,
                }
                for s in self.each
            ],
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], classes: tuple[str, ...]) -> Scenes:
        """Read ``to_dict``; ratios are computed again."""
        return cls(
            confusion=read_confusion(values["confusion"]),
            eroded=Eroded.from_dict(values["eroded"], classes),
            boundary=Boundary.from_dict(values["boundary"], classes),
            calibration=Calibration.from_dict(values["calibration"]),
            each=tuple(
                SceneScore(s["name"], s["tiles"], read_confusion(s["confusion"]), classes)
                for s in values["each"]
            ),
            classes=classes,
        )


def read_confusion(values: Any) -> Confusion:
    """Turn nested lists or an integer array ``[K, K]`` into tuples of ints."""
    return tuple(tuple(int(n) for n in line) for line in values)


def _interval(values: Any) -> Interval | None:
    return None if values is None else (float(values[0]), float(values[1]))
