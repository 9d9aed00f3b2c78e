"""Mesh axes for strategies whose own default does not suit many chips."""

from __future__ import annotations

import math

from dis2_jax.planning.topology import Topology

ROWS_AT_MOST = 8
"""Devices that share a tile's rows: more of them exchange more than they share."""
ROWS_PER_DEVICE = 32
ALONG_A_TPU_HOST = 2
"""Chips of one host in a line of a slice of several: hosts are squares of 2 x 2, and a tile stays in its host."""


def plan_axes(strategy: str, machine: Topology, *, tile: tuple[int, int], classes: int) -> str:
    """Axes as ``config.sharding.axes`` has them, empty for the strategy's own.

    ``spatial`` alone would split the rows of a tile over all chips, ``class`` the classes: here they split as much as
    makes sense, and tiles are split over the rest. ``hsdp``: GPUs that are not there do not tell their hosts.
    """
    devices = machine.devices
    if machine.one_host:
        together = devices
    elif machine.chip.platform == "tpu":
        together = ALONG_A_TPU_HOST
    else:
        together = machine.chip.chips_per_host * machine.chip.devices_per_chip
    if strategy == "spatial":
        rows = max(
            n
            for n in (1, 2, 4, ROWS_AT_MOST)
            if n == 1 or (together % n == 0 and tile[0] % (16 * n) == 0 and tile[0] // n >= ROWS_PER_DEVICE)
        )
        return f"data:-1,rows:{rows}"
    if strategy == "class":
        return f"data:-1,classes:{math.gcd(together, classes)}"
    if strategy == "hsdp" and machine.chip.platform == "cuda":
        return f"data:{machine.shape[0]},fsdp:-1"
    return ""
