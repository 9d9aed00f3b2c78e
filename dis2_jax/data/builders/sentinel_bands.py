"""Bands of Sentinel-1 and Sentinel-2 products by name."""

from __future__ import annotations

import re
from collections.abc import Sequence

from dis2_jax.schema import Dis2Error, nearest

S1 = ("VV", "VH")
S2_L1C = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B10", "B11", "B12")
S2_L2A = tuple(b for b in S2_L1C if b != "B10")
REFLECTANCE = 1e-4
"""Reflectance per digital number."""


def band_numbers(names: Sequence[str], product: Sequence[str], *, option: str) -> tuple[int, ...]:
    """Return the 1-based positions of bands in a product's files; no names: all. ``b2`` means ``B02``.

    Raises ``Dis2Error`` for a band that the product has not, or that is named twice.
    """
    wanted = [_full(n) for n in names]
    for n, full in zip(names, wanted, strict=True):
        if full not in product:
            raise Dis2Error(
                f"{option} {n}: no such band{nearest(full, product)}; there are {', '.join(product)}"
            )
    if len(set(wanted)) != len(wanted):
        raise Dis2Error(f"{option} {','.join(names)}: a band is named twice")
    return tuple(product.index(n) + 1 for n in wanted) or tuple(range(1, len(product) + 1))


def _full(name: str) -> str:
    upper = name.strip().upper()
    return f"B0{upper[1]}" if re.fullmatch(r"B\d", upper) else upper
