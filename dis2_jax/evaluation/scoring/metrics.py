"""Confusion-matrix arithmetic in numpy: exact integer counts first, ratios last (METHOD.md, DESIGN.md).

Rows of a confusion matrix are the reference, columns the prediction. Matrices of tiles, batches and hosts
add up; means of ratios do not, so ratios are only ever taken of a summed matrix.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from dis2_jax.schema import IGNORE, Dis2Error


@dataclasses.dataclass(frozen=True)
class ClassMetrics:
    """One class. The four ratios are None when the class is absent from the reference.

    A class that is there but never predicted has precision 0.
    """

    name: str
    iou: float | None
    f1: float | None
    precision: float | None
    recall: float | None
    reference: int
    """Pixels of the class in the reference."""
    predicted: int
    """Pixels predicted as the class (all of them false when the class is absent)."""

    @property
    def present(self) -> bool:
        """Whether the reference holds the class at all."""
        return self.reference > 0


@dataclasses.dataclass(frozen=True)
class Metrics:
    """Ratios of one confusion matrix; means are over the classes present in the reference.

    All four are None for a matrix without pixels; kappa also where it is undefined (one class, all agree).
    """

    classes: tuple[ClassMetrics, ...]
    pixels: int
    oa: float | None
    """Overall accuracy: the share of pixels on the diagonal."""
    miou: float | None
    mf1: float | None
    kappa: float | None
    """Cohen's kappa: agreement beyond what the two histograms would reach by chance."""

    @property
    def absent(self) -> tuple[ClassMetrics, ...]:
        """Classes without a reference pixel: reported, in no mean."""
        return tuple(c for c in self.classes if not c.present)


def confusion_matrix(reference: np.ndarray, prediction: np.ndarray, *, num_classes: int) -> np.ndarray:
    """Count ``[K, K]`` int64 (reference, prediction) pairs, except where the reference is ``IGNORE``.

    Args:
        reference: integers of any shape, 0..K-1 or ``IGNORE``.
        prediction: integers of the same shape, 0..K-1 wherever the reference counts.
        num_classes: K.

    Raises:
        Dis2Error: shapes differ, or a value lies outside the classes.
    """
    if reference.shape != prediction.shape:
        raise Dis2Error(f"reference {reference.shape} and prediction {prediction.shape} differ in shape")
    counted = reference != IGNORE
    r = reference[counted].astype(np.int64)
    p = prediction[counted].astype(np.int64)
    for what, values in (("reference", r), ("prediction", p)):
        bad = values[(values < 0) | (values >= num_classes)]
        if bad.size:
            raise Dis2Error(f"{what} holds {np.unique(bad)[:8].tolist()}: classes are 0..{num_classes - 1}")
    pairs = np.bincount(r * num_classes + p, minlength=num_classes**2)
    return pairs.reshape(num_classes, num_classes).astype(np.int64)


def summarize(confusion: Any, names: Sequence[str]) -> Metrics:
    """Compute every ratio of a ``[K, K]`` integer matrix (rows reference, columns prediction).

    Raises:
        Dis2Error: the matrix is not K x K for the K names, or holds a negative count.
    """
    matrix = np.asarray(confusion, dtype=np.int64)
    if matrix.shape != (len(names), len(names)):
        raise Dis2Error(f"a confusion matrix of shape {matrix.shape} for {len(names)} classes")
    if (matrix < 0).any():
        raise Dis2Error("a confusion matrix holds a negative count: an integer overflowed")
    classes = tuple(_class_metrics(matrix, k, name) for k, name in enumerate(names))
    total = int(matrix.sum())
    agreed = int(np.trace(matrix))
    return Metrics(
        classes=classes,
        pixels=total,
        oa=agreed / total if total else None,
        miou=mean_of_known([c.iou for c in classes]),
        mf1=mean_of_known([c.f1 for c in classes]),
        kappa=_kappa(classes, agreed=agreed, total=total),
    )


def _class_metrics(matrix: np.ndarray, k: int, name: str) -> ClassMetrics:
    hit, reference, predicted = int(matrix[k, k]), int(matrix[k].sum()), int(matrix[:, k].sum())
    if not reference:
        return ClassMetrics(name, None, None, None, None, reference, predicted)
    return ClassMetrics(
        name=name,
        iou=hit / (reference + predicted - hit),
        f1=2 * hit / (reference + predicted),
        precision=hit / predicted if predicted else 0.0,
        recall=hit / reference,
        reference=reference,
        predicted=predicted,
    )


def mean_of_known(values: Iterable[float | None]) -> float | None:
    """Mean of the values that are not None; None without any."""
    there = [v for v in values if v is not None]
    return sum(there) / len(there) if there else None


def _kappa(classes: Sequence[ClassMetrics], *, agreed: int, total: int) -> float | None:
    # Python integers: the products pass 2^63 for splits of more than 3e9 pixels.
    chance = sum(c.reference * c.predicted for c in classes)
    if total * total == chance:
        return None
    return (agreed * total - chance) / (total * total - chance)
