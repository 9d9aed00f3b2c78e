"""The strategies: tables that say over which mesh axis every part of the train state is split."""

from __future__ import annotations

import dataclasses
import math

from jax.sharding import PartitionSpec

from dis2_jax.schema import Dis2Error, nearest
from dis2_jax.sharding.axes import CLASSES, DATA, FSDP, ROWS, TILE_AXES

Dim = str | tuple[str, ...] | None
"""Mesh axes that one dimension is split over."""

SLOTS = ("opt_state", "ema", "accumulated")
"""Fields of the train state that only the optimiser reads."""


@dataclasses.dataclass(frozen=True)
class Strategy:
    """One rules table. Fields of the train state that ``state`` does not name are whole on every device."""

    name: str
    axes: str
    """Mesh axes where the config names none."""
    state: tuple[tuple[str, str], ...] = ()
    """(field of the train state, mesh axis)."""
    min_size: int = 4096
    """Leaves of fewer elements stay whole: what splitting them saves is less than what gathering them costs."""

    def axis_of(self, field: str) -> str | None:
        """Mesh axis that a field of the train state is split over."""
        return dict(self.state).get(field)


def _over(axis: str, *fields: str) -> tuple[tuple[str, str], ...]:
    return tuple((field, axis) for field in fields)


STRATEGIES = {
    s.name: s
    for s in (
        Strategy("single", "data:1"),
        Strategy("dp", "data:-1"),
        Strategy("zero1", "data:-1", _over(DATA, *SLOTS)),
        Strategy("fsdp", "fsdp:-1", _over(FSDP, "params", *SLOTS)),
        # Empty axes: one group of ``fsdp`` per slice or host, ``data`` between them.
        Strategy("hsdp", "", _over(FSDP, "params", *SLOTS)),
        Strategy("spatial", "rows:-1"),
        Strategy("class", "classes:-1"),
        # dp with written-out collectives (``explicit.py``).
        Strategy("shard_map", "data:-1"),
        Strategy("pmap", "data:-1"),
    )
}

BATCH: tuple[Dim, ...] = (TILE_AXES, ROWS)
"""Leading dimensions of a batch's maps ``[B, H, ...]``; what is no map is split in its first dimension only."""


ACTIVATIONS: dict[str, tuple[Dim, ...]] = {
    "map": (TILE_AXES, ROWS),
    "class_map": ((*TILE_AXES, CLASSES), ROWS),
    "class_stack": (TILE_AXES, CLASSES, ROWS),
    # Behind the classes, their devices share the rows instead.
    "output": (TILE_AXES, (ROWS, CLASSES)),
    # Every token looks at every other: devices that share tiles take whole ones here, or if those are too few, heads.
    "tokens": ((*TILE_AXES, ROWS, CLASSES),),
    "heads": ((*TILE_AXES, ROWS, CLASSES), None, (ROWS, CLASSES)),
}
"""Leading dimensions of what the model names (``models.layout.Activation``)."""


def find_strategy(name: str) -> Strategy:
    """Look a table up; ``Dis2Error`` names those there are."""
    if name not in STRATEGIES:
        raise Dis2Error(
            f"config sharding.strategy = {name!r}{nearest(name, STRATEGIES)}: choose from {', '.join(STRATEGIES)}"
        )
    return STRATEGIES[name]


def leaf_spec(shape: tuple[int, ...], *, axis: str | None, size: int, min_size: int) -> PartitionSpec:
    """Split the largest dimension that ``axis`` (of ``size`` devices) divides, the last one of equals.

    Whole stay: leaves of fewer than ``min_size`` elements, vectors (a module reads them in float32, see
    ``Placement.parameters``), and leaves without such a dimension.
    """
    possible = [i for i, n in enumerate(shape) if n % size == 0]
    if axis is None or size == 1 or len(shape) < 2 or math.prod(shape) < min_size or not possible:
        return PartitionSpec()
    dim = max(possible, key=lambda i: (shape[i], i))
    return PartitionSpec(*[None] * dim, axis)


def dims_spec(shape: tuple[int, ...], dims: tuple[Dim, ...], sizes: dict[str, int]) -> PartitionSpec:
    """Spec of an array from what its dimensions may be split over.

    Axes that the mesh does not have, or that an earlier dimension took, drop out; of the others, as many of the first
    ones are taken as divide.
    """
    parts: list[Dim] = []
    free = {axis for axis, size in sizes.items() if size > 1}
    for n, dim in zip(shape, dims, strict=False):
        names = tuple(a for a in ((dim,) if isinstance(dim, str) else dim or ()) if a in free)
        while names and n % math.prod(sizes[a] for a in names):
            names = names[:-1]
        free -= set(names)
        parts.append(names if len(names) > 1 else names[0] if names else None)
    while parts and parts[-1] is None:
        parts.pop()
    return PartitionSpec(*parts)
