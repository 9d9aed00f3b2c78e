"""Add up the overlapping windows of a panel, and hand out the rows that are final."""

from __future__ import annotations

import dataclasses

import numpy as np

from dis2_jax.inference.grid import Axis
from dis2_jax.schema import IGNORE


@dataclasses.dataclass(frozen=True)
class Strip:
    """Final rows of a panel. ``probabilities`` float32 ``[n, w, K]`` sum to 1 (NaN: no answer)."""

    probabilities: np.ndarray
    scenario: np.ndarray
    """uint8 ``[n, w]``: the scenario with the most weight, ``IGNORE`` where there is no answer."""

    @property
    def answered(self) -> np.ndarray:
        """Bool ``[n, w]``."""
        return np.asarray(self.scenario != IGNORE)

    @property
    def classes(self) -> np.ndarray:
        """uint8 ``[n, w]``: the most probable class, ``IGNORE`` where there is no answer."""
        best = self.probabilities.argmax(-1).astype(np.uint8)
        return np.where(self.answered, best, np.uint8(IGNORE))

    @property
    def confidence(self) -> np.ndarray:
        """Probability of the most probable class, float32 ``[n, w]``."""
        return np.asarray(self.probabilities.max(-1))

    @property
    def entropy(self) -> np.ndarray:
        """Entropy of the probabilities over that of a uniform answer: 0 certain .. 1 undecided, float32."""
        p = self.probabilities
        with np.errstate(divide="ignore", invalid="ignore"):
            terms = np.where(p > 0, p * np.log(p), p)  # 0 log 0 = 0, and NaN stays
        return np.clip(-terms.sum(-1) / np.log(p.shape[-1]), 0, 1).astype(np.float32)


class PanelSums:
    """Weighted sums over the windows that touch the rows still open: memory for one window's height.

    ``width`` columns, ``classes`` and ``scenarios`` many planes. Sums are added in the order of the calls.
    """

    def __init__(self, rows: Axis, columns: Axis, *, width: int, classes: int, scenarios: int) -> None:
        self._weight = rows.weights()[:, None] * columns.weights()
        self._sums = np.zeros((rows.window, width, classes), np.float32)
        self._weights = np.zeros((scenarios, rows.window, width), np.float32)
        self._seen = np.zeros((rows.window, width), bool)

    def see(self, valid: np.ndarray) -> None:
        """Note where any modality has data: bool ``[rows, width]`` from the first open row on."""
        self._seen[: len(valid)] |= valid

    def add(self, probabilities: np.ndarray, *, left: int, scenario: int) -> None:
        """Add a window's ``[h, w, K]`` at a column, from the first open row on; cut off at the panel's end."""
        width = min(probabilities.shape[1], self._seen.shape[1] - left)
        part = slice(left, left + width)
        weight = self._weight[:, :width]
        self._sums[:, part] += weight[..., None] * probabilities[:, :width]
        self._weights[scenario, :, part] += weight

    def finish(self, rows: int, *, columns: slice) -> Strip:
        """Close the first ``rows`` open rows and return these columns of them."""
        weights = self._weights[:, :rows, columns]
        total = weights.sum(0)
        answered = (total > 0) & self._seen[:rows, columns]
        with np.errstate(divide="ignore", invalid="ignore"):
            probabilities = self._sums[:rows, columns] / total[..., None]
        probabilities[~answered] = np.nan
        scenario = np.where(answered, weights.argmax(0).astype(np.uint8), np.uint8(IGNORE))
        for x in (self._sums, self._seen, *self._weights):
            x[:-rows] = x[rows:]  # numpy copes with the overlap
            x[-rows:] = 0
        return Strip(probabilities, scenario)
