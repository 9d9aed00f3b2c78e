"""Floating-point operations of a traced function's matrix products and convolutions, before any compiler."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np


def count_flops(jaxpr: Any) -> float:
    """Count multiplications and additions of a ``jaxpr``, over all devices.

    Products with the zeros of padding or dilation are none, as in XLA's count. Elementwise work is left out (it does
    not run on matrix units). Loops count as often as they run, of a conditional's branches the dearest; what a
    ``shard_map`` does, once for every part that its arrays are cut into.
    """
    return sum(_equation(e) for e in jaxpr.eqns)


def _equation(equation: Any) -> float:
    name = equation.primitive.name
    if name == "dot_general":
        return _dot(equation)
    if name == "conv_general_dilated":
        return _convolution(equation)
    inner = [count_flops(j) for j in _inner(equation.params)]
    if name == "cond":
        return max(inner, default=0.0)
    return sum(inner) * _times(equation)


def _times(equation: Any) -> int:
    """How often what is inside of an equation is done."""
    p = equation.params
    if equation.primitive.name == "scan":
        return int(p["length"])
    if equation.primitive.name == "shard_map":
        # Devices along other axes of the mesh repeat the work: it is not more of it.
        dims = [dim for spec in (*p["in_specs"], *p["out_specs"]) for dim in spec if dim is not None]
        axes = {axis for dim in dims for axis in ((dim,) if isinstance(dim, str) else dim)}
        return math.prod(p["mesh"].shape[axis] for axis in axes)
    return 1


def _inner(parameters: Any) -> Iterator[Any]:
    for value in parameters.values():
        for item in value if isinstance(value, (tuple, list)) else (value,):
            if hasattr(item, "eqns"):
                yield item
            elif hasattr(item, "jaxpr") and hasattr(item.jaxpr, "eqns"):
                yield item.jaxpr


def _dot(equation: Any) -> float:
    (contracted, _), _ = equation.params["dimension_numbers"]
    left = equation.invars[0].aval.shape
    return 2.0 * math.prod(equation.outvars[0].aval.shape) * math.prod(left[i] for i in contracted)


def _convolution(equation: Any) -> float:
    p = equation.params
    numbers = p["dimension_numbers"]
    left, kernel = (v.aval.shape for v in equation.invars)
    out = equation.outvars[0].aval.shape
    pairs = 1.0
    for i, (of_left, of_kernel, of_out) in enumerate(
        zip(numbers.lhs_spec[2:], numbers.rhs_spec[2:], numbers.out_spec[2:], strict=True)
    ):
        pairs *= _pairs(
            left[of_left],
            kernel[of_kernel],
            out[of_out],
            stride=p["window_strides"][i],
            padding=p["padding"][i],
            dilation=(p["lhs_dilation"][i], p["rhs_dilation"][i]),
        )
    batch, features = out[numbers.out_spec[0]], out[numbers.out_spec[1]]
    inputs = kernel[numbers.rhs_spec[1]]  # per group
    return 2.0 * batch * features * inputs * pairs / p["batch_group_count"]


def _pairs(
    size: int, kernel: int, out: int, *, stride: int, padding: Sequence[int], dilation: tuple[int, int]
) -> int:
    """(output position, kernel position) pairs along one dimension that meet an element of the input."""
    inside, apart = dilation
    at = np.arange(out)[:, None] * stride + np.arange(kernel)[None] * apart - padding[0]
    return int(((at >= 0) & (at % inside == 0) & (at < (size - 1) * inside + 1)).sum())
