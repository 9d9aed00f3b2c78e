"""Maps whose rows are split over devices: what needs the rows next door exchanges one row, and gathers nothing."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, PartitionSpec

from dis2_jax.models.layout import Edges, OnRows


@dataclasses.dataclass(frozen=True)
class RowSplit:
    """The rows (second dimension) of an array of ``spec`` lie on the devices along ``axes``, in order."""

    mesh: Mesh
    spec: PartitionSpec
    axes: tuple[str, ...]

    @property
    def parts(self) -> int:
        """Devices along the rows."""
        return math.prod(self.mesh.shape[a] for a in self.axes)

    def on_padded(
        self, work: OnRows, x: jax.Array, weights: tuple[jax.Array, ...], edges: Edges
    ) -> jax.Array:
        """``work`` on every device's rows, padded by the neighbours or the edge (``layout.on_padded``)."""

        def local(x: jax.Array, *weights: jax.Array) -> jax.Array:
            x = self._with_neighbours(x, edges)
            return work(jnp.pad(x, ((0, 0), (0, 0), (1, 1), (0, 0)), mode=edges), *weights)

        return self._map(local, x, *weights, specs=(PartitionSpec(),) * len(weights))

    def enlarge_rows(self, x: jax.Array, matrix: Any, precision: Any) -> jax.Array:
        """Multiply each device's rows by its own block of ``matrix`` ``[n * h, h]``."""

        def local(x: jax.Array, block: jax.Array) -> jax.Array:
            x = self._with_neighbours(x, "constant")
            return jnp.einsum("yh,bhwc->bywc", block[0], x, precision=precision)

        blocks = jnp.asarray(row_blocks(np.asarray(matrix), self.parts), x.dtype)
        return self._map(local, x, blocks, specs=(PartitionSpec(self.axes),))

    def _map(
        self, local: OnRows, x: jax.Array, *rest: jax.Array, specs: tuple[PartitionSpec, ...]
    ) -> jax.Array:
        mapped = jax.shard_map(local, mesh=self.mesh, in_specs=(self.spec, *specs), out_specs=self.spec)
        found: jax.Array = mapped(x, *rest)
        return found

    def _with_neighbours(self, x: jax.Array, edges: Edges) -> jax.Array:
        """One row more above and below ``[b, h, w, c]``."""
        n = self.parts
        down, up = [(i, i + 1) for i in range(n - 1)], [(i + 1, i) for i in range(n - 1)]
        above = lax.ppermute(x[:, -1:], self.axes, down)  # zeros where nobody sends
        below = lax.ppermute(x[:, :1], self.axes, up)
        if edges == "reflect":
            here = lax.axis_index(self.axes)
            second = jnp.concatenate([x, below], axis=1)[:, 1:2]  # a device may hold a single row
            last_but_one = jnp.concatenate([above, x], axis=1)[:, -2:-1]
            above, below = jnp.where(here == 0, second, above), jnp.where(here == n - 1, last_but_one, below)
        return jnp.concatenate([above, x, below], axis=1)


def row_blocks(matrix: np.ndarray, parts: int) -> np.ndarray:
    """Cut ``[n * h, h]`` into ``[parts, n * h / parts, h / parts + 2]``: each reads its rows and their neighbours.

    Raises ``ValueError`` when the matrix reads further than that.
    """
    out, size = matrix.shape
    rows, columns = out // parts, size // parts
    wide = np.pad(matrix, ((0, 0), (1, 1)))
    blocks = [wide[i * rows : (i + 1) * rows, i * columns : (i + 1) * columns + 2] for i in range(parts)]
    if sum(np.count_nonzero(b) for b in blocks) != np.count_nonzero(matrix):
        raise ValueError("the matrix reads rows beyond the next ones")
    return np.stack(blocks)
