"""The model of time against reality: steps measured on this machine's CPU and predicted for it."""

from __future__ import annotations

import dataclasses
import math
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from dis2_jax.config import Config
from dis2_jax.models.layout import active
from dis2_jax.planning.chips import GB, Chip
from dis2_jax.planning.compiling import compile_step
from dis2_jax.planning.model import Prediction, predict
from dis2_jax.planning.topology import Topology
from dis2_jax.random_tiles import random_batch, random_card
from dis2_jax.schema import Dis2Error
from dis2_jax.sharding.mesh import put_batch
from dis2_jax.sharding.placement import make_placement
from dis2_jax.training.optimizer import make_optimizer
from dis2_jax.training.state import build_model, initializer, state_maker

MATRIX = 1536
CHAIN = 256
VECTOR = 32 * 2**20


@dataclasses.dataclass(frozen=True)
class Size:
    """One point of the comparison."""

    width: int
    tile: int
    batch: int

    def __str__(self) -> str:
        return f"width {self.width}, {self.tile} px, batch {self.batch}"


@dataclasses.dataclass(frozen=True)
class Point:
    """A step measured and predicted, in seconds of processor time (all threads together)."""

    size: Size
    measured: float
    prediction: Prediction
    gflop: float
    gigabytes: float

    @property
    def seconds(self) -> tuple[float, ...]:
        """Products, memory, launches, all of it as predicted, and as measured."""
        p = self.prediction
        return p.products, p.memory, p.launches, p.step, self.measured

    @property
    def ratio(self) -> float:
        """Measured over predicted."""
        return self.measured / self.prediction.step


@dataclasses.dataclass(frozen=True)
class Check:
    """One core as a chip, and the points."""

    chip: Chip
    points: tuple[Point, ...]

    @property
    def factor(self) -> float:
        """Geometric mean of measured over predicted."""
        return math.exp(statistics.fmean(math.log(p.ratio) for p in self.points))

    @property
    def spread(self) -> float:
        """Largest deviation from that factor, as a factor itself."""
        return max(max(p.ratio / self.factor, self.factor / p.ratio) for p in self.points)

    def lines(self) -> list[str]:
        """Return the comparison as aligned text."""
        heads = ("size", "GFLOP", "GB", "products", "memory", "launches", "predicted ms", "measured", "ratio")
        rows = [
            (
                str(p.size),
                f"{p.gflop:.2f}",
                f"{p.gigabytes:.2f}",
                *(f"{1000 * s:.1f}" for s in p.seconds),
                f"{p.ratio:.2f}",
            )
            for p in self.points
        ]
        widths = [max(len(r[i]) for r in (heads, *rows)) for i in range(len(heads))]
        table = [
            "  ".join(
                c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(r, widths, strict=True))
            )
            for r in (heads, *rows)
        ]
        speed = self.chip.bf16_flops * self.chip.float32_share / 1e9
        return [
            f"one core: {speed:.0f} GFLOP/s in products of {MATRIX} x {MATRIX}, float32;"
            f" {self.chip.memory_bandwidth / GB:.1f} GB/s in place over {4 * VECTOR // 2**20} MiB;"
            f" {1e6 * self.chip.launch_seconds:.1f} us for a small instruction",
            *table,
            f"measured / predicted: {self.factor:.2f} (geometric mean), each within a factor {self.spread:.2f} of that",
        ]


def check_model(config: Config, sizes: Sequence[Size], *, steps: int = 5) -> Check:
    """Measure one core, then every size's step, and predict it by the model that plans use.

    Times are processor time, so that neighbours on the machine count little. Raises ``Dis2Error`` off the CPU.
    """
    if jax.default_backend() != "cpu":
        raise Dis2Error("dis2 bench plan: it measures the CPU; set JAX_PLATFORMS=cpu")
    if steps < 1 or not sizes:
        raise Dis2Error("dis2 bench plan: at least one size and one step are needed")
    chip = measure_core()
    return Check(chip, tuple(_point(config, size, chip=chip, steps=steps) for size in sizes))


def measure_core() -> Chip:
    """Describe one core of this CPU as a chip: peak, bandwidth and launches by micro-benchmarks, best of several."""
    a = jnp.ones((MATRIX, MATRIX), jnp.float32)
    product = jax.jit(lambda a, b: a @ b)
    flops = 2 * MATRIX**3 / best_time(lambda: product(a, a), repeat=8)
    step = jax.jit(lambda x: x + 1.0, donate_argnums=0)
    state = {"x": jnp.zeros(VECTOR, jnp.float32)}

    def move() -> jax.Array:
        state["x"] = step(state["x"])
        return state["x"]

    bandwidth = 2 * 4 * VECTOR / best_time(move, repeat=8)
    pair = jnp.arange(2.0)
    launch = best_time(lambda: _sorts(pair), repeat=8) / CHAIN
    return Chip(
        name="core",
        platform="cpu",
        bf16_flops=flops,
        memory=0,
        memory_bandwidth=bandwidth,
        link_bandwidth=bandwidth,
        host_bandwidth=None,
        chips_per_host=1,
        launch_seconds=launch,
        float32_share=1.0,
        source="measured",
    )


@jax.jit
def _sorts(x: jax.Array) -> jax.Array:
    """Run ``CHAIN`` small instructions, of a kind that the compiler fuses with nothing."""
    for _ in range(CHAIN):
        x = jax.lax.sort(x)
    return x


def best_time(call: Callable[[], Any], *, repeat: int) -> float:
    """Least processor time of ``repeat`` calls, after one that warms up."""
    jax.block_until_ready(call())
    times = []
    for _ in range(repeat):
        start = time.process_time()
        jax.block_until_ready(call())
        times.append(time.process_time() - start)
    return min(times)


def _point(config: Config, size: Size, *, chip: Chip, steps: int) -> Point:
    values = config.to_dict()
    values["model"] |= {"width": size.width}
    values["data"] |= {"batch_size": size.batch}
    values["sharding"] |= {"strategy": "single", "axes": ""}
    config = Config.from_dict(values)
    tile = (size.tile, size.tile)
    card = random_card([("rgb", 3), ("ndsm", 1)], classes=5, tile=tile)
    compiled = compile_step(config, card, tile=tile, chip=chip, devices=jax.devices()[:1])
    placement = make_placement(config.sharding)
    model = build_model(config.model, card, tile=tile, remat=config.sharding.remat)
    optimizer = make_optimizer(config.optimizer, steps=config.train.steps)
    create = state_maker(model, optimizer, config)
    with active(placement), jax.default_prng_impl("unsafe_rbg"):
        state = [initializer(create, placement.shardings(jax.eval_shape(create)))()]
    data = put_batch(random_batch(card, config.data, tile=tile, batch=size.batch), placement.mesh)

    def step() -> Any:
        state[0], metrics = compiled.program(state[0], data)
        return state[0], metrics

    measured = best_time(step, repeat=steps)
    machine = Topology("cpu", chip, (1,))
    prediction = predict(compiled.facts, machine, global_batch=size.batch, dtype=config.model.dtype)
    return Point(size, measured, prediction, compiled.facts.flops / 1e9, compiled.facts.padded_bytes / 1e9)
