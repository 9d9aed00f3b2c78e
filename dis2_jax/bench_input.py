"""How fast the input pipeline of a config is: alone, stage by stage, and against a step of a given time."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import multiprocessing
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
import psutil

from dis2_jax.config import Config
from dis2_jax.data.augment import crop_size
from dis2_jax.data.batch import Rows
from dis2_jax.data.opening import open_tiles
from dis2_jax.data.pipeline import draw_order, open_train_stream, train_batch
from dis2_jax.data.samples import Draw, TrainBatch, seeded
from dis2_jax.data.source import TileSource
from dis2_jax.data.stream import PREFETCH, TrainStream
from dis2_jax.data.tileset import StoredTile, TileSet
from dis2_jax.schema import DatasetCard, Dis2Error
from dis2_jax.sharding.mesh import check_batch_size, data_mesh, put_batch
from dis2_jax.training.prefetch import device_prefetch


@dataclasses.dataclass(frozen=True)
class StageFigures:
    """One stage by itself on one thread: milliseconds per tile, wall clock and CPU."""

    wall_ms: float
    cpu_ms: float


@dataclasses.dataclass(frozen=True)
class InputBench:
    """What one measurement found. MB are 10^6 bytes of decoded rasters as they are stored (uint8 as one byte)."""

    dataset: str
    batch: int
    workers: int
    augment: str
    tile: tuple[int, int]
    crop: tuple[int, int]
    tile_mb: float
    record_mb: float | None
    """On disk; None where tiles are not records."""
    stages: dict[str, StageFigures]
    bare_tiles_per_second: float
    """A loop on one thread that only reads and decodes."""
    bare_cpu_ms: float
    """Its CPU time per tile."""
    tiles_per_second: float
    """Of the pipeline, with nobody else to wait for."""
    cpu_ms: float
    """CPU time of the pipeline per tile, all threads and processes."""
    step_ms: float | None
    stall: float | None
    """Share of the time that a step of ``step_ms`` would wait for its batch, measured."""
    cores: float | None
    """Cores that the pipeline needs per accelerator with this step time."""

    @property
    def mb_per_second(self) -> float:
        """Decoded MB/s of the pipeline."""
        return self.tiles_per_second * self.tile_mb

    def lines(self) -> list[str]:
        """Return the measurement as aligned text."""
        size, crop = (f"{h} x {w}" for h, w in (self.tile, self.crop))
        record = "" if self.record_mb is None else f", {self.record_mb:.2f} MB on disk"
        readers = f"{self.workers} reader processes" if self.workers else "threads of this process"
        rows = [
            ("dataset", f"{self.dataset}: tiles of {size} px, {self.tile_mb:.2f} MB decoded{record}"),
            ("samples", f"{crop} px, batch {self.batch}, augmented on the {self.augment}"),
            ("by", readers),
            *(
                (name, f"{s.cpu_ms:8.2f} ms per tile of CPU on one thread ({s.wall_ms:.2f} by the clock)")
                for name, s in self.stages.items()
            ),
            ("bare", f"{self.bare_tiles_per_second:8.1f} tiles/s only read and decoded, one thread"),
            ("pipeline", f"{self.tiles_per_second:8.1f} tiles/s, {self.mb_per_second:.0f} MB/s"),
            ("cpu", f"{self.cpu_ms:8.2f} ms per tile in all; {self.cpu_ms / self.bare_cpu_ms:.2f} x bare"),
        ]
        if self.step_ms is not None and self.stall is not None and self.cores is not None:
            rows.append(("step", f"{self.step_ms:8.1f} ms waits {100 * self.stall:.1f} % of the time"))
            rows.append(("cores", f"{self.cores:8.2f} per accelerator keep up with that step"))
        return [f"{name:9} {text}" for name, text in rows]


def bench_input(config: Config, *, step_ms: float | None = None, seconds: float = 10.0) -> InputBench:
    """Run the training input of ``config`` on this machine, about ``seconds`` per measurement.

    Raises ``Dis2Error`` for a dataset that cannot be read, or values that cannot be measured.
    """
    if seconds <= 0 or (step_ms is not None and step_ms <= 0):
        raise Dis2Error(f"bench: seconds = {seconds}, step = {step_ms} ms: both must be above 0")
    if not config.data.dir:
        raise Dis2Error("config data.dir is empty: give --config.data.dir=DIR, a prepared dataset")
    mesh = data_mesh()
    check_batch_size(config.data.batch_size, mesh)
    data, seed = config.data, config.train.seed
    card = DatasetCard.load(data.dir).select(data.modalities)
    source = open_tiles(data.dir, data.train_split, card, kind=data.source)
    numbers = draw_order(source.draws, seed=seed, samples=data.samples_per_epoch).random_map(seeded)
    draws = itertools.cycle(numbers[i] for i in range(min(len(numbers), 4096)))
    make = train_batch(source, card, dataclasses.replace(data, workers=0))
    put = functools.partial(put_batch, mesh=mesh)
    stages, tile = _stages(source, make, draws, put, batch=data.batch_size, seconds=seconds)
    bare, bare_cpu = _bare(source, draws, seconds=seconds)
    with open_train_stream(data.dir, card, data, seed=seed) as stream:
        speed, cpu = _speed(stream, batch=data.batch_size, seconds=seconds)
        stall = None if step_ms is None else _stall(stream, put, step_ms=step_ms, seconds=seconds)
    cpu_ms = 1000 * cpu
    return InputBench(
        dataset=str(data.dir),
        batch=data.batch_size,
        workers=data.workers,
        augment=data.augment,
        tile=card.tile,
        crop=crop_size(data, card.tile),
        tile_mb=_tile_bytes(tile) / 1e6,
        record_mb=_record_mb(source),
        stages=stages,
        bare_tiles_per_second=bare,
        bare_cpu_ms=1000 * bare_cpu,
        tiles_per_second=speed,
        cpu_ms=cpu_ms,
        step_ms=step_ms,
        stall=stall,
        cores=None if step_ms is None else cpu_ms * data.batch_size / mesh.size / step_ms,
    )


class _Clock:
    """Adds up wall and CPU time of one thread."""

    def __init__(self) -> None:
        self.wall = self.cpu = 0.0
        self.tiles = 0

    def time(self, call: Callable[[], Any], *, tiles: int = 1) -> Any:
        wall, cpu = time.perf_counter(), time.thread_time()
        result = call()
        self.cpu += time.thread_time() - cpu
        self.wall += time.perf_counter() - wall
        self.tiles += tiles
        return result

    def figures(self) -> StageFigures:
        return StageFigures(1000 * self.wall / self.tiles, 1000 * self.cpu / self.tiles)


def _stages(
    source: TileSet,
    make: TrainBatch,
    draws: Iterator[Draw],
    put: Callable[[Any], Any],
    *,
    batch: int,
    seconds: float,
) -> tuple[dict[str, StageFigures], StoredTile]:
    """Time each stage by itself. Scenes and mixtures read and decode in one."""
    split = isinstance(source, TileSource)
    clocks = {name: _Clock() for name in ("read", "decode", "augment", "batch", "transfer")}
    rows = make.empty(batch)
    _touch(rows)
    until = time.perf_counter() + seconds
    while time.perf_counter() < until or not clocks["transfer"].tiles:
        for i in range(batch):
            draw = next(draws)
            rng = np.random.default_rng(draw.seed)
            if isinstance(source, TileSource):
                data = clocks["read"].time(functools.partial(source.read, draw.number))
                tile = clocks["decode"].time(functools.partial(source.decode, draw.number, data))
            else:
                tile = clocks["read"].time(functools.partial(source.draw, draw.number, rng))
            clocks["augment"].time(functools.partial(make.put, rows, i, tile, rng))
        clocks["batch"].time(lambda: _touch(make.empty(batch)), tiles=batch)
        sent = {k: v for k, v in rows.items() if k not in ("skipped", "valid", "index")}
        clocks["transfer"].time(functools.partial(_send, put, sent), tiles=batch)
    if not split:
        clocks["read+decode"] = clocks.pop("read")
        del clocks["decode"]
    order = ("read", "decode", "read+decode", "augment", "batch", "transfer")
    return {name: clocks[name].figures() for name in order if name in clocks}, tile


def _send(put: Callable[[Any], Any], batch: Any) -> Any:
    return jax.block_until_ready(put(batch))


def _touch(rows: Rows) -> None:
    """Write every page once: the system gives memory out only then."""
    for x in jax.tree.leaves({k: v for k, v in rows.items() if k != "skipped"}):
        x.fill(0)


def _bare(source: TileSet, draws: Iterator[Draw], *, seconds: float) -> tuple[float, float]:
    """Tiles/s and CPU seconds per tile of a loop that only reads and decodes."""
    clock = _Clock()
    until = time.perf_counter() + seconds
    while time.perf_counter() < until or not clock.tiles:
        draw = next(draws)
        rng = np.random.default_rng(draw.seed)
        clock.time(functools.partial(source.draw, draw.number, rng))
    return clock.tiles / clock.wall, clock.cpu / clock.tiles


def _speed(stream: TrainStream, *, batch: int, seconds: float) -> tuple[float, float]:
    """Tiles/s and CPU seconds per tile of the pipeline, once what was made ahead is used up."""
    _drain(stream)
    started, cpu, taken = time.perf_counter(), _cpu_seconds(), 0
    while time.perf_counter() < started + seconds or not taken:
        next(stream)
        taken += 1
    tiles = taken * batch
    return tiles / (time.perf_counter() - started), (_cpu_seconds() - cpu) / tiles


def _stall(stream: TrainStream, put: Callable[[Any], Any], *, step_ms: float, seconds: float) -> float:
    """Share of the time that steps wait, which themselves sleep as long as an accelerator would work."""
    waited, steps = 0.0, 0

    def to_device(batch: Any) -> Any:
        return _send(put, {k: v for k, v in batch.items() if k not in ("valid", "index")})

    with device_prefetch(stream, to_device) as batches:
        for _ in range(2 * PREFETCH):
            next(batches)
            time.sleep(step_ms / 1000)
        started = time.perf_counter()
        while time.perf_counter() < started + seconds or not steps:
            asked = time.perf_counter()
            next(batches)
            waited += time.perf_counter() - asked
            time.sleep(step_ms / 1000)
            steps += 1
        return waited / (time.perf_counter() - started)


def _drain(stream: TrainStream) -> None:
    for _ in range(2 * PREFETCH):
        next(stream)


def _cpu_seconds() -> float:
    """Of this process and its reader processes so far."""
    pids = [p.pid for p in multiprocessing.active_children() if p.pid is not None]
    times = [psutil.Process(pid).cpu_times() for pid in pids]
    return time.process_time() + sum(t.user + t.system for t in times)


def _tile_bytes(tile: StoredTile) -> int:
    return sum(x.nbytes for x in (*tile["image"].values(), tile["label"]))


def _record_mb(source: TileSet) -> float | None:
    if not isinstance(source, TileSource):
        return None
    return float(np.mean([len(source.read(i)) for i in range(min(16, len(source)))])) / 1e6
