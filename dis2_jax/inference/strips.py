"""The strips of a scene, one after the other: read a row of windows, predict, add up, close what is final.

A strip is what no later row of windows touches. It depends on nothing but the windows that reach into it, so an
interrupted run goes on from the strips it has and ends with the same bytes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

import jax
import numpy as np

from dis2_jax.inference.blend import PanelSums, Strip
from dis2_jax.inference.engine import Engine
from dis2_jax.inference.grid import Panel, SceneGrid
from dis2_jax.inference.inputs import Pixels, Scene
from dis2_jax.inference.windows import cut, fitting, missing_shares, network_input
from dis2_jax.schema import Scenario

if TYPE_CHECKING:
    from dis2_jax.inference.model import Model

OnWindows = Callable[[int, int], None]
"""Called with (windows done, windows in all)."""


class Progress:
    """Counts windows for whoever watches."""

    def __init__(self, total: int, on_windows: OnWindows | None) -> None:
        self._done, self._total, self._tell = 0, total, on_windows

    def add(self, windows: int) -> None:
        """That many more are done, or need not be."""
        self._done += windows
        if self._tell is not None:
            self._tell(self._done, self._total)


@dataclasses.dataclass(frozen=True)
class StripPredictor:
    """One scene on its way through a model. ``max_missing``: see ``windows.fitting``."""

    model: Model
    scene: Scene
    grid: SceneGrid
    engine: Engine
    max_missing: float

    def strips(self, panel: Panel, first: int, end: int, progress: Progress) -> Iterator[tuple[int, Strip]]:
        """Predict strips [first, end) of a panel; rows of windows before them that reach into them, again."""
        rows, columns = self.grid.rows, self.grid.columns
        left, right = panel.read(columns)
        classes, scenarios = len(self.model.classes), len(self.model.scenarios)
        sums = PanelSums(rows, columns, width=right - left, classes=classes, scenarios=scenarios)
        inside = slice(panel.left - left, panel.right - left)
        starts = [start - left for start in panel.starts]
        for s in range(rows.first_touching(first), end):
            top, bottom = rows.strips[s]
            pixels = self.scene.read((top, min(top + rows.window, rows.size)), (left, right))
            sums.see(np.logical_or.reduce([p.valid for p in pixels.values()]))
            self._add_row(sums, pixels, starts, progress if s >= first else None)
            strip = sums.finish(bottom - top, columns=inside)
            if s >= first:
                yield s, strip

    def _add_row(
        self, sums: PanelSums, pixels: Mapping[str, Pixels], starts: list[int], progress: Progress | None
    ) -> None:
        """Predict one row of windows and add it up: branch by branch, from left to right."""
        by_branch = self._branches(pixels, starts)
        if progress:
            progress.add(len(starts) - sum(len(own) for own in by_branch.values()))
        waiting: list[tuple[jax.Array, int, list[int]]] = []
        for position, scenario in enumerate(self.model.scenarios):
            own = by_branch.get(scenario, [])
            for i in range(0, len(own), self.engine.batch):
                batch = own[i : i + self.engine.batch]
                images = [self._images(scenario, pixels, start) for start in batch]
                waiting.append((self.engine.start(scenario, images), position, batch))
                if len(waiting) > 1:  # the device has work while the host adds up the batch before
                    self._collect(sums, *waiting.pop(0), progress)
        for batch_of in waiting:
            self._collect(sums, *batch_of, progress)

    def _branches(self, pixels: Mapping[str, Pixels], starts: list[int]) -> dict[Scenario, list[int]]:
        """First columns of the windows that each branch answers."""
        found: dict[Scenario, list[int]] = {}
        for start in starts:
            missing = missing_shares(cut(pixels, start, self.engine.window[1]))
            scenario = fitting(missing, self.model.scenarios, max_missing=self.max_missing)
            if scenario is not None:
                found.setdefault(scenario, []).append(start)
        return found

    def _images(self, scenario: Scenario, pixels: Mapping[str, Pixels], start: int) -> dict[str, np.ndarray]:
        window = self.engine.window
        part = cut({m: pixels[m] for m in scenario.available}, start, window[1])
        card, mode = self.model.card, self.model.normalization
        return {m: network_input(p, card.modality(m), mode, window=window) for m, p in part.items()}

    def _collect(
        self, sums: PanelSums, started: jax.Array, position: int, starts: list[int], progress: Progress | None
    ) -> None:
        for start, p in zip(starts, self.engine.finish(started, len(starts)), strict=True):
            sums.add(p, left=start, scenario=position)
        if progress:
            progress.add(len(starts))
