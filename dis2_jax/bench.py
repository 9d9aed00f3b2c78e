"""Time one training step on random data: compile seconds, milliseconds, tiles/s, memory, FLOPs."""

from __future__ import annotations

import contextlib
import dataclasses
import resource
import statistics
import sys
import time
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental.compilation_cache import compilation_cache

from dis2_jax.abstract_step import trace_step
from dis2_jax.config import Config
from dis2_jax.models.layout import active
from dis2_jax.random_tiles import random_batch
from dis2_jax.schema import DatasetCard, Dis2Error, Scenario
from dis2_jax.sharding.mesh import check_batch_size, put_batch
from dis2_jax.sharding.placement import Placement, make_placement
from dis2_jax.training.optimizer import make_optimizer
from dis2_jax.training.state import TrainState, build_model, state_maker
from dis2_jax.training.step import compiled_flops, scenarios_at


@dataclasses.dataclass(frozen=True)
class StepBench:
    """What one measurement found. Times are wall clock with ``block_until_ready``; memory is in bytes."""

    device: str
    devices: int
    jax_version: str
    modalities: dict[str, int]
    classes: int
    scenarios: tuple[str, ...]
    width: int
    tile: tuple[int, int]
    batch: int
    dtype: str
    parameters: int
    trace_seconds: float
    """Python's share: the step as a program of JAX's."""
    compile_seconds: float
    """Lowering and XLA, without the persistent cache."""
    steps: int
    step_ms: float
    """Median."""
    step_ms_min: float
    step_ms_max: float
    tiles_per_second: float
    """From the median."""
    peak_memory: int
    peak_memory_source: str
    """``device`` (the fullest one, by its allocator) or ``process`` (resident memory, Python and XLA too)."""
    temporaries: int | None
    """The compiled step's scratch memory per device; None where the backend does not tell."""
    flops: float | None
    """Of one step per device, counted by XLA; None where the backend does not tell."""

    def lines(self) -> list[str]:
        """Return the measurement as aligned text."""
        inputs = ", ".join(f"{name}:{channels}" for name, channels in self.modalities.items())
        height, width = self.tile
        students = ", ".join(self.scenarios)
        spread = f"median of {self.steps}; {self.step_ms_min:.1f} .. {self.step_ms_max:.1f}"
        peak = f"{mib(self.peak_memory)} peak ({self.peak_memory_source})"
        rows = [
            ("device", f"{self.devices} x {self.device}, jax {self.jax_version}"),
            (
                "model",
                f"width {self.width}, {inputs}, {self.classes} classes, {self.parameters:,} parameters",
            ),
            ("step", f"batch {self.batch}, {height} x {width} px, {self.dtype}, full and {students}"),
            ("compile", f"{self.compile_seconds:.1f} s, after {self.trace_seconds:.1f} s of tracing"),
            ("time", f"{self.step_ms:.1f} ms ({spread})"),
            ("speed", f"{self.tiles_per_second:.2f} tiles/s"),
            ("memory", f"{peak}, {mib(self.temporaries)} temporaries"),
            ("flops", _flops(self.flops, self.step_ms)),
        ]
        return [f"{name:8} {text}" for name, text in rows]


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A compiled step and what it takes: ``compiled(state, data)``."""

    compiled: Any
    state: TrainState
    data: Any
    scenarios: tuple[Scenario, ...]
    placement: Placement
    trace_seconds: float
    compile_seconds: float


def prepare_step(config: Config, card: DatasetCard, *, tile: tuple[int, int], batch: int) -> Prepared:
    """Compile the training step of ``config`` for random tiles, spread as ``config.sharding`` says.

    Raises ``Dis2Error`` for sizes that the model or the devices cannot take.
    """
    if config.model.dtype == "float64" and jax.dtypes.canonicalize_dtype(np.float64) != np.float64:
        raise Dis2Error("bench: float64 needs x64: set JAX_ENABLE_X64=1")
    placement = make_placement(config.sharding)
    check_batch_size(batch, placement.mesh)
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, batch_size=batch))
    start = time.perf_counter()
    traced, _ = trace_step(config, card, tile=tile, placement=placement)
    tracing = time.perf_counter() - start
    model = build_model(config.model, card, tile=tile, remat=config.sharding.remat)
    create = state_maker(model, make_optimizer(config.optimizer, steps=config.train.steps), config)
    with active(placement):
        init = jax.jit(create, out_shardings=placement.shardings(jax.eval_shape(create)))
        # Any random parameters will do, and these compile three times as fast as the training's.
        with jax.default_prng_impl("unsafe_rbg"):
            state = init()
    data = put_batch(random_batch(card, config.data, tile=tile, batch=batch), placement.mesh)
    compiled, seconds = _compile(traced)
    scenarios = scenarios_at(0, config.train, model.scenarios[1:])
    return Prepared(compiled, state, data, scenarios, placement, tracing, seconds)


def bench_step(
    config: Config, card: DatasetCard, *, tile: tuple[int, int], batch: int, steps: int
) -> StepBench:
    """Compile and run the training step of ``config`` on random tiles, spread as ``config.sharding`` says.

    Raises ``Dis2Error`` for sizes that the model or the devices cannot take.
    """
    if steps < 1 or batch < 1:
        raise Dis2Error(f"bench: steps = {steps}, batch = {batch}: both must be at least 1")
    prepared = prepare_step(config, card, tile=tile, batch=batch)
    milliseconds, state = time_step(prepared, steps=steps)
    memory, source = peak_memory()
    median = statistics.median(milliseconds)
    return StepBench(
        device=jax.devices()[0].device_kind,
        devices=prepared.placement.mesh.size,
        jax_version=jax.__version__,
        modalities={m.name: m.channels for m in card.modalities},
        classes=len(card.legend),
        scenarios=tuple(str(s) for s in prepared.scenarios),
        width=config.model.width,
        tile=tile,
        batch=batch,
        dtype=config.model.dtype,
        parameters=sum(x.size for x in jax.tree.leaves(state.params)),
        trace_seconds=prepared.trace_seconds,
        compile_seconds=prepared.compile_seconds,
        steps=steps,
        step_ms=median,
        step_ms_min=min(milliseconds),
        step_ms_max=max(milliseconds),
        tiles_per_second=1000 * batch / median,
        peak_memory=memory,
        peak_memory_source=source,
        temporaries=getattr(prepared.compiled.memory_analysis(), "temp_size_in_bytes", None),
        flops=compiled_flops(prepared.compiled),
    )


def _compile(traced: Any) -> tuple[Any, float]:
    """Return the compiled step and the seconds it took, past the persistent cache, which would hide them."""
    with _no_persistent_cache():
        start = time.perf_counter()
        compiled = traced.lower().compile()
        return compiled, time.perf_counter() - start


@contextlib.contextmanager
def _no_persistent_cache() -> Iterator[None]:
    """JAX looks at the setting once per process, so its memory of that has to go too."""
    config: Any = jax.config  # its attributes are typed in some releases of JAX only
    enabled = config.jax_enable_compilation_cache
    jax.config.update("jax_enable_compilation_cache", False)
    compilation_cache.reset_cache()
    try:
        yield
    finally:
        jax.config.update("jax_enable_compilation_cache", enabled)
        compilation_cache.reset_cache()


def time_step(prepared: Prepared, *, steps: int) -> tuple[list[float], Any]:
    """Milliseconds of each step, after two that warm up, and the last state. Uses up ``prepared.state``."""
    milliseconds, state = [], prepared.state
    for _ in range(steps + 2):
        start = time.perf_counter()
        state, metrics = prepared.compiled(state, prepared.data)
        jax.block_until_ready((state, metrics))
        milliseconds.append(1000 * (time.perf_counter() - start))
    return milliseconds[2:], state


def peak_memory() -> tuple[int, str]:
    """Bytes of the fullest local device by its allocator (``device``), or of this process (``process``)."""
    peaks = [(d.memory_stats() or {}).get("peak_bytes_in_use", 0) for d in jax.local_devices()]
    if max(peaks):
        return max(peaks), "device"
    unit = 1 if sys.platform == "darwin" else 1024  # getrusage counts bytes there, KiB elsewhere
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, "process"


def mib(size: int | None) -> str:
    """Bytes as text."""
    return "unknown" if size is None else f"{size / 2**20:,.0f} MiB"


def _flops(flops: float | None, milliseconds: float) -> str:
    if flops is None:
        return "unknown"
    return f"{flops / 1e9:.2f} GFLOP per step and device, {flops / milliseconds / 1e6:.1f} GFLOP/s"
