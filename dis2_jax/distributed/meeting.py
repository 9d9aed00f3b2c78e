"""Waiting for each other, where running ahead would be a mistake."""

from __future__ import annotations

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from dis2_jax.distributed.jointly import several


def meet(where: str) -> None:
    """Wait until every process is at this point. All must call it with the same text."""
    if several():
        multihost_utils.sync_global_devices(where)


def connect(mesh: Mesh) -> None:
    """Sum over all devices of ``mesh``, and over those along each axis, while the processes are still side by side.

    On CPU, Gloo gives a process 30 s to come to the first collective of a group of devices; after that it waits
    for any time. Without this, that first one stands behind a long compilation, of which one process may find the
    result in its cache and another not.
    """
    if several():
        sharding = NamedSharding(mesh, PartitionSpec(*mesh.axis_names))
        ones = np.ones(mesh.devices.shape, np.float32)
        placed = jax.make_array_from_callback(ones.shape, sharding, lambda index: ones[index])
        jax.block_until_ready(jax.jit(lambda x: [x.sum(), *(x.sum(i) for i in range(x.ndim))])(placed))
