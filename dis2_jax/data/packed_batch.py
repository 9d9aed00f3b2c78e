"""Batches on their way out of reader processes: augmented, 8-bit rasters still as bytes.

Shared memory is new for each batch, and each of its pages costs more than the pixel work on it. So rasters of 8 bits
leave as bytes with a table of what the network sees of them (tone and normalisation), labels as bytes too; the main
process looks them up. The result is that of ``TrainBatch`` to the last bit.
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
    """Draws -> ``Rows`` with ``tables``, for ``unpacked``."""

    def empty(self, count: int) -> Rows:
        """Return rows for ``put``."""
        size = crop_size(self.data, self.card.tile)
        small = [m for m in self.card.modalities if self.source.dtypes[m.name] == np.uint8]
        rows = empty_rows(count, self.card, size=size, packed=[m.name for m in small])
        rows["tables"] = {m.name: np.zeros((count, 256, m.channels), np.float32) for m in small}
        return rows


def unpacked(rows: Rows) -> Rows:
    """Look up what ``PackedTrainBatch`` left as bytes; other batches stay as they are."""
    if "tables" not in rows:
        return rows
    image = dict(rows["image"])
    for name, tables in rows["tables"].items():
        image[name] = np.empty(rows["image"][name].shape, np.float32)
        for x, table, out in zip(rows["image"][name], tables, image[name], strict=True):
            look_up(x, table, out)
    done = rows.copy()
    del done["tables"]
    return done | {"image": image, "label": np.asarray(rows["label"]).astype(np.int32)}
