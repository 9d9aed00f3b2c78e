"""A model's functions as ONNX files, through jax2onnx.

The extra ``[onnx]`` holds what jax2onnx needs for this, not jax2onnx itself: 0.17.1 pins an orbax-checkpoint older
than ours, which it uses for none of what is called here. It is installed apart, without its requirements.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from dis2_jax.inference.export_function import flat_weights, probability_function
from dis2_jax.inference.export_stablehlo import Function
from dis2_jax.inference.model import Model
from dis2_jax.schema import Dis2Error, Scenario

OUTPUT = "probabilities"
INSTALL = "pip install -e '.[onnx]' && pip install --no-deps jax2onnx==0.17.1"


def require_onnx() -> tuple[Any, Any]:
    """Return the modules (jax2onnx, onnxruntime). Raises ``Dis2Error`` when they are not installed."""
    try:
        with _quiet():
            import jax2onnx
            import onnxruntime
    except ImportError as e:
        raise Dis2Error(
            f"ONNX needs a package that is not there ({e.name}): in the clone run `{INSTALL}`"
        ) from e
    return jax2onnx, onnxruntime


def in_float32(model: Model) -> Model:
    """Return the model with float32 arithmetic: ONNX Runtime has no bfloat16 convolution on CPUs."""
    return dataclasses.replace(model, network=model.network.clone(dtype=jnp.float32))


def write_onnx(
    model: Model, scenarios: Sequence[Scenario], folder: Path, *, tile: tuple[int, int]
) -> dict[str, Function]:
    """Write ``<scenario>.onnx`` to ``folder``: weights inside, inputs by modality name, any batch, fixed ``tile``.

    Height and width are fixed because jax2onnx 0.17 cannot trace symbolic ones through slices (the batch it can).
    """
    jax2onnx, _ = require_onnx()
    written = {}
    for scenario in scenarios:
        function, weights = probability_function(model, scenario), flat_weights(model)

        def positional(*images: Any, _names: tuple[str, ...] = scenario.available) -> Any:
            return function(weights, dict(zip(_names, images, strict=True)))  # noqa: B023 (traced at once)

        file = f"{scenario}.onnx"
        with _quiet():
            jax2onnx.to_onnx(
                positional,
                inputs=[("b", *tile, model.card.modality(m).channels) for m in scenario.available],
                input_names=list(scenario.available),
                output_names=[OUTPUT],
                model_name=str(scenario),
                return_mode="file",
                output_path=str(folder / file),
            )
        written[str(scenario)] = Function(scenario.available, file)
    return written


def run_onnx(path: Path, images: dict[str, np.ndarray]) -> np.ndarray:
    """Probabilities from one written file, on the CPU."""
    _, onnxruntime = require_onnx()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # unused initialisers are no news to the user
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    out: np.ndarray = session.run([OUTPUT], {m: np.asarray(x, np.float32) for m, x in images.items()})[0]
    return out


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Leave out warnings of onnx_ir about shapes, of jax2onnx about packages that are not there."""
    loggers = [logging.getLogger(name) for name in ("onnx_ir", "jax2onnx")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
