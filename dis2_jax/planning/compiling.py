"""Compile the real training step for devices that may not be there, and read the facts off it."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import time
from collections.abc import Sequence
from typing import Any

from dis2_jax.abstract_step import trace_step
from dis2_jax.config import Config
from dis2_jax.planning.chips import Chip
from dis2_jax.planning.facts import Facts, Memory
from dis2_jax.planning.flops import count_flops
from dis2_jax.planning.networks import places, summarise
from dis2_jax.planning.traffic import measure_traffic
from dis2_jax.schema import DatasetCard
from dis2_jax.sharding.collectives import collectives
from dis2_jax.sharding.hlo import parse_module
from dis2_jax.sharding.mesh import check_batch_size
from dis2_jax.sharding.placement import Placement, make_placement
from dis2_jax.training.step import compiled_flops

UNTUNED_GPU = {"xla_gpu_autotune_level": 0, "xla_gpu_enable_triton_gemm": False}
"""Tuning would need the GPU, and untuned Triton products are refused for some shapes: cuBLAS takes all."""
PACKAGES = ("jax", "jaxlib", "libtpu", "jax-cuda13-plugin", "nvidia-cuda-nvcc")


@dataclasses.dataclass(frozen=True)
class Compiled:
    """Facts, and the compiled step's text."""

    facts: Facts
    text: str
    program: Any
    """The compiled step (``jax.stages.Compiled``)."""


def compile_step(
    config: Config, card: DatasetCard, *, tile: tuple[int, int], chip: Chip, devices: Sequence[Any]
) -> Compiled:
    """Compile the step of ``config`` for ``devices`` of ``chip``; nothing is put on a device.

    Raises ``Dis2Error`` for a batch, tile or strategy that the devices cannot take, and whatever the compiler raises.
    """
    placement = make_placement(config.sharding, devices=devices)
    check_batch_size(config.data.batch_size, placement.mesh)
    start = time.perf_counter()
    traced, parameters = trace_step(config, card, tile=tile, placement=placement)
    platform = chip.platform
    lowered = traced.lower(lowering_platforms=(platform,))
    lower_seconds = time.perf_counter() - start
    options = UNTUNED_GPU if platform == "cuda" else None
    start = time.perf_counter()
    program = lowered.compile(compiler_options=options)
    compile_seconds = time.perf_counter() - start
    text = program.as_text()
    module = parse_module(text)
    traffic = measure_traffic(module)
    flops, source = _flops(traced, program, devices=placement.mesh.size)
    where = places(placement.mesh.devices.flat, chip)
    facts = Facts(
        devices=placement.mesh.size,
        memory=_memory(program.memory_analysis()),
        model_flops=_model_flops(config, card, tile=tile, placement=placement, traced=traced),
        flops=flops,
        flops_source=source,
        bytes_accessed=traffic.bytes,
        padded_bytes=traffic.padded_bytes,
        cycles=traffic.cycles,
        instructions=traffic.instructions,
        exchanges=summarise(collectives(module), where),
        parameters=parameters,
        lower_seconds=lower_seconds,
        compile_seconds=compile_seconds,
        versions=_versions(),
    )
    return Compiled(facts, text, program)


def _memory(stats: Any) -> Memory:
    return Memory(
        arguments=stats.argument_size_in_bytes,
        outputs=stats.output_size_in_bytes,
        aliased=stats.alias_size_in_bytes,
        temporaries=stats.temp_size_in_bytes,
        code=stats.generated_code_size_in_bytes,
    )


def _flops(traced: Any, program: Any, *, devices: int) -> tuple[float, str]:
    """Operations of the compiled step on one device: XLA's count, or where it gives none the traced step's share."""
    if counted := compiled_flops(program):
        return counted, "XLA"
    return count_flops(traced.jaxpr.jaxpr) / devices, "traced step"


def _model_flops(
    config: Config, card: DatasetCard, *, tile: tuple[int, int], placement: Placement, traced: Any
) -> float:
    """Operations that the model needs, over the devices: nothing recomputed, nothing done twice."""
    if config.sharding.remat != "none":
        plain = dataclasses.replace(config, sharding=dataclasses.replace(config.sharding, remat="none"))
        traced, _ = trace_step(plain, card, tile=tile, placement=placement)
    return count_flops(traced.jaxpr.jaxpr) / placement.mesh.size


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found
