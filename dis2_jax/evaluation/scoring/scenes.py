"""Stitch, then score: one scenario's tiles become whole scenes, in which every pixel counts once. No JAX.

Where tiles overlap their class probabilities are averaged. Tiles come scene by scene, in each by ascending row
(``reading_order``), so that only one scene is in memory and probabilities only for the rows that a coming tile
may still reach.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from dis2_jax.data.places import Place
from dis2_jax.evaluation.scoring.measures import Eroded, Scenes, SceneScore, read_confusion
from dis2_jax.evaluation.scoring.ruler import CONFIDENCE_ONE, MapScore, Reference, Ruler, calibration_of
from dis2_jax.schema import IGNORE, Dis2Error


@dataclasses.dataclass(frozen=True, eq=False)
class TileMaps:
    """What one scenario makes of one tile: class map uint8 and its confidence uint16 (1/65535), ``[H, W]``.

    ``probabilities`` float32 ``[H, W, K]`` where tiles overlap, else None.
    """

    predicted: np.ndarray
    confidence: np.ndarray
    probabilities: np.ndarray | None = None


class SceneScorer:
    """Scores scenes of a split, scenario by scenario, while their tiles stream by."""

    def __init__(self, scenarios: Sequence[str], places: Sequence[Place], ruler: Ruler) -> None:
        self._places = places
        self._ruler = ruler
        self._bounds = _scene_bounds(places)
        self._open: str | None = None
        self._canvases: dict[str, SceneCanvas] = {}
        self._found: dict[str, list[tuple[str, int, MapScore]]] = {name: [] for name in scenarios}

    def add(self, record: int, label: np.ndarray, maps: Mapping[str, TileMaps]) -> None:
        """Take a tile's reference ``[H, W]`` and the maps of the scenarios that can use it."""
        place = self._places[record]
        if place.scene != self._open:
            self._close()
            self._open = place.scene
        for name, tile in maps.items():
            if name not in self._canvases:
                bounds, k = self._bounds[place.scene], self._ruler.num_classes
                self._canvases[name] = SceneCanvas(bounds, tile_rows=len(label), num_classes=k)
            self._canvases[name].add(place, label, tile, record=record)

    def results(self, classes: tuple[str, ...]) -> dict[str, Scenes]:
        """Score the last scene and freeze: scenario -> scenes. Scenarios without a tile have none."""
        self._close()
        return {name: self._freeze(found, classes) for name, found in self._found.items() if found}

    def _close(self) -> None:
        """Score the open scene. Scenarios that saw the same tiles share the reference."""
        references: dict[tuple[int, ...], Reference] = {}
        for name in list(self._canvases):
            canvas = self._canvases.pop(name)
            predicted, confidence = canvas.finish()
            key = tuple(canvas.records)
            if key not in references:
                references = {key: Reference.of(canvas.label, self._ruler)}
            score = references[key].score(predicted, confidence)
            self._found[name].append((str(self._open), len(key), score))

    def _freeze(self, found: Sequence[tuple[str, int, MapScore]], classes: tuple[str, ...]) -> Scenes:
        total = sum((score for _, _, score in found), start=MapScore.zero(self._ruler))
        return Scenes(
            confusion=read_confusion(total.confusion),
            eroded=Eroded(self._ruler.erode, read_confusion(total.eroded), classes),
            boundary=total.boundaries(self._ruler),
            calibration=calibration_of(total.reliability),
            each=tuple(
                SceneScore(name, tiles, read_confusion(score.confusion), classes)
                for name, tiles, score in sorted(found, key=lambda f: f[0])
            ),
            classes=classes,
        )


class SceneCanvas:
    """One scene of one scenario under construction, in the scene's bounding box of tiles."""

    def __init__(self, bounds: Place, *, tile_rows: int, num_classes: int) -> None:
        shape = (bounds.height, bounds.width)
        self.records: list[int] = []
        self.label = np.full(shape, IGNORE, np.uint8)
        self._bounds = bounds
        self._predicted = np.zeros(shape, np.uint8)
        self._confidence = np.zeros(shape, np.uint16)
        self._tile_rows = tile_rows
        self._num_classes = num_classes
        self._top = 0
        """First row of the sums below."""
        self._sums: np.ndarray | None = None
        self._cover: np.ndarray | None = None

    def add(self, place: Place, label: np.ndarray, tile: TileMaps, *, record: int) -> None:
        """Put a tile in its place; padding is cut off.

        Raises ``Dis2Error`` when two tiles have different classes in one pixel.
        """
        self.records.append(record)
        top, left = place.row - self._bounds.row, place.col - self._bounds.col
        at = (slice(top, top + place.height), slice(left, left + place.width))
        inner = (slice(place.height), slice(place.width))
        known, new = self.label[at], label[inner].astype(np.uint8)
        if ((known != IGNORE) & (new != IGNORE) & (known != new)).any():
            raise Dis2Error(
                f"scene {place.scene!r}: tiles that overlap at row {place.row}, column {place.col} have different"
                " labels there: prepare the dataset again"
            )
        self.label[at] = np.minimum(known, new)
        if tile.probabilities is None:
            self._predicted[at] = tile.predicted[inner]
            self._confidence[at] = tile.confidence[inner]
        else:
            self._average(at, tile.probabilities[inner])

    def finish(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the class map (uint8) and its confidence (uint16) of the whole scene, ``[H, W]``."""
        self._settle(self._top + self._tile_rows)
        self._sums = self._cover = None
        return self._predicted, self._confidence

    def _average(self, at: tuple[slice, slice], probabilities: np.ndarray) -> None:
        if self._sums is None or self._cover is None:
            rows, width = self._tile_rows, self._bounds.width
            self._sums = np.zeros((rows, width, self._num_classes), np.float32)
            self._cover = np.zeros((rows, width), np.uint16)
            self._top = at[0].start
        self._settle(at[0].start)
        band = slice(at[0].start - self._top, at[0].stop - self._top)
        self._sums[band, at[1]] += probabilities
        self._cover[band, at[1]] += 1

    def _settle(self, row: int) -> None:
        """Rows above ``row`` are complete: turn their sums into classes and make room below."""
        done = min(row - self._top, self._tile_rows)
        if self._sums is None or self._cover is None or done <= 0:
            return
        covered = self._cover[:done] > 0
        mean = self._sums[:done][covered] / self._cover[:done][covered].astype(np.float32)[:, None]
        rows = slice(self._top, min(self._top + done, self._bounds.height))
        # Rows behind the lower edge of the scene are never covered.
        inside = covered[: rows.stop - rows.start]
        self._predicted[rows][inside] = mean.argmax(-1)
        self._confidence[rows][inside] = np.rint(mean.max(-1) * np.float32(CONFIDENCE_ONE))
        self._sums = np.concatenate([self._sums[done:], np.zeros_like(self._sums[:done])])
        self._cover = np.concatenate([self._cover[done:], np.zeros_like(self._cover[:done])])
        self._top = row


def _scene_bounds(places: Sequence[Place]) -> dict[str, Place]:
    """Bounding box of each scene's tiles, as a place."""
    ends: dict[str, tuple[int, int, int, int]] = {}
    for p in places:
        a = ends.get(p.scene, (p.row, p.col, p.row, p.col))
        ends[p.scene] = (
            min(a[0], p.row),
            min(a[1], p.col),
            max(a[2], p.row + p.height),
            max(a[3], p.col + p.width),
        )
    return {
        s: Place(s, top, left, bottom - top, right - left) for s, (top, left, bottom, right) in ends.items()
    }
