"""Batches on their way out of reader processes: augmented, 8-bit rasters still as bytes.

The main process has to copy a batch anyway. So rasters of 8 bits leave as bytes with a table of what the network sees
of them (tone and normalisation), labels as bytes too, and the main process looks them up as it copies. The result is
that of ``TrainBatch`` to the last bit.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from dis2_jax.data.augment import crop_size
from dis2_jax.data.batch import Rows
from dis2_jax.data.network_input import look_up
from dis2_jax.data.samples import TrainBatch, empty_rows


@dataclasses.dataclass(frozen=True)
class PackedTrainBatch(TrainBatch):
    """Draws -> ``Rows`` with ``tables``, for ``copied``."""

    def empty(self, count: int) -> Rows:
        """Return rows for ``put``."""
        size = crop_size(self.data, self.card.tile)
        small = [m for m in self.card.modalities if self.source.dtypes[m.name] == np.uint8]
        rows = empty_rows(count, self.card, size=size, packed=[m.name for m in small])
        rows["tables"] = {m.name: np.zeros((count, 256, m.channels), np.float32) for m in small}
        return rows

    def copied(self, rows: Rows) -> Rows:
        """Look up what is left as bytes, and copy the rest."""
        image = dict[str, np.ndarray]()
        for name, x in rows["image"].items():
            if name not in rows["tables"]:
                image[name] = np.array(x)
                continue
            image[name] = np.empty(x.shape, np.float32)
            for tile, table, out in zip(x, rows["tables"][name], image[name], strict=True):
                look_up(tile, table, out)
        return Rows(
            image=image,
            label=rows["label"].astype(np.int32),
            available=np.array(rows["available"]),
            valid=np.array(rows["valid"]),
            index=np.array(rows["index"]),
            skipped=np.array(rows["skipped"]),
        )
