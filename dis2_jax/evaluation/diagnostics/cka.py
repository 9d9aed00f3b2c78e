"""Linear CKA in one pass over the data, in numpy float64; memory does not grow with the number of positions."""

from __future__ import annotations

import numpy as np


class StreamingCKA:
    """Linear centred kernel alignment of two feature sets seen block by block.

    Kept are sums of first to fourth order about a fixed point, the mean of the first block: with ``Dx`` and
    ``Dy`` features that is ``Dx^2 + Dx Dy + Dy^2`` numbers. CKA does not depend on the point, which only keeps
    the sums small; in float64 the result is that of the whole matrices to rounding.
    """

    def __init__(self) -> None:
        self.count = 0
        self._origin: tuple[np.ndarray, np.ndarray] | None = None
        self._sums: dict[str, _PairSums] = {}
        self._energy = np.zeros(2)  # of x and y as they came, to tell rounding from variation

    def add(self, x: np.ndarray, y: np.ndarray) -> None:
        """Add positions: ``x`` ``[n, Dx]`` and ``y`` ``[n, Dy]``, row by row of the same places."""
        if not len(x):
            return
        x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
        if self._origin is None:
            self._origin = (x.mean(0), y.mean(0))
            d, e = x.shape[1], y.shape[1]
            self._sums = {"xx": _PairSums(d, d), "yy": _PairSums(e, e), "xy": _PairSums(d, e)}
        self._energy += np.square(x).sum(), np.square(y).sum()
        x, y = x - self._origin[0], y - self._origin[1]
        self.count += len(x)
        self._sums["xx"].add(x, x)
        self._sums["yy"].add(y, y)
        self._sums["xy"].add(x, y)

    @property
    def value(self) -> float | None:
        """``|Xc' Yc|^2 / (|Xc' Xc| |Yc' Yc|)`` (Kornblith et al. 2019), 0..1; None where one side is constant."""
        return self._ratio({k: s.aligned(self.count) for k, s in self._sums.items()})

    @property
    def debiased(self) -> float | None:
        """CKA from the unbiased HSIC estimator (Song et al. 2012), which few positions do not push up.

        May be slightly below 0; None for fewer than 4 positions.
        """
        if self.count < 4:
            return None
        return self._ratio({k: s.unbiased(self.count) for k, s in self._sums.items()})

    def _ratio(self, hsic: dict[str, float]) -> float | None:
        if not hsic or self._constant("xx", 0) or self._constant("yy", 1):
            return None
        if hsic["xx"] <= 0 or hsic["yy"] <= 0:
            return None
        return hsic["xy"] / float(np.sqrt(hsic["xx"] * hsic["yy"]))

    def _constant(self, pair: str, side: int) -> bool:
        """Whether a side's variation is no more than float64 rounding of its values."""
        return bool(self._sums[pair].aa <= 1e-24 * self._energy[side])


class _PairSums:
    """Sums over positions i of products of a_i ``[D]`` and b_i ``[E]``."""

    def __init__(self, d: int, e: int) -> None:
        self.a, self.b = np.zeros(d), np.zeros(e)
        self.ab = np.zeros((d, e))
        self.a_by_b, self.b_by_a = np.zeros(d), np.zeros(e)  # sums of a |b|^2 and b |a|^2
        self.aa_bb = 0.0  # sum of |a|^2 |b|^2
        self.aa, self.bb = 0.0, 0.0

    def add(self, a: np.ndarray, b: np.ndarray) -> None:
        aa, bb = (a * a).sum(1), (b * b).sum(1)
        self.a += a.sum(0)
        self.b += b.sum(0)
        self.ab += a.T @ b
        self.a_by_b += bb @ a
        self.b_by_a += aa @ b
        self.aa_bb += float(aa @ bb)
        self.aa += float(aa.sum())
        self.bb += float(bb.sum())

    def aligned(self, n: int) -> float:
        """Squared norm of the centred cross-moment matrix."""
        return float(np.square(self.ab - np.outer(self.a, self.b) / n).sum())

    def unbiased(self, n: int) -> float:
        """HSIC_1 times n (n - 3), from the Gram matrices K, L with zero diagonals, which are never formed."""
        trace = float(np.square(self.ab).sum()) - self.aa_bb
        total = (float(self.a @ self.a) - self.aa) * (float(self.b @ self.b) - self.bb)
        between = float(self.a @ self.ab @ self.b - self.a @ self.a_by_b - self.b @ self.b_by_a) + self.aa_bb
        return trace + total / ((n - 1) * (n - 2)) - 2 / (n - 2) * between
