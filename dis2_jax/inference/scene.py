"""Predict a whole scene: strip by strip into files beside the output, then all of it into place at once.

Memory does not grow with the scene: it is done in panels of columns, and a panel in strips of rows.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import jax
import numpy as np

import dis2_jax
from dis2_jax.evaluation.evaluate import check_size
from dis2_jax.inference import beside, journal, products
from dis2_jax.inference.assemble import assemble
from dis2_jax.inference.blend import Strip
from dis2_jax.inference.engine import Engine, default_batch, pick_device
from dis2_jax.inference.grid import SceneGrid
from dis2_jax.inference.inputs import ModalityFile, Scene, file_identity, open_scene
from dis2_jax.inference.outputs import strip_bytes
from dis2_jax.inference.strips import OnWindows, Progress, StripPredictor
from dis2_jax.inference.vector import Simplify, check_grid
from dis2_jax.schema import Dis2Error

if TYPE_CHECKING:
    from dis2_jax.inference.model import Model

OnNote = Callable[[str], None]
"""Called with each note."""
PANEL_BYTES = 256 * 2**20
"""What the rows held at a time may take; panels are made narrow enough."""
GDAL_CACHE_BYTES = 128 * 2**20
"""GDAL keeps decoded blocks in there (rasterio counts in bytes, GDAL alone in megabytes)."""
MAX_MISSING = 0.5
"""Best or near it under clouds of 8 to 64 px radius on the synthetic city (64-px windows; README)."""


@dataclasses.dataclass(frozen=True)
class SceneOptions:
    """How a scene is predicted. None: what suits the model."""

    window: tuple[int, int] | None = None
    """Height, width; default: the tile that the model was trained on."""
    overlap: int | None = None
    """Pixels that neighbouring windows share; default: a quarter of the shorter side."""
    batch: int | None = None
    """Windows per call of the device; changes the speed, never a bit of the answer."""
    max_missing: float = MAX_MISSING
    """A modality that is missing in a larger share of a window counts as absent there."""
    reference: str | None = None
    """Modality whose grid the map has; default: the first one given."""
    device: str | None = None
    """``cpu``, ``gpu``, ``tpu``, ``gpu:1``."""
    simplify: Simplify | None = None
    """Outlines of polygons; default: along the pixels."""

    def __post_init__(self) -> None:
        if not 0 <= self.max_missing < 1:
            raise Dis2Error(f"--max-missing {self.max_missing}: a share from 0 to below 1")
        if self.batch is not None and self.batch < 1:
            raise Dis2Error(f"--batch {self.batch}: it must be at least 1")


@dataclasses.dataclass(frozen=True)
class SceneResult:
    """What was written. Nodata pixels are in no count."""

    paths: Mapping[str, Path]
    """By product (``products.PRODUCTS``)."""
    size: tuple[int, int]
    class_pixels: Mapping[str, int]
    scenario_pixels: Mapping[str, int]
    windows: int
    seconds: float
    notes: tuple[str, ...]


def predict_scene(
    model: Model,
    files: Mapping[str, ModalityFile],
    paths: Mapping[str, Path],
    options: SceneOptions,
    *,
    on_windows: OnWindows | None = None,
    on_note: OnNote | None = None,
) -> SceneResult:
    """Write the map of a scene, and whatever else ``paths`` (``products.output_paths``) asks for.

    ``on_note`` hears each of the result's notes as soon as there is one: doubts about the input before the work.

    Raises:
        Dis2Error: files, options or a set of modalities that cannot be; a damaged file; a disk that is full or
            cannot be written. Older files at ``paths`` are then as they were.
    """
    import rasterio

    started = time.monotonic()
    model.scenario_of(files)
    _check_outputs(files, paths)
    beside.check(paths)
    window = options.window or model.network.tile
    check_size(model.network, window, what="--window")
    cache = rasterio.Env(GDAL_CACHEMAX=GDAL_CACHE_BYTES)
    with cache, open_scene(files, model.card, reference=options.reference) as scene:
        if "vector" in paths:
            check_grid(scene.grid, paths["vector"], simplify=options.simplify)
        predictor = StripPredictor(
            model,
            scene,
            _grid(model, scene, window, options),
            _engine(model, scene, window, options),
            options.max_missing,
        )
        with journal.opened(paths["map"], run_fingerprint(model, files, paths, options)) as done:
            notes = _Notes(on_note)
            notes.add(_before(scene, done))
            _finish_strips(predictor, done, paths, on_windows)
            result = _result(predictor, done, paths)
            if not sum(result.class_pixels.values()):
                notes.add(["nothing could be answered: the map is all nodata"])
            notes.add(assemble(predictor, done, paths, result, simplify=options.simplify))
    seconds = time.monotonic() - started
    return dataclasses.replace(result, seconds=seconds, notes=tuple(notes.texts))


class _Notes:
    """Collects lines for the user, and passes each on at once."""

    def __init__(self, tell: OnNote | None) -> None:
        self.texts: list[str] = []
        self._tell = tell

    def add(self, texts: Iterable[str]) -> None:
        for text in texts:
            self.texts.append(text)
            if self._tell is not None:
                self._tell(text)


def run_fingerprint(
    model: Model, files: Mapping[str, ModalityFile], paths: Mapping[str, Path], options: SceneOptions
) -> str:
    """Digest of everything that decides the bytes of the outputs; not the batch, which does not."""
    decides = {
        "version": dis2_jax.__version__,
        "jax": jax.__version__,
        "device": pick_device(options.device).device_kind,
        "model": model.fingerprint,
        "files": {m: file_identity(f) for m, f in files.items()},
        "products": sorted(paths),
        "options": dataclasses.asdict(dataclasses.replace(options, batch=None, device=None)),
    }
    return hashlib.blake2b(json.dumps(decides).encode(), digest_size=16).hexdigest()


def _check_outputs(files: Mapping[str, ModalityFile], paths: Mapping[str, Path]) -> None:
    """Refuse what would overwrite an input or cannot be made, before any work."""
    inputs = {f.path.resolve(): m for m, f in files.items()}
    for path in paths.values():
        if path.resolve() in inputs:
            owner = inputs[path.resolve()]
            raise Dis2Error(f"{path} is the input of {owner!r}: choose another name for the output")
        if path.is_dir():
            raise Dis2Error(f"--out {path} is a folder: name a file in it, such as {path / 'map.tif'}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as e:
            raise journal.OutputError(
                f"{path.parent} cannot be made ({e.strerror}): choose another --out"
            ) from e


def _engine(model: Model, scene: Scene, window: tuple[int, int], options: SceneOptions) -> Engine:
    channels = sum(s.modality.channels for s in scene.sources.values())
    batch = options.batch or default_batch(window, channels=channels, classes=len(model.classes))
    device = pick_device(options.device)
    return Engine(model.network, model.variables, window=window, batch=batch, device=device)


def _grid(model: Model, scene: Scene, window: tuple[int, int], options: SceneOptions) -> SceneGrid:
    overlap = min(window) // 4 if options.overlap is None else options.overlap
    planes = 4 * (3 * len(model.classes) + len(model.scenarios) + 2)  # sums, and what a strip is made of
    per_column = window[0] * (planes + scene.bytes_per_pixel)
    limit = PANEL_BYTES // per_column
    return SceneGrid.of(scene.grid.size, window=window, overlap=overlap, max_columns=limit)


def _before(scene: Scene, done: journal.Journal) -> list[str]:
    notes = list(scene.notes)
    if done.started_over:
        notes.append("started over: the unfinished run that was there had another model, input or options")
    if done.facts:
        notes.append(f"goes on after {len(done.facts)} finished strips of an earlier run")
    return notes


def _finish_strips(
    predictor: StripPredictor,
    done: journal.Journal,
    paths: Mapping[str, Path],
    on_windows: OnWindows | None,
) -> None:
    """Predict and store every strip that the journal lacks."""
    model = predictor.model
    rasters = [
        products.product(n, model.card.legend, model.scenarios) for n in paths if n in products.RASTERS
    ]
    strips = range(len(predictor.grid.rows.starts))
    progress = Progress(predictor.grid.count, on_windows)
    for i, panel in enumerate(predictor.grid.panels):
        lacking = [s for s in strips if (i, s) not in done.facts]
        progress.add((len(strips) - len(lacking)) * len(panel.starts))
        for first, end in _runs(lacking):
            for s, strip in predictor.strips(panel, first, end, progress):
                files = {p.name: strip_bytes(products.values(strip, p.name), p) for p in rasters}
                done.add((i, s), files, _facts(strip, model))


def _runs(numbers: list[int]) -> list[tuple[int, int]]:
    """Runs of consecutive ascending numbers as [first, end)."""
    runs: list[tuple[int, int]] = []
    for n in numbers:
        if runs and runs[-1][1] == n:
            runs[-1] = (runs[-1][0], n + 1)
        else:
            runs.append((n, n + 1))
    return runs


def _facts(strip: Strip, model: Model) -> dict[str, dict[str, int]]:
    """Pixels per class and per scenario."""
    classes = np.bincount(strip.classes.ravel(), minlength=256)
    scenarios = np.bincount(strip.scenario.ravel(), minlength=256)
    return {
        "classes": {c: int(n) for c, n in zip(model.classes, classes, strict=False)},
        "scenarios": {str(s): int(n) for s, n in zip(model.scenarios, scenarios, strict=False)},
    }


def _result(predictor: StripPredictor, done: journal.Journal, paths: Mapping[str, Path]) -> SceneResult:
    """Add up what the journal noted."""
    classes: Counter[str] = Counter()
    scenarios: Counter[str] = Counter()
    for facts in done.facts.values():
        classes.update(facts["classes"])
        scenarios.update(facts["scenarios"])
    return SceneResult(
        paths=dict(paths),
        size=predictor.scene.grid.size,
        class_pixels={c: classes[c] for c in predictor.model.classes},
        scenario_pixels={str(s): scenarios[str(s)] for s in predictor.model.scenarios},
        windows=predictor.grid.count,
        seconds=0.0,
        notes=(),
    )
