"""``dis2 export``: a trained model as a folder that runs without this package."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import runpy
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np

from dis2_jax.evaluation.evaluate import check_size
from dis2_jax.files import whole_folder
from dis2_jax.inference import export_card
from dis2_jax.inference.export_onnx import in_float32, require_onnx, run_onnx, write_onnx
from dis2_jax.inference.export_stablehlo import RUNNER, Function, check_platforms, write_stablehlo
from dis2_jax.inference.model import Model, load
from dis2_jax.schema import Dis2Error, Modality, Scenario, nearest

Format = Literal["stablehlo", "onnx"]
VERIFIED_SHAPE = (2, 32, 48)
"""Batch, height, width on which a symbolic export is compared; not square, and not the training tile."""

BFLOAT16_TOLERANCE = 1e-2
"""bfloat16 keeps 8 bits: two compilations of one function round differently along the way."""


@dataclasses.dataclass(frozen=True)
class ExportOptions:
    """What to export, and how."""

    format: Format = "stablehlo"
    checkpoint: Literal["best", "last"] | int = "best"
    scenarios: tuple[str, ...] = ()
    """Written ``rgb+ndsm``; empty: all that the model answers."""
    tile: tuple[int, int] | None = None
    """Fixed (height, width); None: any multiples of 16, or the training tile where the size must be fixed."""
    platforms: tuple[str, ...] = ("cpu", "cuda", "tpu")
    """Where StableHLO functions can run."""
    tolerance: float | None = None
    """Greatest difference in probability to ``predict_proba``; None: ``tolerance_of``."""


@dataclasses.dataclass(frozen=True)
class Exported:
    """A finished export: bytes per file, and the greatest difference to ``predict_proba`` per scenario."""

    path: Path
    files: dict[str, int]
    tile: tuple[int, int] | None
    differences: dict[str, float]


def export_workdir(workdir: str | Path, out: str | Path, options: ExportOptions) -> Exported:
    """Write a run's model to the folder ``out`` and compare what was written with ``predict_proba``.

    ``out`` appears when the comparison has passed, in place of an older export if there is one, or not at all.

    Raises:
        Dis2Error: no checkpoint, an unknown scenario or platform, a tile that the model cannot read, an ``out``
            that is not an export, a disk that refuses, or a difference above the tolerance.
    """
    out = Path(out).expanduser().resolve()
    export_card.check_replaceable(out)
    if options.format not in get_args(Format):
        close = nearest(options.format, get_args(Format))
        raise Dis2Error(f"no format {options.format!r}{close}: one of {', '.join(get_args(Format))}")
    if options.format == "onnx":
        require_onnx()
    else:
        check_platforms(options.platforms)
    model = load(workdir, checkpoint=options.checkpoint)
    _check_dtype(model)
    scenarios = _chosen(model, options.scenarios)
    tile = _chosen_tile(model, options)
    with whole_folder(out) as folder:
        return _write(model, Path(workdir), folder, out, scenarios=scenarios, tile=tile, options=options)


def _write(
    model: Model,
    workdir: Path,
    folder: Path,
    out: Path,
    *,
    scenarios: Sequence[Scenario],
    tile: tuple[int, int] | None,
    options: ExportOptions,
) -> Exported:
    if options.format == "onnx":
        assert tile is not None
        model = in_float32(model)
        functions = write_onnx(model, scenarios, folder, tile=tile)
    else:
        functions = write_stablehlo(model, scenarios, folder, tile=tile, platforms=options.platforms)
    files = export_card.digests(folder)
    card = {
        "kind": options.format,
        **export_card.describe_model(model),
        "tile": export_card.describe_tile(model, tile),
        "functions": {name: _entry(function) for name, function in functions.items()},
        **_versions(options),
        "origin": export_card.describe_origin(model, workdir),
        "files": files,
    }
    export_card.write_card(folder, card)  # the runner reads it
    tolerance = tolerance_of(options.format, model) if options.tolerance is None else options.tolerance
    shape = (VERIFIED_SHAPE[0], *(tile or VERIFIED_SHAPE[1:]))
    differences = {
        str(s): _difference(model, s, _predictor(folder, options.format, functions), shape=shape)
        for s in scenarios
    }
    for name, difference in differences.items():
        if not difference <= tolerance:
            raise Dis2Error(
                f"{name}: the exported function differs from predict_proba by {difference:.1e}, more than"
                f" {tolerance:.0e}: nothing was written to {out}; a fixed --tile comes nearer, or set --tolerance"
            )
    verified = {"shape": list(shape), "tolerance": tolerance, "greatest_difference": differences}
    export_card.write_card(folder, {**card, "verified": verified})
    sizes = {name: int(entry["bytes"]) for name, entry in files.items()}
    card_size = (folder / export_card.CARD).stat().st_size
    return Exported(out, {export_card.CARD: card_size, **sizes}, tile, differences)


def tolerance_of(format: Format, model: Model) -> float:
    """Greatest difference in probability that an export may show to ``predict_proba``."""
    if model.network.dtype == jnp.bfloat16:
        return BFLOAT16_TOLERANCE
    return 1e-4 if format == "onnx" else 1e-5


def _predictor(
    folder: Path, format: Format, functions: Mapping[str, Function]
) -> Callable[[dict[str, np.ndarray]], np.ndarray]:
    """Return what a user of the folder has: its ``run.py``, or ONNX Runtime."""
    if format == "stablehlo":
        predict: Callable[[dict[str, np.ndarray]], np.ndarray] = runpy.run_path(str(folder / RUNNER))[
            "predict"
        ]
        return predict
    return lambda images: run_onnx(folder / functions["+".join(images)].file, images)


def _difference(
    model: Model, scenario: Scenario, predict: Callable[..., np.ndarray], *, shape: tuple[int, int, int]
) -> float:
    """Greatest absolute difference over a random batch in physical units."""
    g = np.random.default_rng(0)
    images = {m: _sample(g, model.card.modality(m), shape) for m in scenario.available}
    return float(np.abs(predict(images) - model.predict_proba(images)).max())


def _sample(g: np.random.Generator, modality: Modality, shape: tuple[int, int, int]) -> np.ndarray:
    """Noise with the modality's mean and deviation, float32 ``[B, H, W, C]``."""
    noise = g.standard_normal((*shape, modality.channels))
    if len(modality.mean) == len(modality.std) == modality.channels:
        noise = noise * modality.std + modality.mean
    return noise.astype(np.float32)


