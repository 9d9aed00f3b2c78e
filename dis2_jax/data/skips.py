"""Tiles that cannot be read: an error at once, or with ``data.on_error = 'skip'`` a counted replacement.

What was skipped travels with its row as a short text, so that the main process counts just the batches that it
hands out, whichever process or thread read them.
"""

from __future__ import annotations

import contextlib
import logging

import numpy as np

from dis2_jax.config import DataConfig
from dis2_jax.data.batch import Batch, Rows
from dis2_jax.data.tileset import StoredTile, TileSet
from dis2_jax.schema import Dis2Error

SUBSTITUTES = 8
"""Other tiles tried in the place of one that cannot be read."""

_TEXT = np.dtype("S320")
_log = logging.getLogger(__name__)


def read_draw(
    source: TileSet, number: int, rng: np.random.Generator, data: DataConfig
) -> tuple[StoredTile, str]:
    """Read a training tile, or one in its place that ``rng`` draws; and what went wrong (empty: nothing).

    The substitute follows from the state of ``rng`` alone: the same on any host and worker.
    """
    try:
        return source.draw(number, rng), ""
    except Dis2Error as e:
        if data.on_error == "raise":
            raise
        fault = str(e)
    total = sum(d.count for d in source.draws)
    for _ in range(SUBSTITUTES):
        with contextlib.suppress(Dis2Error):
            return source.draw(int(rng.integers(total)), rng), fault
    raise Dis2Error(f"{fault}; {SUBSTITUTES} other tiles tried in its place cannot be read either")


def read_record(source: TileSet, record: int, data: DataConfig) -> tuple[StoredTile | None, str]:
    """Read a tile for evaluation, where nothing can stand in for it: None and what went wrong."""
    try:
        return source[record], ""
    except Dis2Error as e:
        if data.on_error == "raise":
            raise
        return None, str(e)


def no_faults(count: int) -> np.ndarray:
    """Return what ``Rows`` hold of ``count`` tiles that could all be read."""
    return np.zeros(count, _TEXT)


def put_fault(rows: Rows, i: int, fault: str) -> None:
    """Note what was wrong with the tile of row ``i``, in an array that can be sent between processes."""
    rows["skipped"][i] = fault.encode()[: _TEXT.itemsize]


class SkipCount:
    """Takes the texts out of batches, logs and counts them. ``limit``: ``data.max_skips``."""

    def __init__(self, limit: int) -> None:
        self.count = 0
        self._limit = limit

    def take(self, rows: Rows) -> Batch:
        """Return the batch without its texts. Raises ``Dis2Error`` above the limit, with the last fault."""
        for text in filter(None, rows["skipped"].ravel().tolist()):
            self.count += 1
            fault = text.decode(errors="replace")
            _log.warning("skipped (%d of at most %d): %s", self.count, self._limit, fault)
            if self.count > self._limit:
                raise Dis2Error(
                    f"{self.count} tiles could not be read, more than data.max_skips = {self._limit}; the last: {fault}"
                )
        return without_texts(rows)


def without_texts(rows: Rows) -> Batch:
    """Return the batch alone."""
    batch = Batch(
        image=rows["image"],
        label=rows["label"],
        available=rows["available"],
        valid=rows["valid"],
        index=rows["index"],
    )
    if "drawn" in rows:
        batch["drawn"] = rows["drawn"]
    return batch
