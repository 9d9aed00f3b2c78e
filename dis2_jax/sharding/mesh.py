"""The device mesh of a run: one axis over all devices, batches split along it, everything else replicated."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from dis2_jax.schema import Dis2Error

DATA_AXIS = "data"


def data_mesh() -> Mesh:
    """All devices of all processes along the axis ``data``; Auto: the compiler places what a jit makes."""
    return jax.make_mesh((jax.device_count(),), (DATA_AXIS,), axis_types=(AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
    """Whole on every device."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """First dimension split over the data axis."""
    return NamedSharding(mesh, PartitionSpec(DATA_AXIS))


def check_batch_size(batch_size: int, mesh: Mesh) -> None:
    """Raise ``Dis2Error`` unless a global batch splits evenly over the mesh's devices."""
    if batch_size % mesh.size:
        lower = batch_size // mesh.size * mesh.size
        near = f"{lower} or {lower + mesh.size}" if lower else str(mesh.size)
        raise Dis2Error(
            f"a batch of {batch_size} does not split over {mesh.size} devices:"
            f" set config.data.batch_size to {near}"
        )


def put_batch(batch: Mapping[str, Any], mesh: Mesh) -> Any:
    """Place this process's share of a batch on the mesh.

    Numpy leaves ``[b, ...]`` become global arrays ``[B, ...]``, b = B / number of processes. Raises
    ``Dis2Error`` when the rows do not split over this process's devices.
    """
    sharding = batch_sharding(mesh)
    rows = {len(leaf) for leaf in jax.tree.leaves(batch)}
    for n in rows:
        check_batch_size(n * jax.process_count(), mesh)
    return jax.tree.map(lambda leaf: jax.make_array_from_process_local_data(sharding, leaf), batch)
