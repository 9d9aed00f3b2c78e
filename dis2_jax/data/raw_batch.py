"""With ``data.augment = 'device'``: whole tiles as they are stored, and what was drawn for them.

The numbers are drawn here, as for the host's augmentation, so that both have the same distribution and the same
samples on any number of hosts and after any stop; ``training/augment.py`` carries them out inside the step.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from dis2_jax.data.augment import crop_size
from dis2_jax.data.batch import Drawn, Rows
from dis2_jax.data.resample import Positions
from dis2_jax.data.samples import TrainBatch, draw_augmentation
from dis2_jax.data.skips import no_faults
from dis2_jax.data.tileset import StoredTile
from dis2_jax.data.tone import Tone
from dis2_jax.schema import IGNORE

UNTOUCHED = (1.0, 0.0, -np.inf, np.inf)
"""Gain, offset, low and high of a tone that changes nothing."""


@dataclasses.dataclass(frozen=True)
class RawTrainBatch(TrainBatch):
    """Draws -> a batch as ``Batch`` describes it for ``data.augment = 'device'``."""

    def empty(self, count: int) -> Rows:
        """Return rows for ``put``."""
        tile, dtypes = self.card.tile, self.source.dtypes
        return Rows(
            image={
                m.name: np.empty((count, *tile, m.channels), dtypes[m.name]) for m in self.card.modalities
            },
            label=np.empty((count, *tile), np.uint8),
            available=np.zeros((count, len(self.card.modalities)), bool),
            valid=np.zeros(count, bool),
            index=np.full(count, -1, np.int32),
            drawn=self._empty_drawn(count),
            skipped=no_faults(count),
        )

    def put(self, rows: Rows, i: int, tile: StoredTile, rng: np.random.Generator) -> None:
        """Make row ``i`` of new rows a sample of ``tile``. Filler of absent modalities is not copied."""
        drawn = draw_augmentation(tile, self.card, self.data, rng)
        rows["label"][i] = tile["label"] if tile["available"].any() else IGNORE
        for m, there in zip(self.card.modalities, tile["available"], strict=True):
            rows["image"][m.name][i] = tile["image"][m.name] if there else 0
        rows["available"][i] = tile["available"]
        rows["valid"][i] = True
        rows["index"][i] = tile["index"]
        _note(rows["drawn"], i, drawn.geometry.positions, drawn.tones)

    def _empty_drawn(self, count: int) -> Drawn:
        height, width = crop_size(self.data, self.card.tile)
        toned = [m for m in self.card.modalities if self.data.photometric and m.kind == "optical"]
        return Drawn(
            row=np.empty((count, height), np.float32),
            row_along=np.empty((count, width), np.float32),
            col=np.empty((count, height), np.float32),
            col_along=np.empty((count, width), np.float32),
            tones={m.name: np.empty((count, 4, m.channels), np.float32) for m in toned},
        )


def _note(drawn: Drawn, i: int, positions: Positions, tones: Mapping[str, Tone]) -> None:
    drawn["row"][i], drawn["row_along"][i] = positions.row, positions.row_along
    drawn["col"][i], drawn["col_along"][i] = positions.col, positions.col_along
    for name, rows in drawn["tones"].items():
        tone = tones.get(name)
        values = UNTOUCHED if tone is None else (tone.gain, tone.offset, tone.low, tone.high)
        for k, value in enumerate(values):
            rows[i, k] = value
