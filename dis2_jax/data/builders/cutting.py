"""Where tiles lie: cutting rectangles into tiles, and scenes into the rectangles of each split."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence


@dataclasses.dataclass(frozen=True)
class Rect:
    """Pixels ``row .. row + height``, ``col .. col + width`` of a scene."""

    row: int
    col: int
    height: int
    width: int

    @property
    def window(self) -> tuple[int, int, int, int]:
        """Row, column, height, width."""
        return self.row, self.col, self.height, self.width


def cut_tiles(rect: Rect, tile: tuple[int, int], *, overlap: int = 0, inward: bool = False) -> Iterator[Rect]:
    """Yield the tiles that cover ``rect``, row by row, each clipped to it (a clipped one is padded later).

    Neighbours share ``overlap`` pixels. Every pixel lies in a tile; without overlap in exactly one. No tile
    lies wholly inside its neighbours. ``inward`` moves the last tiles back until they lie inside ``rect``,
    where it is large enough: they then share more pixels.
    """
    for row in _starts(rect.height, tile[0], overlap, inward=inward):
        for col in _starts(rect.width, tile[1], overlap, inward=inward):
            yield Rect(
                rect.row + row,
                rect.col + col,
                min(tile[0], rect.height - row),
                min(tile[1], rect.width - col),
            )


def count_tiles(rect: Rect, tile: tuple[int, int], *, overlap: int = 0) -> int:
    """Return how many tiles ``cut_tiles`` yields."""
    return len(_starts(rect.height, tile[0], overlap)) * len(_starts(rect.width, tile[1], overlap))


def cut_bands(rect: Rect, tile: tuple[int, int], *, overlap: int = 0, tiles: int = 256) -> Iterator[Rect]:
    """Yield parts of ``rect`` that ``cut_tiles`` cuts into the same tiles in the same order, about ``tiles`` each.

    With ``overlap`` neighbouring bands overlap too.
    """
    rows = _starts(rect.height, tile[0], overlap)
    per_band = max(1, tiles // len(_starts(rect.width, tile[1], overlap)))
    for first in range(0, len(rows), per_band):
        band = rows[first : first + per_band]
        height = min(band[-1] + tile[0], rect.height) - band[0]
        yield Rect(rect.row + band[0], rect.col, height, rect.width)


def split_scene(
    size: tuple[int, int], boxes: Mapping[str, Sequence[tuple[float, float, float, float]]]
) -> dict[str, list[Rect]]:
    """Turn disjoint boxes (fractions top, left, bottom, right) into rectangles; ``train``: the rest."""
    rects = {split: [r for b in own if (r := _scaled(b, size))] for split, own in boxes.items()}
    if "train" not in rects:
        rects["train"] = _rest(size, [r for own in rects.values() for r in own])
    return rects


def _starts(length: int, tile: int, overlap: int, *, inward: bool = False) -> list[int]:
    starts = range(0, max(length - overlap, 1), tile - overlap)
    return [min(s, max(length - tile, 0)) for s in starts] if inward else list(starts)


def _scaled(box: tuple[float, float, float, float], size: tuple[int, int]) -> Rect | None:
    top, bottom = round(box[0] * size[0]), round(box[2] * size[0])
    left, right = round(box[1] * size[1]), round(box[3] * size[1])
    return Rect(top, left, bottom - top, right - left) if bottom > top and right > left else None


def _rest(size: tuple[int, int], taken: Sequence[Rect]) -> list[Rect]:
    """Cover what ``taken`` leaves of the scene with disjoint rectangles, one per run of equal columns."""
    rows = sorted({0, size[0]} | {r.row for r in taken} | {r.row + r.height for r in taken})
    spans = [(top, bottom, _free_spans(top, size[1], taken)) for top, bottom in itertools.pairwise(rows)]
    rects: list[Rect] = []
    open_at: dict[tuple[int, int], int] = {}
    for top, bottom, free in spans:
        for gone in [s for s in open_at if s not in free]:
            start = open_at.pop(gone)
            rects.append(Rect(start, gone[0], top - start, gone[1] - gone[0]))
        for span in free:
            open_at.setdefault(span, top)
        if bottom == size[0]:
            rects += [Rect(start, a, bottom - start, b - a) for (a, b), start in open_at.items()]
    return sorted(rects, key=lambda r: (r.row, r.col))


def _free_spans(row: int, width: int, taken: Sequence[Rect]) -> list[tuple[int, int]]:
    """Column spans that no rectangle of ``taken`` covers in this row."""
    spans, at = [], 0
    for r in sorted((r for r in taken if r.row <= row < r.row + r.height), key=lambda r: r.col):
        if r.col > at:
            spans.append((at, r.col))
        at = max(at, r.col + r.width)
    return [*spans, (at, width)] if at < width else spans
