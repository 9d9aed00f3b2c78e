"""Mesh axes as text: ``data:-1,fsdp:4``."""

from __future__ import annotations

import math

from dis2_jax.schema import Dis2Error

DATA, FSDP, ROWS, CLASSES = "data", "fsdp", "rows", "classes"
AXES = (DATA, FSDP, ROWS, CLASSES)
"""What an axis splits is said by its name, in every mesh: ``data`` and ``fsdp`` the tiles of a batch, ``rows`` the
rows of a tile, ``classes`` the class maps; ``fsdp`` parameters too. The last ones are nearest neighbours."""
TILE_AXES = (DATA, FSDP)

Sizes = tuple[tuple[str, int], ...]


def parse_axes(text: str, *, devices: int) -> Sizes:
    """Read ``name:size,...`` for so many devices; one size may be -1 and takes what the others leave.

    Returns the axes in the order of ``AXES``. Raises ``Dis2Error``: unknown or repeated name, a size that is none,
    or sizes whose product is not ``devices``.
    """
    sizes: dict[str, int] = {}
    for item in text.split(","):
        name, _, size = (part.strip() for part in item.partition(":"))
        if name not in AXES or name in sizes or not (size.isdigit() or size == "-1") or int(size) == 0:
            raise Dis2Error(
                f"config sharding.axes = {text!r}: write name:size,... such as data:-1,fsdp:4; each name once,"
                f" names are {', '.join(AXES)}, and one size may be -1"
            )
        sizes[name] = int(size)
    open_axes = [name for name, size in sizes.items() if size == -1]
    fixed = math.prod(size for size in sizes.values() if size != -1)
    if len(open_axes) > 1 or devices % fixed or (not open_axes and fixed != devices):
        raise Dis2Error(
            f"config sharding.axes = {text!r} does not fill {devices} devices: the product of the sizes must be"
            f" {devices}, or a divisor of it with one size -1"
        )
    if open_axes:
        sizes[open_axes[0]] = devices // fixed
    return tuple((name, sizes[name]) for name in AXES if name in sizes)
