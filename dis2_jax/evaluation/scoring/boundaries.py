"""Class boundaries of label maps: eroding them away, and counting how well two maps' boundaries meet.

Distances are Euclidean between pixel centres and exact: a bit plane per class is spread over a disk, all classes
at once, which equals a distance transform per class and takes a fraction of its time.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator

import numpy as np

from dis2_jax.schema import IGNORE

_WORDS = ((8, np.uint8), (16, np.uint16), (32, np.uint32), (64, np.uint64))


def near_other_class(label: np.ndarray, *, radius: int, num_classes: int) -> np.ndarray:
    """Bool ``[H, W]``: pixels with another class within ``radius`` px (inclusive).

    These are what eroding every class by a disk removes, as in the ISPRS benchmark. Ignored pixels are no class
    and the edge of the map is no boundary: neither erodes.

    Args:
        label: uint8 ``[H, W]``, 0..K-1 or ``IGNORE``.
        radius: of the disk, in pixels; 0 removes nothing.
        num_classes: K.
    """
    near = np.zeros(label.shape, bool)
    for table in _class_bits(num_classes):
        own = table[label]
        near |= (_spread(own, radius) & ~own) != 0
    return near & (label != IGNORE)


def boundary_pixels(label: np.ndarray) -> np.ndarray:
    """Bool ``[H, W]``: pixels with an edge neighbour of another class. Ignored pixels have and make none."""
    found = np.zeros(label.shape, bool)
    for a, b in (
        ((slice(1, None),), (slice(-1),)),
        ((slice(None), slice(1, None)), (slice(None), slice(-1))),
    ):
        differ = (label[a] != label[b]) & (label[a] != IGNORE) & (label[b] != IGNORE)
        found[a] |= differ
        found[b] |= differ
    return found


@dataclasses.dataclass(frozen=True, eq=False)
class BoundaryMap:
    """The boundaries of a map and, per word of classes, what lies within ``tolerance`` px of them."""

    label: np.ndarray
    edges: np.ndarray
    near: tuple[np.ndarray, ...]

    @classmethod
    def of(cls, label: np.ndarray, *, tolerance: int, num_classes: int) -> BoundaryMap:
        """Find them. ``label`` is uint8 ``[H, W]``, 0..K-1 or ``IGNORE``."""
        edges = boundary_pixels(label)
        bits = (np.where(edges, table[label], 0).astype(table.dtype) for table in _class_bits(num_classes))
        return cls(label, edges, tuple(_spread(b, tolerance) for b in bits))

    def matched(self, other: BoundaryMap, *, counted: np.ndarray, num_classes: int) -> np.ndarray:
        """Count per class this map's ``counted`` boundary pixels, and those that ``other``'s class comes near.

        int64 ``[K, 2]``. A pixel is near when the other map has a boundary pixel of the same class within the
        tolerance.
        """
        at = self.edges & counted
        classes = self.label[at]
        near = np.zeros(classes.shape, bool)
        for table, spread in zip(_class_bits(num_classes), other.near, strict=True):
            near |= (table[classes] & spread[at]) != 0
        return np.stack(
            [np.bincount(c, minlength=num_classes) for c in (classes, classes[near])], axis=-1
        ).astype(np.int64)


def _class_bits(num_classes: int) -> Iterator[np.ndarray]:
    """Yield lookup tables label -> one bit per class, 64 classes (one word) at a time; others are 0."""
    for start in range(0, num_classes, 64):
        count = min(64, num_classes - start)
        dtype = next(d for bits, d in _WORDS if bits >= count)
        table = np.zeros(IGNORE + 1, dtype)
        table[start : start + count] = np.left_shift(dtype(1), np.arange(count, dtype=dtype))
        yield table


def _spread(bits: np.ndarray, radius: int) -> np.ndarray:
    """OR of all values of ``bits`` ``[H, W]`` within ``radius``: a disk, as rows of growing half-width."""
    height = bits.shape[0]
    out = np.zeros_like(bits)
    row, half = bits.copy(), 0
    for dy in range(radius, -1, -1):
        while half < math.isqrt(radius * radius - dy * dy):
            half += 1
            row[:, half:] |= bits[:, :-half]
            row[:, :-half] |= bits[:, half:]
        if dy < height:
            out[dy:] |= row[: height - dy]
            out[: height - dy] |= row[dy:]
    return out
