"""What a degradation must know of the sensor whose raster it spoils. Numpy only, like everything it serves."""

from __future__ import annotations

import dataclasses
from typing import Protocol

import numpy as np

from dis2_jax.data.normalize import Normalization, statistics
from dis2_jax.schema import Modality


@dataclasses.dataclass(frozen=True, eq=False)
class Sensor:
    """A modality as stored. All arrays are float32 ``[C]`` in physical units.

    ``absent`` is what the pipeline puts where the modality is missing in the whole tile, before normalisation:
    the card's mean under ``normalize='card'``, 0 under ``'none'``. ``limits`` are the range of a whole-number
    dtype; None for floats.
    """

    modality: Modality
    mean: np.ndarray
    std: np.ndarray
    absent: np.ndarray
    limits: tuple[int, int] | None

    @classmethod
    def of(cls, modality: Modality, dtype: np.dtype, normalization: Normalization) -> Sensor:
        """Describe a modality of a card stored as ``dtype``. ``Dis2Error`` if the card has no statistics."""
        mean, std = statistics(modality)
        whole = np.issubdtype(dtype, np.integer)
        return cls(
            modality=modality,
            mean=mean,
            std=std,
            absent=mean if normalization == "card" else np.zeros_like(mean),
            limits=(int(np.iinfo(dtype).min), int(np.iinfo(dtype).max)) if whole else None,
        )

    def measured(self, x: np.ndarray) -> np.ndarray:
        """Return values as this sensor could store them: float32, in a whole-number dtype rounded and cut."""
        if self.limits is None:
            return x.astype(np.float32)
        return np.clip(np.rint(x), *self.limits).astype(np.float32)


class Degradation(Protocol):
    """A pure function of its arguments; all of its randomness comes from ``rng``."""

    def __call__(
        self, x: np.ndarray, sensor: Sensor, *, severity: float, rng: np.random.Generator
    ) -> np.ndarray:
        """Spoil a raster ``x`` float32 ``[H, W, C]`` in physical units; return a new one, same shape and dtype.

        Severity 0 returns the values of ``x``, bit for bit.
        """
