"""Land-cover schemes: the 17 IGBP classes of SEN12MS, and the simplified ones of the 2020 data fusion contest.

The contest (Yokoya et al., 2020) joins IGBP classes to ten, of which its reference maps leave out savanna and snow:
its scores are over the other eight.
"""

from __future__ import annotations

import dataclasses
from typing import Literal, get_args

import numpy as np

from dis2_jax.data.rasters import RasterReader, Window
from dis2_jax.schema import IGNORE, ClassLegend, Dis2Error

Scheme = Literal["contest", "simplified", "igbp"]
Coding = Literal["igbp", "dfc"]

_IGBP = (
    ("evergreen_needleleaf_forest", (5, 69, 10), "forest"),
    ("evergreen_broadleaf_forest", (8, 106, 16), "forest"),
    ("deciduous_needleleaf_forest", (84, 167, 8), "forest"),
    ("deciduous_broadleaf_forest", (120, 210, 3), "forest"),
    ("mixed_forest", (0, 153, 0), "forest"),
    ("closed_shrubland", (198, 176, 68), "shrubland"),
    ("open_shrubland", (220, 209, 89), "shrubland"),
    ("woody_savanna", (218, 222, 72), "savanna"),
    ("savanna", (251, 255, 19), "savanna"),
    ("grassland", (182, 255, 5), "grassland"),
    ("wetland", (39, 255, 135), "wetland"),
    ("cropland", (194, 79, 68), "cropland"),
    ("urban", (165, 165, 165), "urban"),
    ("cropland_mosaic", (255, 109, 76), "cropland"),
    ("snow_ice", (105, 255, 248), "snow_ice"),
    ("barren", (249, 255, 164), "barren"),
    ("water", (28, 13, 255), "water"),
)
"""Codes 1 to 17 in order: name, colour, simplified class."""

_SIMPLIFIED = (
    ("forest", (0, 153, 0)),
    ("shrubland", (198, 176, 68)),
    ("savanna", (251, 255, 19)),
    ("grassland", (182, 255, 5)),
    ("wetland", (39, 255, 135)),
    ("cropland", (194, 79, 68)),
    ("urban", (165, 165, 165)),
    ("snow_ice", (105, 255, 248)),
    ("barren", (249, 255, 164)),
    ("water", (28, 13, 255)),
)
"""Codes 1 to 10 of the contest's maps."""

_NOT_SCORED = ("savanna", "snow_ice")


@dataclasses.dataclass(frozen=True)
class CodeTable:
    """A legend, and the class of each code of the label files (255 = ignored). Codes left out are an error."""

    legend: ClassLegend
    classes: tuple[tuple[int, int], ...]

    def read(self, reader: RasterReader, window: Window) -> np.ndarray:
        """Read a window of a label file; ``Dis2Error`` names the file and its unknown codes."""
        try:
            return self.decode(reader.read(window)[..., 0])
        except Dis2Error as e:
            raise Dis2Error(f"{reader.path} holds {e}") from e

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """Return uint8 class numbers of integer codes, any shape. Raises ``Dis2Error`` listing unknown codes."""
        known = dict(self.classes)
        values, counts = np.unique(codes, return_counts=True)
        odd = [
            f"{v} ({n} pixels)"
            for v, n in zip(values.tolist(), counts.tolist(), strict=True)
            if v not in known
        ]
        if odd:
            raise Dis2Error(
                f"codes outside {min(known)} to {max(known)}: {', '.join(odd[:8])}"
                + (f" and {len(odd) - 8} more" if len(odd) > 8 else "")
            )
        table = np.full(max(known) + 1, IGNORE, np.uint8)
        table[list(known)] = list(known.values())
        return table[codes.astype(np.int64)]


def code_table(scheme: Scheme, coding: Coding) -> CodeTable:
    """Return the classes of a scheme for labels in a coding; 0 is no data and ignored.

    Raises ``Dis2Error`` where the coding does not tell the scheme's classes apart.
    """
    if scheme not in get_args(Scheme):
        raise Dis2Error(f"--scheme {scheme}: choose from {', '.join(get_args(Scheme))}")
    if scheme == "igbp" and coding == "dfc":
        raise Dis2Error("--scheme igbp needs --label lc: the contest's maps hold ten classes")
    kept = [(n, c) for n, c in _SIMPLIFIED if scheme == "simplified" or n not in _NOT_SCORED]
    if scheme == "igbp":
        kept = [(n, c) for n, c, _ in _IGBP]
    names = [n for n, _ in kept]
    meaning = [n if scheme == "igbp" else simple for n, _, simple in _IGBP]
    if coding == "dfc":
        meaning = [n for n, _ in _SIMPLIFIED]
    classes = [(code, names.index(n) if n in names else IGNORE) for code, n in enumerate(meaning, start=1)]
    legend = ClassLegend(tuple(names), tuple(c for _, c in kept))
    return CodeTable(legend, ((0, IGNORE), *classes))
