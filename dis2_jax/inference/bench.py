"""How fast whole scenes are predicted: a random scene through all of ``dis2 predict``, and the network alone."""

from __future__ import annotations

import dataclasses
import tempfile
import time
from pathlib import Path

import jax
import numpy as np

from dis2_jax.bench import mib, peak_memory
from dis2_jax.inference.engine import Engine, default_batch, pick_device
from dis2_jax.inference.inputs import ModalityFile
from dis2_jax.inference.model import Model
from dis2_jax.inference.products import output_paths
from dis2_jax.inference.scene import SceneOptions, SceneResult, predict_scene
from dis2_jax.schema import Dis2Error, Modality, Scenario

_CALLS = 5


@dataclasses.dataclass(frozen=True)
class PredictBench:
    """What one measurement found. Times are wall clock, memory is in bytes."""

    device: str
    jax_version: str
    scenario: str
    window: tuple[int, int]
    overlap: int
    batch: int
    size: tuple[int, int]
    windows: int
    compile_seconds: float
    """Up to the first answer; short where the persistent cache knows the program."""
    scene_seconds: float
    """Reading, predicting, blending and writing the class map, compiled already."""
    megapixels_per_second: float
    """Of the scene, overlaps counted once."""
    network_megapixels_per_second: float
    """Of windows through the network alone, transfers included."""
    peak_memory: int
    peak_memory_source: str

    def lines(self) -> list[str]:
        """Return the measurement as aligned text."""
        h, w = self.window
        rows = [
            ("device", f"{self.device}, jax {self.jax_version}"),
            ("branch", self.scenario),
            ("windows", f"{self.windows} of {h} x {w} px, overlap {self.overlap}, {self.batch} per call"),
            ("compile", f"{self.compile_seconds:.1f} s"),
            ("scene", f"{self.size[0]} x {self.size[1]} px in {self.scene_seconds:.2f} s"),
            ("speed", f"{self.megapixels_per_second:.3f} megapixels/s"),
            ("network", f"{self.network_megapixels_per_second:.3f} megapixels/s of windows"),
            ("memory", f"{mib(self.peak_memory)} peak ({self.peak_memory_source})"),
        ]
        return [f"{name:8} {text}" for name, text in rows]


def bench_predict(model: Model, options: SceneOptions, *, side: int, scenario: Scenario) -> PredictBench:
    """Predict a random square scene of ``side`` pixels. Raises ``Dis2Error`` for options that cannot be."""
    if side < 1:
        raise Dis2Error(f"--size {side}: it must be at least 1")
    window = options.window or model.network.tile
    modalities = [model.card.modality(m) for m in scenario.available]
    channels = sum(m.channels for m in modalities)
    batch = options.batch or default_batch(window, channels=channels, classes=len(model.classes))
    device = pick_device(options.device)
    options = dataclasses.replace(options, window=window, batch=batch)
    with tempfile.TemporaryDirectory(prefix="dis2_bench_") as temporary:
        folder = Path(temporary)
        started = time.perf_counter()
        _predict(model, modalities, options, side=min(side, min(window)), folder=folder)
        compile_seconds = time.perf_counter() - started
        result = _predict(model, modalities, options, side=side, folder=folder)
    engine = Engine(model.network, model.variables, window=window, batch=batch, device=device)
    network_seconds = _network_seconds(engine, scenario, modalities)
    memory, source = peak_memory()
    overlap = min(window) // 4 if options.overlap is None else options.overlap
    return PredictBench(
        device=device.device_kind,
        jax_version=jax.__version__,
        scenario=str(scenario),
        window=window,
        overlap=overlap,
        batch=batch,
        size=(side, side),
        windows=result.windows,
        compile_seconds=compile_seconds,
        scene_seconds=result.seconds,
        megapixels_per_second=side * side / 1e6 / result.seconds,
        network_megapixels_per_second=batch * window[0] * window[1] / 1e6 / network_seconds,
        peak_memory=memory,
        peak_memory_source=source,
    )


def _predict(
    model: Model, modalities: list[Modality], options: SceneOptions, *, side: int, folder: Path
) -> SceneResult:
    files = {m.name: ModalityFile(_random_file(m, side, folder)) for m in modalities}
    return predict_scene(model, files, output_paths(folder / "map.tif", {}), options)


def _random_file(modality: Modality, side: int, folder: Path) -> Path:
    """Normal numbers around the card's statistics, uncompressed and tiled."""
    import rasterio

    path = folder / f"{modality.name}.tif"
    generator = np.random.default_rng(0)
    profile = {"driver": "GTiff", "height": side, "width": side, "count": modality.channels}
    profile |= {"dtype": "float32", "crs": "EPSG:32633", "transform": rasterio.Affine(1, 0, 5e5, 0, -1, 5e6)}
    with rasterio.open(path, "w", tiled=True, **profile) as f:
        for band in range(modality.channels):
            mean = modality.mean[band] if modality.mean else 0.0
            std = modality.std[band] if modality.std else 1.0
            f.write(generator.normal(mean, std, (side, side)).astype(np.float32), band + 1)
    return path


def _network_seconds(engine: Engine, scenario: Scenario, modalities: list[Modality]) -> float:
    """Fastest of some calls with a full batch of zeros."""
    window = {m.name: np.zeros((*engine.window, m.channels), np.float32) for m in modalities}
    found = []
    for _ in range(_CALLS):
        started = time.perf_counter()
        engine.finish(engine.start(scenario, [window] * engine.batch), engine.batch)
        found.append(time.perf_counter() - started)
    return min(found)
