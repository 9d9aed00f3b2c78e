"""The device mesh of a run, and batches on it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from dis2_jax.schema import Dis2Error
from dis2_jax.sharding.axes import DATA, TILE_AXES, Sizes
from dis2_jax.sharding.rules import BATCH, dims_spec


def data_mesh() -> Mesh:
    """All devices of all processes along the axis ``data``; Auto: the compiler places what a jit makes."""
    return make_mesh(((DATA, jax.device_count()),), jax.devices())


def make_mesh(sizes: Sizes, devices: Sequence[Any]) -> Mesh:
    """Mesh over ``devices``, neighbours along the last axes; slow networks are crossed by the first axes only.

    Raises ``Dis2Error`` when the first axes cannot be spread evenly over slices or hosts.
    """
    names, shape = zip(*sizes, strict=True)
    groups = count_groups(devices)
    if groups > 1:
        grid = _hybrid_grid(shape, devices, groups=groups)
    else:
        grid = mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
    return Mesh(grid, names, axis_types=(AxisType.Auto,) * len(names))


def count_groups(devices: Sequence[Any]) -> int:
    """Groups of devices with a fast network inside and a slower one between: slices, or else processes.

    A TPU slice is one group, whatever the number of its hosts.
    """
    return len({_group(d) for d in devices})


def _group(device: Any) -> int:
    slice_index = getattr(device, "slice_index", None)
    if slice_index is not None:
        return int(slice_index)
    return 0 if device.platform == "tpu" else int(device.process_index)


def _hybrid_grid(shape: Sequence[int], devices: Sequence[Any], *, groups: int) -> np.ndarray:
    """Divide the groups among the axes, first axes first."""
    outer, left = [], groups
    for n in shape:
        outer.append(math.gcd(n, left))
        left //= outer[-1]
    if left > 1:
        raise Dis2Error(
            f"config sharding.axes: a mesh of {' x '.join(map(str, shape))} cannot be spread over {groups} slices"
            f" or hosts: make the first axis a multiple of {groups}"
        )
    inner = [n // o for n, o in zip(shape, outer, strict=True)]
    by_slice = getattr(devices[0], "slice_index", None) is not None
    return np.asarray(
        mesh_utils.create_hybrid_device_mesh(
            inner, outer, devices, process_is_granule=not by_slice, allow_split_physical_axes=True
        )
    )


def replicated(mesh: Mesh) -> NamedSharding:
    """Whole on every device."""
    return NamedSharding(mesh, PartitionSpec())


def tile_shards(mesh: Mesh | AbstractMesh) -> int:
    """Over how many devices the tiles of a batch are spread."""
    return math.prod(mesh.shape[a] for a in TILE_AXES if a in mesh.shape)


def check_batch_size(batch_size: int, mesh: Mesh | AbstractMesh) -> None:
    """Raise ``Dis2Error`` unless a global batch splits evenly over the mesh's tile axes."""
    n = tile_shards(mesh)
    if batch_size % n:
        lower = batch_size // n * n
        near = f"{lower} or {lower + n}" if lower else str(n)
        raise Dis2Error(
            f"a batch of {batch_size} does not split over {n} devices: set config.data.batch_size to {near}"
        )


def check_whole_tiles(mesh: Mesh) -> None:
    """Raise ``Dis2Error`` where the devices that share a tile are of several processes: each reads whole tiles.

    Which devices these are, the wiring of a TPU slice decides: hosts are squares of it, and rows may run across.
    """
    for sharing in mesh.devices.reshape(tile_shards(mesh), -1):
        processes = {d.process_index for d in sharing}
        if len(processes) > 1:
            raise Dis2Error(
                f"config sharding.axes: {len(sharing)} devices share a tile, and they belong to {len(processes)}"
                " processes, each of which reads whole tiles: make rows or classes smaller"
            )


def batch_sharding(mesh: Mesh, shape: tuple[int, ...]) -> NamedSharding:
    """Tiles over ``data`` and ``fsdp``; the rows of maps (three dimensions and more) over ``rows``."""
    dims = BATCH if len(shape) > 2 else BATCH[:1]
    return NamedSharding(mesh, dims_spec(shape, dims, dict(mesh.shape)))


def put_batch(batch: Mapping[str, Any], mesh: Mesh) -> Any:
    """Place this process's share of a batch on the mesh.

    Numpy leaves ``[b, ...]`` become global arrays ``[B, ...]``, b = B / number of processes. Raises
    ``Dis2Error`` when the rows do not split over this process's devices.
    """
    processes = jax.process_count() if mesh.is_multi_process else 1
    for n in {len(leaf) for leaf in jax.tree.leaves(batch)}:
        check_batch_size(n * processes, mesh)

    def put(leaf: Any) -> jax.Array:
        whole = (len(leaf) * processes, *leaf.shape[1:])
        return jax.make_array_from_process_local_data(batch_sharding(mesh, whole), leaf, whole)

    return jax.tree.map(put, batch)


def put_whole(array: Any, sharding: NamedSharding) -> jax.Array:
    """Place a copy of an array that every process holds whole; ``device_put`` reaches its own devices only."""
    if sharding.is_fully_addressable:
        return jax.device_put(jax.numpy.array(array), sharding)
    host = np.asarray(array)
    return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index].copy())
