"""A strategy on a mesh, for the compiler to carry out: where the state lies, and what the layout hooks do."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from dis2_jax.models.layout import Activation, Edges, Layout, OnRows
from dis2_jax.schema import Dis2Error
from dis2_jax.sharding.axes import CLASSES
from dis2_jax.sharding.halo import RowSplit
from dis2_jax.sharding.mesh import replicated, tile_shards
from dis2_jax.sharding.rules import ACTIVATIONS, Strategy, dims_spec, leaf_spec

Tree = Any


@dataclasses.dataclass(frozen=True)
class Placement(Layout):
    """A layout made of a rules table and a mesh."""

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
        """Split like the optimiser's slots, so that each device sums only its share.

        Whole first: a convolution whose kernel gradient is wanted in pieces becomes a loop of permutations on TPUs (1.7
        times the time of a step by the compiler's cycles, v5e). There, a sum that is then cut is a reduce-scatter.
        """
        if self.strategy.axis_of("opt_state") is None and not self.devices_share_tiles:
            return gradients
        whole = jax.tree.map(lambda _: replicated(self.mesh), gradients)
        gradients = jax.lax.with_sharding_constraint(gradients, whole)
        shardings = jax.tree.map(lambda leaf: self._sharding("opt_state", leaf.shape), gradients)
        return jax.lax.with_sharding_constraint(gradients, shardings)

    def state(self, state: Tree) -> Tree:
        """Keep every leaf where it was; left alone, the compiler would split what it used split."""
        if not self.strategy.state and not self.devices_share_tiles:
            return state
        return jax.lax.with_sharding_constraint(state, self.shardings(state))

    def activation(self, x: jax.Array, name: Activation) -> jax.Array:
        """Split as ``rules.ACTIVATIONS`` says, where devices share tiles; else the compiler follows the batch."""
        if not self.devices_share_tiles:
            return x
        where = NamedSharding(self.mesh, self.activation_spec(name, x.shape))
        return jax.lax.with_sharding_constraint(x, where)

    def on_padded(
        self,
        work: OnRows,
        x: jax.Array,
        *weights: jax.Array,
        edges: Edges,
        name: Activation = "map",
        together: int = 1,
    ) -> jax.Array:
        """Exchange edge rows with the neighbours, where rows are split."""
        split = self._row_split(name, x.shape)
        if split is None or x.shape[1] // split.parts % together:
            y = super().on_padded(work, self._whole(x, name), *weights, edges=edges)
            return self.activation(self._whole(y, name), name)
        return split.on_padded(work, self.activation(x, name), weights, edges)

    def enlarge_rows(self, matrix: Any, x: jax.Array, *, precision: Any, name: Activation) -> jax.Array:
        """Likewise; each device has its block of the matrix."""
        split = self._row_split(name, x.shape)
        if split is None:
            y = super().enlarge_rows(matrix, self._whole(x, name), precision=precision, name=name)
            return self.activation(self._whole(y, name), name)
        return split.enlarge_rows(self.activation(x, name), matrix, precision)

    def fold(self, x: jax.Array) -> jax.Array:
        """Order: tiles' device, classes' device, tile, class; so that each device folds what it has."""
        tiles, classes = self._fold_parts(x.shape[0], x.shape[1])
        b, k, *rest = x.shape
        x = x.reshape(tiles, b // tiles, classes, k // classes, *rest).swapaxes(1, 2)
        return self.activation(x.reshape(b * k, *rest), "class_map")

    def unfold(self, x: jax.Array, classes: int) -> jax.Array:
        """Undo ``fold``."""
        b, k = x.shape[0] // classes, classes
        tiles, parts = self._fold_parts(b, k)
        x = x.reshape(tiles, parts, b // tiles, k // parts, *x.shape[1:]).swapaxes(1, 2)
        return self.activation(x.reshape(b, k, *x.shape[4:]), "class_stack")

    def _fold_parts(self, tiles: int, classes: int) -> tuple[int, int]:
        """Devices that tiles and classes are spread over. ``Dis2Error``: they do not divide the classes."""
        n = self.mesh.shape.get(CLASSES, 1)
        if classes % n:
            raise Dis2Error(
                f"config sharding.axes: {classes} classes do not split over {n} devices: classes must be a"
                f" divisor of {classes}"
            )
        shards = tile_shards(self.mesh)
        return shards if tiles % shards == 0 else 1, n

    def activation_spec(self, name: str, shape: tuple[int, ...]) -> PartitionSpec:
        """Spec of an activation."""
        return dims_spec(shape, ACTIVATIONS[name], dict(self.mesh.shape))

    @property
    def devices_share_tiles(self) -> bool:
        """Whether a tile lies on several devices."""
        return self.mesh.size > tile_shards(self.mesh)

    def _whole(self, x: jax.Array, name: Activation) -> jax.Array:
        """Keep a map's rows together around what is done to all of them; only tiles are split.

        Else the compiler splits what the rows do not divide, and has doubled a kernel's gradient so.
        """
        if not self.devices_share_tiles:
            return x
        spec = dims_spec(x.shape, ACTIVATIONS[name][:1], dict(self.mesh.shape))
        return jax.lax.with_sharding_constraint(x, NamedSharding(self.mesh, spec))

    def _row_split(self, name: Activation, shape: tuple[int, ...]) -> RowSplit | None:
        """How the rows of a map are split; None: not at all."""
        spec = self.activation_spec(name, shape)
        axes = spec[1] if len(spec) > 1 else None
        if axes is None:
            return None
        return RowSplit(self.mesh, spec, (axes,) if isinstance(axes, str) else tuple(axes))

    def _sharding(self, field: str, shape: tuple[int, ...]) -> NamedSharding:
        return NamedSharding(self.mesh, self.spec(field, shape))
