"""Devices of a machine that is not there, and the environment that JAX needs to make them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from dis2_jax.planning.gpu_target import target_config
from dis2_jax.planning.topology import Topology
from dis2_jax.schema import Dis2Error

TPU_EXTRA = "the TPU compiler is not there: pip install 'dis2-jax[plan]' (libtpu, 0.7 GB) in an environment of its own"
CUDA_EXTRA = (
    "the CUDA compiler is not there: pip install 'dis2-jax[plan-cuda]' (0.7 GB) in an environment of its own"
)


def environment(topology: Topology) -> dict[str, str]:
    """Environment variables that must be set before JAX starts."""
    if topology.chip.platform == "tpu":
        return {
            "JAX_PLATFORMS": "cpu",
            "TPU_SKIP_MDS_QUERY": "1",
            "TPU_WORKER_HOSTNAMES": "localhost",
            "TPU_ACCELERATOR_TYPE": "v5litepod-4",
            "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
            "TPU_MIN_LOG_LEVEL": "3",
            "TPU_LOG_DIR": "disabled",
        }
    return {"JAX_PLATFORMS": "cpu"}


def topology_devices(topology: Topology) -> list[Any]:
    """Make the device objects; ``Dis2Error`` when the compiler is not installed or refuses the shape."""
    from jax.experimental import topologies

    chip = topology.chip
    try:
        if chip.platform == "tpu":
            _need("libtpu", TPU_EXTRA)
            name, options = _tpu_name(topology)
            devices = topologies.get_topology_desc(platform="tpu", topology_name=name, **options).devices
        else:
            _need("jax_cuda13_plugin", CUDA_EXTRA)
            hosts, gpus = topology.shape
            # Every host is a partition of its own, as on real nodes: that makes it a slice for JAX.
            devices = topologies.get_topology_desc(
                platform="cuda", target_config=target_config(chip), topology=f"{hosts}x1x{gpus}"
            ).devices
    except (RuntimeError, ValueError, NotImplementedError) as e:
        raise Dis2Error(f"topology {topology.name!r}: the compiler refuses it: {e}") from e
    if len(devices) < topology.devices:
        raise Dis2Error(f"topology {topology.name!r}: the compiler makes {len(devices)} devices of it")
    return list(devices)[: topology.devices]


def _tpu_name(topology: Topology) -> tuple[str, Mapping[str, Any]]:
    """Name and options for libtpu: a single chip is one of its smallest host."""
    shape = topology.shape
    if math.prod(shape) == 1:
        shape = (2, 2, 1)[: len(shape)]
    options: dict[str, Any] = {}
    if topology.slices > 1:
        options["num_slices"] = topology.slices
    if topology.one_host and topology.chips > topology.chip.chips_per_host:
        options["chips_per_host_bounds"] = (*shape, 1)  # else it makes hosts of 2 x 2
    if topology.chip.name == "v4":  # both cores of a chip as one device
        options["chip_config_name"] = "megacore"
    return f"{topology.chip.name}:{'x'.join(map(str, shape))}", options


def _need(module: str, message: str) -> None:
    import importlib.util

    if importlib.util.find_spec(module) is None:
        raise Dis2Error(message)
