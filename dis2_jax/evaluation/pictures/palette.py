"""Class colours that colour-blind readers can tell apart."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np

from dis2_jax.schema import ClassLegend

LEAST = 20.0
"""Distance in CIELAB that two classes keep in every kind of vision."""

# Full protanopia, deuteranopia and tritanopia on linear RGB: Machado, Oliveira, Fernandes, IEEE TVCG 2009, table 1.
_VISIONS = np.array(
    [
        [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
    ]
)
_TO_XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)


def readable(legend: ClassLegend) -> ClassLegend:
    """Return the legend with colours at least ``LEAST`` apart in every kind of vision.

    A class keeps its colour where that is far enough from those of the classes before it, and else gets the colour most
    like its own that is. With dozens of classes there is none: then the one farthest from the others.
    """
    grid = np.array(list(itertools.product(range(0, 256, 15), repeat=3)), np.uint8)
    seen = as_seen(grid)
    colors: list[tuple[int, int, int]] = []
    for own in legend.colors:
        if colors and _nearest(as_seen(np.array([own])), colors)[0] < LEAST:
            apart = _nearest(seen, colors)
            unlike = np.linalg.norm(seen[0] - as_seen(np.array([own]))[0], axis=-1)
            best = (
                np.where(apart >= LEAST, unlike, np.inf).argmin() if apart.max() >= LEAST else apart.argmax()
            )
            red, green, blue = (int(v) for v in grid[best])
            own = (red, green, blue)
        colors.append(own)
    return dataclasses.replace(legend, colors=tuple(colors))


def as_seen(rgb: np.ndarray) -> np.ndarray:
    """CIELAB ``[4, N, 3]`` of sRGB colours ``[N, 3]`` (0..255): full vision, protanopia, deuteranopia, tritanopia."""
    x = np.asarray(rgb, np.float64) / 255
    linear = np.where(x <= 0.04045, x / 12.92, ((x + 0.055) / 1.055) ** 2.4)
    linear = np.clip(np.einsum("vij,nj->vni", _VISIONS, linear), 0, 1)
    xyz = linear @ _TO_XYZ.T / _TO_XYZ.sum(1)
    f = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.stack(
        [116 * f[..., 1] - 16, 500 * (f[..., 0] - f[..., 1]), 200 * (f[..., 1] - f[..., 2])], axis=-1
    )


def _nearest(seen: np.ndarray, colors: list[tuple[int, int, int]]) -> np.ndarray:
    """Least distance ``[N]`` in any vision of colours as seen ``[4, N, 3]`` to ``colors``."""
    others = as_seen(np.array(colors))
    return np.asarray(
        np.min([np.linalg.norm(seen - o[:, None], axis=-1).min(0) for o in np.moveaxis(others, 1, 0)], axis=0)
    )
