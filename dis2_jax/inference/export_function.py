"""The function that every export format holds: physical units in, class probabilities out, weights as an argument."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import flax.traverse_util
import jax
import numpy as np

from dis2_jax.data.normalize import statistics
from dis2_jax.inference.model import Model
from dis2_jax.schema import Scenario

Weights = Mapping[str, Any]
"""``'params/encoder_rgb/e1/kernel'`` -> array: the model's variables, flat."""
ProbabilityFunction = Callable[[Weights, Mapping[str, jax.Array]], jax.Array]


def flat_weights(model: Model) -> dict[str, np.ndarray]:
    """Return every variable of the model under its path, in the order in which jax flattens them (sorted)."""
    flat = flax.traverse_util.flatten_dict(dict(model.variables), sep="/")
    return {name: np.asarray(flat[name]) for name in sorted(flat)}


def probability_function(model: Model, scenario: Scenario) -> ProbabilityFunction:
    """Return ``f(weights, images)``: what ``model.predict_proba`` computes, without its checks, traceable.

    ``images[m]`` is float32 ``[B, H, W, C_m]`` in physical units, for the scenario's modalities only. The result
    is float32 ``[B, H, W, K]``. ``weights`` may lack what the scenario does not read.
    """

    def probabilities(weights: Weights, images: Mapping[str, jax.Array]) -> jax.Array:
        variables = flax.traverse_util.unflatten_dict(dict(weights), sep="/")
        ready = {m: _normalize(images[m], model, m) for m in scenario.available}
        out: Any = model.network.apply(variables, ready, scenario=scenario, method="predict")
        return out

    return probabilities


def weights_read(function: ProbabilityFunction, weights: Weights, images: Mapping[str, Any]) -> list[str]:
    """Names of the weights that the function's result can depend on, in order."""
    shapes = {name: jax.ShapeDtypeStruct(w.shape, w.dtype) for name, w in weights.items()}
    jaxpr = jax.make_jaxpr(function)(shapes, images).jaxpr
    read = {id(v) for equation in jaxpr.eqns for v in equation.invars}
    return [name for name, v in zip(weights, jaxpr.invars, strict=False) if id(v) in read]


def _normalize(x: jax.Array, model: Model, name: str) -> jax.Array:
    """The arithmetic of ``data.normalize``, in the same order, inside the function."""
    if model.normalization == "none":
        return x
    mean, std = statistics(model.card.modality(name))
    return (x - mean) * (np.float32(1) / std)
