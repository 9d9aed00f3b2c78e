"""A model's functions as StableHLO files of ``jax.export``, and their weights once beside them."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from dis2_jax.inference.export_function import flat_weights, probability_function, weights_read
from dis2_jax.inference.model import Model
from dis2_jax.schema import Dis2Error, Scenario, nearest

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
WEIGHTS = "weights.npz"
RUNNER = "run.py"


@dataclasses.dataclass(frozen=True)
class Function:
    """One exported scenario: its file in the export's folder and, where they are apart, the weights it takes."""

    modalities: tuple[str, ...]
    file: str
    weights: tuple[str, ...] = ()
    calling_convention: int | None = None
    """Version of ``jax.export``'s calling convention."""


def check_platforms(platforms: Sequence[str]) -> None:
    """Raise ``Dis2Error`` for an unknown platform, or when this machine's own is not there to verify on."""
    for name in platforms:
        if name not in PLATFORMS:
            raise Dis2Error(f"no platform {name!r}{nearest(name, PLATFORMS)}: any of {', '.join(PLATFORMS)}")
    here = export.default_export_platform()
    if here not in platforms:
        raise Dis2Error(
            f"platforms {','.join(platforms) or 'none'}: an export is run before it counts as done, and this"
            f" machine computes on {here}: add {here}"
        )


def write_stablehlo(
    model: Model,
    scenarios: Sequence[Scenario],
    folder: Path,
    *,
    tile: tuple[int, int] | None,
    platforms: Sequence[str],
) -> dict[str, Function]:
    """Write ``functions/<scenario>.jax``, ``weights.npz`` and ``run.py`` to ``folder``.

    The batch is symbolic; height and width are symbolic multiples of 16, or ``tile``. ``weights.npz`` holds only
    what these scenarios read, each array once.
    """
    weights = flat_weights(model)
    (folder / "functions").mkdir()
    written = {}
    for scenario in scenarios:
        function, images = probability_function(model, scenario), _inputs(model, scenario, tile)
        names = weights_read(function, weights, images)
        shapes = {name: jax.ShapeDtypeStruct(weights[name].shape, weights[name].dtype) for name in names}
        with _short_source_paths():
            exported = export.export(jax.jit(function), platforms=list(platforms))(shapes, images)
        file = f"functions/{scenario}.jax"
        (folder / file).write_bytes(exported.serialize())
        written[str(scenario)] = Function(
            scenario.available, file, tuple(names), exported.calling_convention_version
        )
    used = {name for function in written.values() for name in function.weights}
    _write_weights(folder / WEIGHTS, {name: w for name, w in weights.items() if name in used})
    shutil.copyfile(Path(__file__).with_name("export_run.py"), folder / RUNNER)  # runs there, not here
    return written


def _inputs(model: Model, scenario: Scenario, tile: tuple[int, int] | None) -> dict[str, Any]:
    """Abstract images that share their symbols; a size that is no multiple of 16 then fits no call."""
    scope = export.SymbolicScope()
    sides = "16*h, 16*w" if tile is None else f"{tile[0]}, {tile[1]}"
    return {
        m: jax.ShapeDtypeStruct(
            export.symbolic_shape(f"b, {sides}, {model.card.modality(m).channels}", scope=scope), jnp.float32
        )
        for m in scenario.available
    }


def _write_weights(path: Path, weights: Mapping[str, np.ndarray]) -> None:
    with path.open("wb") as file:
        np.savez(file, **weights)  # type: ignore[arg-type]


@contextlib.contextmanager
def _short_source_paths() -> Iterator[None]:
    """Error messages of the exported functions name ``dis2_jax/models/...``, not where it lay on this machine."""
    key = "jax_hlo_source_file_canonicalization_regex"
    before = getattr(jax.config, key)
    jax.config.update(key, r".*/(?=dis2_jax/)|.*/site-packages/")
    try:
        yield
    finally:
        jax.config.update(key, before)
