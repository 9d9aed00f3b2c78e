"""Streaming statistics of a dataset: mean and standard deviation per channel, pixels per class."""

from __future__ import annotations

import dataclasses
from typing import Any

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
        if len(pixels) == 0:
            return
        x = pixels.astype(np.float64)
        mean = x.mean(0)
        self._merge(len(x), mean, np.square(x - mean).sum(0))

    def merge(self, other: ChannelMoments) -> None:
        """Add all that ``other`` has seen."""
        if other.count:
            self._merge(other.count, other.mean, other.m2)

    def _merge(self, n: int, mean: np.ndarray, m2: np.ndarray) -> None:
        delta = mean - self.mean
        total = self.count + n
        self.m2 += m2 + np.square(delta) * (self.count * n / total)
        self.mean += delta * (n / total)
        self.count = total

    def to_list(self) -> list[Any]:
        """Return count, means and squared deviations as JSON holds them; ``of_list`` is the exact inverse."""
        return [self.count, self.mean.tolist(), self.m2.tolist()]

    @classmethod
    def of_list(cls, values: list[Any]) -> ChannelMoments:
        """Read what ``to_list`` wrote."""
        count, mean, m2 = values
        moments = cls(len(mean), count)
        moments.mean, moments.m2 = np.array(mean), np.array(m2)
        return moments

    @property
    def std(self) -> np.ndarray:
        """Population standard deviation per channel, ``[C]``; zeros before any pixel."""
        return np.sqrt(self.m2 / max(self.count, 1))


def class_counts(label: np.ndarray, classes: int) -> np.ndarray:
    """Return int64 ``[K + 1]``: pixels of each class, then ignored ones. ``label``: 0..K-1 or ``IGNORE``."""
    counts = np.bincount(label.ravel(), minlength=IGNORE + 1)
    return np.append(counts[:classes], counts[IGNORE]).astype(np.int64)
