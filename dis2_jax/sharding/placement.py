"""A strategy on a mesh: where the state lies, and what the model's layout hooks do."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from dis2_jax.config import ShardingConfig
from dis2_jax.schema import Dis2Error
from dis2_jax.sharding.axes import CLASSES, ROWS, parse_axes
from dis2_jax.sharding.mesh import count_groups, make_mesh, replicated
from dis2_jax.sharding.rules import Strategy, find_strategy, leaf_spec

Tree = Any


@dataclasses.dataclass(frozen=True)
class Placement:
    """A ``models.layout.Layout`` made of a rules table and a mesh."""

    strategy: Strategy
    mesh: Mesh

    def spec(self, field: str, shape: tuple[int, ...]) -> PartitionSpec:
        """Spec of a leaf of that shape in a field of the train state."""
        axis = self.strategy.axis_of(field)
        size = self.mesh.shape.get(axis, 1) if axis else 1
        return leaf_spec(shape, axis=axis, size=size, min_size=self.strategy.min_size)

    def shardings(self, state: Tree) -> Tree:
        """``NamedSharding`` of every leaf of a train state, from its shapes (arrays or ``ShapeDtypeStruct``)."""
        return jax.tree_util.tree_map_with_path(
            lambda path, leaf: self._sharding(path[0].name, leaf.shape), state
        )

    def parameters(self, params: Tree, dtype: jax.typing.DTypeLike) -> Tree:
        """Gather what is split, once per use and in the compute type.

        A convolution with a split kernel would otherwise become a loop of windowed permutations. Its module casts
        the kernel anyway, so casting before gathering changes no number and halves the traffic.
        """

        def gather(leaf: jax.Array) -> jax.Array:
            if not self.spec("params", leaf.shape):
                return leaf
            return jax.lax.with_sharding_constraint(leaf.astype(dtype), replicated(self.mesh))

        return jax.tree.map(gather, params)

    def gradients(self, gradients: Tree) -> Tree:
        """Split like the optimiser's slots, so that each device sums only its share."""
        return self._constrain("opt_state", gradients)

    def state(self, state: Tree) -> Tree:
        """Keep every leaf where it was."""
        if not self.strategy.state:
            return state
        return jax.lax.with_sharding_constraint(state, self.shardings(state))

    def _constrain(self, field: str, tree: Tree) -> Tree:
        if self.strategy.axis_of(field) is None:
            return tree
        shardings = jax.tree.map(lambda leaf: self._sharding(field, leaf.shape), tree)
        return jax.lax.with_sharding_constraint(tree, shardings)

    def _sharding(self, field: str, shape: tuple[int, ...]) -> NamedSharding:
        return NamedSharding(self.mesh, self.spec(field, shape))


def make_placement(config: ShardingConfig, *, devices: Sequence[Any] | None = None) -> Placement:
    """Put the config's strategy on all devices of the job (``single``: on one).

    ``devices``: on these instead; a plan's need not be there.

    Raises ``Dis2Error``: axes that do not fill the devices or do not fit the strategy.
    """
    strategy = find_strategy(config.strategy)
    devices = jax.devices() if devices is None else devices
    if strategy.name == "single":
        if jax.process_count() > 1:
            raise Dis2Error(
                "config sharding.strategy = 'single' is for one process: take dp for a job of several"
            )
        devices = devices[:1]
    groups = count_groups(devices)
    text = config.axes or strategy.axes or f"data:{groups},fsdp:-1"
    sizes = parse_axes(text, devices=len(devices))
    missing = {axis for _, axis in strategy.state} - {name for name, _ in sizes}
    if missing:
        raise Dis2Error(
            f"config sharding.axes = {text!r}: strategy {strategy.name} needs the axis {', '.join(sorted(missing))}"
        )
    _check_local(text, dict(sizes))
    return Placement(strategy, make_mesh(sizes, devices))


def _check_local(text: str, sizes: dict[str, int]) -> None:
    """A process reads whole tiles, so that devices that share a tile must share a process."""
    together = sizes.get(ROWS, 1) * sizes.get(CLASSES, 1)
    if jax.process_count() > 1 and jax.local_device_count() % together:
        raise Dis2Error(
            f"config sharding.axes = {text!r}: {together} devices share a tile, and a process has"
            f" {jax.local_device_count()}: rows x classes must divide that"
        )
