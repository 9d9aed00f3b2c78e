"""Streaming statistics of a dataset: mean and standard deviation per channel, pixels per class."""

from __future__ import annotations

import dataclasses

import numpy as np

from dis2_jax.schema import IGNORE


@dataclasses.dataclass
class ChannelMoments:
    """Count, mean and squared deviations per channel, merged tile by tile (Chan's formula, float64).

    Merging deviations, not raw squares, keeps the digits of data far from zero (elevations, Kelvin, int16 x
    10 000).
    """

    channels: int
    count: int = 0

    def __post_init__(self) -> None:
        self.mean = np.zeros(self.channels)
        self.m2 = np.zeros(self.channels)

    def add(self, pixels: np.ndarray) -> None:
        """Add ``[N, C]`` pixels of any dtype."""
        n = len(pixels)
        if n == 0:
            return
        x = pixels.astype(np.float64)
        mean = x.mean(0)
        m2 = np.square(x - mean).sum(0)
        delta = mean - self.mean
        total = self.count + n
        self.m2 += m2 + np.square(delta) * (self.count * n / total)
        self.mean += delta * (n / total)
        self.count = total

    @property
    def std(self) -> np.ndarray:
        """Population standard deviation per channel, ``[C]``; zeros before any pixel."""
        return np.sqrt(self.m2 / max(self.count, 1))


def class_counts(label: np.ndarray, classes: int) -> np.ndarray:
    """Return int64 ``[K + 1]``: pixels of each class, then ignored ones. ``label``: 0..K-1 or ``IGNORE``."""
    counts = np.bincount(label.ravel(), minlength=IGNORE + 1)
    return np.append(counts[:classes], counts[IGNORE]).astype(np.int64)
