"""Students against the full branch on the same tiles, with three fillings of their missing slots."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dis2_jax.data.batch import Batch
from dis2_jax.data.normalize import denormalize
from dis2_jax.evaluation.chosen import Study, complete, no_complete_tile
from dis2_jax.evaluation.diagnostics.results import FILLS, LEVELS, Diagnostics
from dis2_jax.evaluation.diagnostics.totals import Totals
from dis2_jax.models.dis2 import DIS2, BranchOutput
from dis2_jax.schema import Dis2Error, Fill, Scenario
from dis2_jax.sharding.mesh import put_batch

Maps = dict[str, jax.Array]
"""Level -> features ``[B, N, D]`` at the N positions of its map (the token has one)."""


@dataclasses.dataclass(frozen=True, eq=False)
class AttentionExample:
    """One tile and where the class queries look in it.

    ``images``: modality -> float32 ``[H, W, C]`` in physical units; ``reference`` int32 ``[H, W]``, 255
    ignored; ``attention``: scenario (full first) -> float32 ``[K, H/16, W/16]``, each class sums to 1;
    ``predictions``: scenario -> int32 ``[H, W]``.
    """

    index: int
    images: dict[str, np.ndarray]
    reference: np.ndarray
    attention: dict[str, np.ndarray]
    predictions: dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Compared:
    """The numbers, and the first tiles for pictures."""

    diagnostics: Diagnostics
    examples: tuple[AttentionExample, ...]


def compare_branches(
    study: Study,
    *,
    positions: int = 64,
    pictures: int = 4,
    on_batch: Callable[[int, int], None] | None = None,
) -> Compared:
    """Run the full branch once and every student three times over the study's complete tiles, in one pass.

    Distances are taken on the device in float32 at every position and averaged on the host in float64. For
    the CKA at most ``positions`` places of each map and tile, drawn without replacement from (seed, tile,
    level), come to the host, where sums are kept in float64: memory does not depend on the number of tiles,
    nor the result on the batch size (but for rounding).

    Raises:
        Dis2Error: no tile with every modality, or an output that is not finite.
    """
    if positions < 1 or pictures < 0:
        raise Dis2Error(f"{positions} positions and {pictures} pictures: at least 1 and 0")
    full, *students = study.model.scenarios
    total = Totals(study, students)
    examples: list[AttentionExample] = []
    read = 0
    for tiles, batch in study.batches():
        read += len(tiles)
        usable = complete(batch)
        if usable.any():
            found = _run_batch(study, batch, full=full, students=students, positions=positions, total=total)
            for i in np.flatnonzero(usable)[: pictures - len(examples)]:
                examples.append(_example(study, batch, int(i), found))
        if on_batch is not None:
            on_batch(read, len(study.indices))
    if not total.tiles:
        raise no_complete_tile(study)
    return Compared(total.results(positions=positions), tuple(examples))


def _run_batch(
    study: Study,
    batch: Batch,
    *,
    full: Scenario,
    students: list[Scenario],
    positions: int,
    total: Totals,
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Add a batch to ``total``; return scenario -> (class maps ``[B, H, W]``, attention ``[B, K, h, w]``)."""
    images: Any = put_batch(batch["image"], study.mesh)
    usable = complete(batch)
    what: dict[str, Any] = {"model": study.model}
    slots = fill_slots(study.variables, images, scenario=full, fill="compensation", **what)
    teacher = run_branch(study.variables, slots, scenario=full, **what)
    total.count(full, None, batch, np.asarray(teacher.classes))
    places = _places(study, batch, teacher.maps, positions=positions)
    placed: Any = put_batch(places, study.mesh)
    pictures = {str(full): (np.asarray(teacher.classes), np.asarray(teacher.attention))}
    for s in students:
        for fill in FILLS:
            shown = images if fill == "specific" else {m: images[m] for m in s.available}
            slots = fill_slots(study.variables, shown, scenario=s, fill=fill, **what)
            student = run_branch(study.variables, slots, scenario=s, **what)
            compared = jax.device_get(compare_maps(student.maps, teacher.maps, placed))
            total.add(s, fill, compared, usable)
            total.count(s, fill, batch, np.asarray(student.classes))
            if fill == "compensation":
                pictures[str(s)] = (np.asarray(student.classes), np.asarray(student.attention))
    return pictures


