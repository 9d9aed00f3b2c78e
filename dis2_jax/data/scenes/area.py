"""Where a scene holds data, coarsely, and training windows drawn evenly over that."""

from __future__ import annotations

import bisect
import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np

from dis2_jax.data.builders.cutting import Rect
from dis2_jax.schema import Dis2Error

POINTS = 32
"""Points looked at along each side of a rectangle."""


@dataclasses.dataclass(frozen=True)
class ValidArea:
    """``rows`` x ``cols`` equal cells over a rectangle, and which of them hold data.

    ``bits``: one per cell, row by row, packed and written in hexadecimal; empty: all of them do.
    """

    rows: int
    cols: int
    bits: str = ""

    @classmethod
    def of(cls, cells: np.ndarray) -> ValidArea:
        """Pack a bool array ``[rows, cols]``."""
        bits = "" if cells.all() else np.packbits(cells.ravel()).tobytes().hex()
        rows, cols = cells.shape
        return cls(rows, cols, bits)

    @property
    def count(self) -> int:
        """Number of cells that hold data."""
        return int(self.bits, 16).bit_count() if self.bits else self.rows * self.cols

    @property
    def share(self) -> float:
        """Share of the rectangle."""
        return self.count / (self.rows * self.cols)

    def nth(self, n: int) -> tuple[int, int]:
        """Row and column of the ``n``-th cell that holds data."""
        if (
            self.bits
        ):  # unpacked anew each time: there may be a hundred thousand scenes in every reader process
            packed = np.frombuffer(bytes.fromhex(self.bits), np.uint8)
            n = int(np.flatnonzero(np.unpackbits(packed))[n])
        return divmod(n, self.cols)


def grid_size(rect: Rect) -> tuple[int, int]:
    """Rows and columns of the cells for a rectangle."""
    return min(POINTS, rect.height), min(POINTS, rect.width)


class WindowSampler:
    """Training windows of ``tile`` = (height, width) pixels, as likely everywhere where there is data.

    The valid area of all rectangles is cut into ``count`` equal strata, about one per tile; draw ``n`` has its
    middle somewhere in stratum ``n``. An epoch, which takes every draw once, so looks at every part of the data
    equally often, at other offsets each time. Windows stay inside their rectangle: near its edge they move in.
    """

    def __init__(self, areas: Sequence[tuple[Rect, ValidArea]], tile: tuple[int, int]) -> None:
        self._areas = tuple(areas)
        self._tile = tile
        pixels = [rect.height * rect.width * area.share for rect, area in areas]
        self._ends = list(itertools.accumulate(pixels))
        self.count = max(1, round(self._ends[-1] / (tile[0] * tile[1])))

    def draw(self, number: int, rng: np.random.Generator) -> tuple[int, Rect]:
        """Return the rectangle's number and the window of draw ``number``."""
        return self.at((number + rng.random()) / self.count, rng)

    def at(self, share: float, rng: np.random.Generator) -> tuple[int, Rect]:
        """Return the window whose middle lies that far (0 .. 1) along the valid area."""
        if not self._ends[-1]:
            raise Dis2Error("no scene of this split holds data where it is labelled")
        at = share * self._ends[-1]
        k = min(bisect.bisect_right(self._ends, at), len(self._ends) - 1)
        rect, area = self._areas[k]
        start = self._ends[k - 1] if k else 0.0
        among = (at - start) / (self._ends[k] - start) * area.count
        row, col = area.nth(min(int(among), area.count - 1))
        dy, dx = rng.random(2)
        top = self._corner(rect.row, rect.height, (row + dy) / area.rows, self._tile[0])
        left = self._corner(rect.col, rect.width, (col + dx) / area.cols, self._tile[1])
        return k, Rect(top, left, min(self._tile[0], rect.height), min(self._tile[1], rect.width))

    @staticmethod
    def _corner(start: int, length: int, share: float, tile: int) -> int:
        """First pixel of a window of ``tile`` pixels with its middle at ``share`` of a side."""
        return start + int(np.clip(round(share * length - tile / 2), 0, max(length - tile, 0)))
