"""The colour code of the ISPRS semantic labelling benchmarks, and what is done about colours outside it.

Every channel of a class colour is 0 or 255. Two Potsdam labels are published with other numbers: 4_12 went through a
lossy codec, 6_7 has (252, 255, 0) for most cars. ``nearest`` reads them: each channel within ``REACH`` of 0 or 255
counts as that. Nothing is guessed unless it is asked for.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator
from typing import Literal, get_args

import numpy as np

from dis2_jax.data.rasters import FilePath, RasterReader, Window
from dis2_jax.schema import IGNORE, ClassLegend, Dis2Error, nearest

NAMES = ("impervious_surface", "building", "low_vegetation", "tree", "car", "clutter")
COLORS = ((255, 255, 255), (0, 0, 255), (0, 255, 255), (0, 255, 0), (255, 255, 0), (255, 0, 0))
REACH = 87
"""How far a channel may be from 0 or 255 under ``nearest``; what lies between stays a stray colour."""

Stray = Literal["refuse", "ignore", "nearest"]
_BAND_ROWS = 512
_LISTED = 6


@dataclasses.dataclass(frozen=True)
class LabelRule:
    """How label colours become classes.

    ``clutter``: ``class`` (a class of its own), ``ignore``, or ``merge:CLASS``. ``black``: black is the eroded
    boundary and ignored, not a stray colour.
    """

    clutter: str = "class"
    stray: Stray = "refuse"
    black: bool = False

    def __post_init__(self) -> None:
        if self.stray not in get_args(Stray):
            raise Dis2Error(f"--stray-colors {self.stray}: choose from {', '.join(get_args(Stray))}")
        self.target  # noqa: B018 - a wrong policy is told at once

    @property
    def target(self) -> int:
        """What clutter becomes: a class number or ``IGNORE``. Raises ``Dis2Error`` for an unknown policy."""
        kind, _, name = self.clutter.partition(":")
        if self.clutter in ("class", "ignore"):
            return len(NAMES) - 1 if kind == "class" else IGNORE
        if kind == "merge" and name in NAMES[:-1]:
            return NAMES.index(name)
        raise Dis2Error(
            f"--clutter {self.clutter}: choose class, ignore or merge:CLASS{nearest(name, NAMES[:-1])}, "
            f"CLASS one of {', '.join(NAMES[:-1])}"
        )

    @property
    def legend(self) -> ClassLegend:
        """The classes that are left."""
        count = len(NAMES) if self.clutter == "class" else len(NAMES) - 1
        return ClassLegend(NAMES[:count], COLORS[:count])

    def read(self, reader: RasterReader, window: Window) -> np.ndarray:
        """Read a window of a label file as ``decode`` gives it."""
        return self.decode(reader.read(window), reader.path)

    def decode(self, rgb: np.ndarray, path: FilePath) -> np.ndarray:
        """Return uint8 class numbers ``[h, w]`` of colours uint8 ``[h, w, 3]``; strays become ``IGNORE``.

        Raises ``Dis2Error`` for a file that is no RGB picture.
        """
        rgb = _checked(rgb, path)
        return np.where(self._near(rgb), self._corners[_corner_numbers(rgb)], IGNORE).astype(np.uint8)

    def takes(self, color: tuple[int, int, int]) -> bool:
        """Whether a stray colour is taken for a class colour."""
        rgb = np.array(color, np.uint8)
        return bool(self._near(rgb)) and int(_corner_numbers(rgb)) in map(_corner, COLORS)

    def strays(self, rgb: np.ndarray, path: FilePath) -> np.ndarray:
        """Return bool ``[h, w]``: where a colour is none of the code's. Raises ``Dis2Error`` as ``decode``."""
        rgb = _checked(rgb, path)
        known = np.zeros(8, bool)
        known[[_corner(c) for c in COLORS] + ([0] if self.black else [])] = True
        return ~(_exact(rgb) & known[_corner_numbers(rgb)])

    def _near(self, rgb: np.ndarray) -> np.ndarray:
        """Where a colour counts as the corner of the colour cube that it is nearest to."""
        if self.stray == "nearest":
            return np.asarray(np.all((rgb <= REACH) | (rgb >= 255 - REACH), axis=-1))
        return _exact(rgb)

    @property
    def _corners(self) -> np.ndarray:
        """Class of each corner of the colour cube, by 4 * red + 2 * green + blue."""
        table = np.full(8, IGNORE, np.uint8)
        for i, color in enumerate(COLORS):
            table[_corner(color)] = i if i < len(NAMES) - 1 else self.target
        return table


def count_strays(path: FilePath, rule: LabelRule) -> Counter[tuple[int, int, int]]:
    """Read a label band by band and count its stray colours: (red, green, blue) -> pixels."""
    counts: Counter[int] = Counter()
    for rgb in _strips(path):
        odd = rgb[rule.strays(rgb, path)].astype(np.int32)
        if len(odd):
            values, n = np.unique((odd[:, 0] << 16) | (odd[:, 1] << 8) | odd[:, 2], return_counts=True)
            counts.update(dict(zip(values.tolist(), n.tolist(), strict=True)))
    return Counter({(c >> 16, c >> 8 & 255, c & 255): n for c, n in counts.items()})


def list_strays(counts: Counter[tuple[int, int, int]]) -> str:
    """Write counted colours for a message, most frequent first."""
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    shown = ", ".join(f"{color} x {n}" for color, n in ordered[:_LISTED])
    more = f" and {len(ordered) - _LISTED} more colours" if len(ordered) > _LISTED else ""
    return f"{sum(counts.values())} pixels: {shown}{more}"


def _strips(path: FilePath) -> Iterator[np.ndarray]:
    with RasterReader(path) as reader:
        height, width = reader.info.size
        for row in range(0, height, _BAND_ROWS):
            yield reader.read((row, 0, min(_BAND_ROWS, height - row), width))


def _checked(rgb: np.ndarray, path: FilePath) -> np.ndarray:
    if rgb.dtype != np.uint8 or rgb.shape[-1] not in (3, 4):
        raise Dis2Error(f"{path} is {rgb.dtype} with {rgb.shape[-1]} bands: a label is an RGB picture")
    return rgb[..., :3]


def _exact(rgb: np.ndarray) -> np.ndarray:
    """Where every channel is 0 or 255."""
    return np.asarray(np.all(rgb + np.uint8(1) <= 1, axis=-1))


def _corner_numbers(rgb: np.ndarray) -> np.ndarray:
    high = rgb >> 7
    return high[..., 0] << 2 | high[..., 1] << 1 | high[..., 2]


def _corner(color: tuple[int, int, int]) -> int:
    return int(_corner_numbers(np.array(color, np.uint8)))