@functools.partial(jax.jit, static_argnames=("model", "scenario", "fill"))
def fill_slots(
    variables: Mapping[str, Any], images: Any, *, model: DIS2, scenario: Scenario, fill: Fill
) -> Any:
    """Encode normalised images into a scenario's slots; small programs, one per scenario and fill."""
    return model.apply(variables, images, scenario=scenario, fill=fill, method="slots")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _Answer:
    maps: Maps
    classes: jax.Array
    """int32 ``[B, H, W]``, -1 where the output is not finite."""
    attention: jax.Array


@functools.partial(jax.jit, static_argnames=("model", "scenario"))
def run_branch(variables: Mapping[str, Any], slots: Any, *, model: DIS2, scenario: Scenario) -> _Answer:
    """Run one branch on filled slots; compiled once per scenario, whatever fills them."""
    out: Any = model.apply(variables, slots, scenario=scenario, method="answer")
    finite = jnp.isfinite(out.logits).all(-1)
    classes = jnp.where(finite, jnp.argmax(out.logits, axis=-1), -1).astype(jnp.int32)
    return _Answer(maps=level_maps(out), classes=classes, attention=out.attention)


def level_maps(out: BranchOutput) -> Maps:
    """A branch's features by level."""
    maps = [*out.maps, out.token[:, None, None], out.penultimate]
    flat = [x.astype(jnp.float32).reshape(x.shape[0], -1, x.shape[-1]) for x in maps]
    return dict(zip(LEVELS, flat, strict=True))


@jax.jit
def compare_maps(student: Maps, full: Maps, places: Mapping[str, jax.Array]) -> Any:
    """Per level: means over positions of the two distances ``[B]``, and both sides' features at ``places``.

    ``places`` ``[B, P]`` int32 are positions; the features there come as ``[B, P, D]``.
    """
    tiny = jnp.float32(1e-20)
    found = {}
    for level, x in student.items():
        y = full[level]
        sizes = [jnp.sqrt(jnp.square(v).sum(-1)) for v in (x, y)]
        relative = jnp.sqrt(jnp.square(x - y).sum(-1)) / jnp.maximum(sizes[1], tiny)
        cosine = jnp.minimum((x * y).sum(-1) / jnp.maximum(sizes[0] * sizes[1], tiny), 1)
        at = places[level][..., None]
        found[level] = {
            "relative_l2": relative.mean(-1),
            "cosine_distance": (1 - cosine).mean(-1),
            "x": jnp.take_along_axis(x, at, axis=1),
            "y": jnp.take_along_axis(y, at, axis=1),
        }
    return found


def _places(study: Study, batch: Batch, maps: Maps, *, positions: int) -> dict[str, np.ndarray]:
    """Positions ``[B, P]`` int32 for the CKA, drawn from (seed, level, tile)."""
    places = {}
    for k, (level, x) in enumerate(maps.items()):
        n = x.shape[1]
        rows = [
            np.random.default_rng([study.seed, k, max(int(i), 0)]).choice(n, min(positions, n), replace=False)
            for i in batch["index"]
        ]
        places[level] = np.stack(rows).astype(np.int32)
    return places


def _example(
    study: Study, batch: Batch, i: int, found: Mapping[str, tuple[np.ndarray, np.ndarray]]
) -> AttentionExample:
    return AttentionExample(
        index=int(batch["index"][i]),
        images={
            m.name: denormalize(batch["image"][m.name][i], m, study.data.normalize)
            for m in study.card.modalities
        },
        reference=batch["label"][i],
        attention={name: attention[i].astype(np.float32) for name, (_, attention) in found.items()},
        predictions={name: classes[i] for name, (classes, _) in found.items()},
    )
