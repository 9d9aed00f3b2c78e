"""Where the windows of a scene lie, and how much each counts at a pixel. Numpy only."""

from __future__ import annotations

import dataclasses

import numpy as np

from dis2_jax.schema import Dis2Error


@dataclasses.dataclass(frozen=True)
class Axis:
    """Windows along the rows or the columns of a scene: all of one length, the first at 0, the last at the end.

    Neighbours share at least ``overlap`` pixels. A scene shorter than a window has one, which reaches past
    its end.
    """

    size: int
    window: int
    overlap: int

    @property
    def starts(self) -> tuple[int, ...]:
        """First pixel of each window, evenly spread."""
        room = self.size - self.window
        if room <= 0:
            return (0,)
        steps = -(-room // (self.window - self.overlap))
        return tuple(i * room // steps for i in range(steps + 1))

    @property
    def strips(self) -> tuple[tuple[int, int], ...]:
        """Pixels [first, end) that no later window touches, per window: together they are the whole axis."""
        starts = self.starts
        return tuple(zip(starts, (*starts[1:], self.size), strict=True))

    def first_touching(self, strip: int) -> int:
        """Position of the first window that reaches into a strip."""
        starts = self.starts
        return next(i for i in range(strip + 1) if starts[i] + self.window > starts[strip])

    def weights(self) -> np.ndarray:
        """Weight of each pixel of a window, float32 ``[window]``, symmetric and above 0.

        A squared sine rises over the overlap, so that neighbours that share exactly ``overlap`` pixels add up
        to 1; the middle counts 1.
        """
        ramp = min(self.overlap, self.window // 2)
        w = np.ones(self.window)
        if ramp:
            rise = np.sin((np.arange(ramp) + 0.5) * np.pi / (2 * ramp)) ** 2
            w[:ramp], w[-ramp:] = rise, rise[::-1]
        return w.astype(np.float32)


@dataclasses.dataclass(frozen=True)
class Panel:
    """Columns [left, right) of a scene that are done at a time, and the first columns of windows they need."""

    left: int
    right: int
    starts: tuple[int, ...]

    def read(self, axis: Axis) -> tuple[int, int]:
        """Columns [first, end) that the panel's windows look at, within the scene."""
        return self.starts[0], min(self.starts[-1] + axis.window, axis.size)


@dataclasses.dataclass(frozen=True)
class SceneGrid:
    """The windows of a whole scene, in panels of columns that bound memory whatever the scene's size.

    ``max_columns``: how wide a panel may be with the surroundings that its windows look at. Windows that reach
    into two panels are predicted for both: the map does not depend on the panels.
    """

    rows: Axis
    columns: Axis
    max_columns: int

    @classmethod
    def of(
        cls, size: tuple[int, int], *, window: tuple[int, int], overlap: int, max_columns: int
    ) -> SceneGrid:
        """Lay windows over a scene. Raises ``Dis2Error`` for an overlap that does not leave a step."""
        if not 0 <= overlap < min(window):
            raise Dis2Error(
                f"overlap of {overlap} pixels with windows of {window[0]} x {window[1]}: it must be at least 0"
                " and below the window's sides"
            )
        rows, columns = (Axis(n, w, overlap) for n, w in zip(size, window, strict=True))
        return cls(rows, columns, max(max_columns, 2 * window[1]))

    @property
    def panels(self) -> tuple[Panel, ...]:
        """From left to right; each starts where a window starts."""
        starts, axis = self.columns.starts, self.columns
        panels: list[Panel] = []
        first = 0
        while first < len(starts):
            before = axis.first_touching(first)
            last = first
            while (
                last + 1 < len(starts) and starts[last + 1] + axis.window - starts[before] <= self.max_columns
            ):
                last += 1
            right = axis.size if last + 1 == len(starts) else starts[last + 1]
            panels.append(Panel(starts[first], right, starts[before : last + 1]))
            first = last + 1
        return tuple(panels)

    @property
    def count(self) -> int:
        """Windows to predict, over all panels."""
        return len(self.rows.starts) * sum(len(p.starts) for p in self.panels)
