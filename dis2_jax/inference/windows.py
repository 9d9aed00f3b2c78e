"""From a window's pixels to what the network reads, and which branch of the model answers it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from dis2_jax.data.normalize import Normalization, normalize
from dis2_jax.inference.inputs import Pixels, physical
from dis2_jax.schema import Modality, Scenario


def missing_shares(pixels: Mapping[str, Pixels]) -> dict[str, float]:
    """Share of a window in which each modality is missing although another one is there.

    Pixels that no modality sees do not count: the map is nodata there. All 1 where nothing is seen at all.
    """
    seen = np.logical_or.reduce([p.valid for p in pixels.values()])
    count = int(seen.sum())
    return {m: 1 - int(p.valid.sum()) / count if count else 1.0 for m, p in pixels.items()}


def fitting(
    missing: Mapping[str, float], scenarios: Sequence[Scenario], *, max_missing: float
) -> Scenario | None:
    """Return the branch for a window: of those whose modalities are all there, the one with the most of them.

    There is a modality that misses at most ``max_missing`` of the window. Among equals the one with the
    smaller holes, then the first. None: no branch fits.
    """
    there = {m for m, share in missing.items() if share <= max_missing and share < 1}
    fits = [s for s in scenarios if there.issuperset(s.available)]
    rank = {s: (len(s.available), -sum(missing[m] for m in s.available)) for s in fits}
    return max(fits, key=lambda s: rank[s], default=None)


def network_input(
    pixels: Pixels, modality: Modality, mode: Normalization, *, window: tuple[int, int]
) -> np.ndarray:
    """Normalised float32 ``[*window, C]``: holes take the mean of the rest, as in training data.

    A window that reaches past the scene is mirrored at the lower and right edge, as training tiles are.
    """
    x = physical(pixels.values, modality)
    with np.errstate(over="ignore", invalid="ignore"):
        ready = normalize(x, modality, mode)
    valid = pixels.valid & np.isfinite(ready).all(-1)
    if not valid.all():
        ready[~valid] = ready[valid].mean(0, dtype=np.float64) if valid.any() else 0.0
    height, width = ready.shape[:2]
    if (height, width) == window:
        return ready
    return np.pad(ready, [(0, window[0] - height), (0, window[1] - width), (0, 0)], mode="symmetric")


def cut(pixels: Mapping[str, Pixels], start: int, width: int) -> dict[str, Pixels]:
    """Columns [start, start + width) of what was read."""
    part = slice(start, start + width)
    return {m: Pixels(p.values[:, part], p.valid[:, part]) for m, p in pixels.items()}