def _entry(function: Function) -> dict[str, Any]:
    entry = {
        "modalities": list(function.modalities),
        "file": function.file,
        "calling_convention_version": function.calling_convention,
        "weights": list(function.weights),
    }
    return {key: value for key, value in entry.items() if value}


def _versions(options: ExportOptions) -> dict[str, Any]:
    """What wrote the export, and the oldest jax that reads it."""
    if options.format == "onnx":
        names = ("jax", "jax2onnx", "onnx", "onnxruntime")
        return {"written_with": {name: importlib.metadata.version(name) for name in names}}
    written = {"jax": jax.__version__, "platforms": list(options.platforms)}
    return {"written_with": written, "needs_jax": list(jax.__version_info__)}


def _chosen(model: Model, texts: Sequence[str]) -> tuple[Scenario, ...]:
    """Parse the wanted scenarios; all of them when none is named."""
    chosen = []
    for text in texts:
        scenario = Scenario.parse(text, model.modalities)
        if scenario not in model.scenarios:
            known = [str(s) for s in model.scenarios]
            raise Dis2Error(
                f"the model has no branch for {scenario}{nearest(str(scenario), known)}; it answers {', '.join(known)}"
            )
        chosen.append(scenario)
    return tuple(dict.fromkeys(chosen)) or model.scenarios


def _chosen_tile(model: Model, options: ExportOptions) -> tuple[int, int] | None:
    """Return the wanted tile, checked; the training tile where the size must be fixed; else None."""
    tile = options.tile
    if tile is None and (model.network.position == "table" or options.format == "onnx"):
        tile = model.network.tile
    if tile is not None:
        check_size(model.network, tile)
    return tile


def _check_dtype(model: Model) -> None:
    if model.network.dtype not in (jnp.float32, jnp.bfloat16):
        raise Dis2Error(
            f"the model computes in {jnp.dtype(model.network.dtype)}: exports are float32 or bfloat16"
        )
