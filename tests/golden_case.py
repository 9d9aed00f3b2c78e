"""A golden pair (``<prefix>.json`` + ``<prefix>.npz``): what the published model computes under a known fill."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from dis2_jax.config import LossConfig
from dis2_jax.interop.names import PUBLISHED, to_variables, unused_shapes
from dis2_jax.models.dis2 import DIS2
from dis2_jax.schema import Scenario

RELEASED = LossConfig(
    cross_entropy="released",
    dice="released",
    distill_reduction="mean",
    distillation=5.0,
    orthogonality=1.0,
    side=1.0,
)
CASES = {"missing_ndsm": Scenario(("rgb",)), "missing_rgb": Scenario(("ndsm",))}


def prefix() -> Path:
    """``DIS2_GOLDEN`` names another pair; the committed one holds every fourth pixel of dis2_w8's maps."""
    return Path(os.environ.get("DIS2_GOLDEN", Path(__file__).parent / "golden" / "dis2_w8"))


@dataclasses.dataclass(frozen=True)
class Golden:
    """The file's contents, and the model, variables and inputs that they were computed with (float64)."""

    numbers: dict[str, Any]
    maps: dict[str, np.ndarray]

    def model(self, dtype: str) -> DIS2:
        n = self.numbers
        return DIS2(
            modalities=tuple(zip(PUBLISHED, n["channels"], strict=True)),
            num_classes=n["num_classes"],
            students=tuple(s.available for s in CASES.values()),
            tile=tuple(n["size"]),
            width=n["width"],
            dropout=0.0,
            dtype=np.dtype(dtype),
        )

    def variables(self) -> dict[str, Any]:
        model = self.model("float64")
        names = [n for n in self.numbers["params"] if n not in unused_shapes(model)]
        filled = {n: fill(f"{self.numbers['salt']}/{n}", n, self.numbers["params"][n]) for n in names}
        return to_variables(filled, model=model)

    def inputs(self) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Images ``[B, H, W, C]`` and labels ``[B, H, W]``."""
        n = self.numbers
        (h, w), c = n["size"], n["channels"]
        g = generator(f"{n['salt']}/inputs")
        x = g.random((n["batch"], sum(c), h, w)).transpose(0, 2, 3, 1)
        y = g.integers(0, n["num_classes"], (n["batch"], h, w))
        y[:, : h // 2, : w // 3] = 0
        return dict(zip(PUBLISHED, np.split(x, [c[0]], axis=-1), strict=True)), y


@functools.cache
def load() -> Golden:
    path = prefix()
    with np.load(f"{path}.npz") as z:
        return Golden(json.loads(Path(f"{path}.json").read_text()), dict(z))


def generator(key: str) -> np.random.Generator:
    return np.random.default_rng(zlib.crc32(key.encode()))


def fill(key: str, name: str, shape: list[int]) -> np.ndarray:
    """METHOD.md, golden/: the fill of one published parameter."""
    z = generator(key).standard_normal(shape)
    last = name.rsplit(".", 1)[-1]
    if last == "running_var":
        return 1 + 0.2 * np.abs(z)
    if last in ("running_mean", "bias", "in_proj_bias"):
        return 0.1 * z
    if len(shape) == 1:
        return 1 + 0.1 * z
    if last in ("weight", "in_proj_weight"):
        return z / np.sqrt(np.prod(shape[1:]))
    return 0.5 * z


def digest(key: str, array: np.ndarray) -> np.ndarray:
    """(l2 norm, dot product with a known probe)."""
    array = np.asarray(array, np.float64)
    return np.array([np.linalg.norm(array), (array * generator(key).standard_normal(array.shape)).sum()])
