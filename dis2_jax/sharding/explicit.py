"""Data parallel with every collective written out, for comparison with what the compiler makes of ``dp``."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
from jax import lax
from jax.sharding import PartitionSpec

from dis2_jax.models.layout import Layout, Tree, active
from dis2_jax.sharding.axes import DATA
from dis2_jax.sharding.mesh import batch_sharding
from dis2_jax.sharding.partitioned import Placement


class OneDevice(Layout):
    """Inside: a device's tiles, and sums over the axis ``data``. Each device draws its own dropout."""

    def total(self, x: jax.Array) -> jax.Array:
        """Sum over all devices."""
        found: jax.Array = lax.psum(x, DATA)
        return found

    def random(self, key: jax.Array) -> jax.Array:
        """Another key on every device."""
        return jax.random.fold_in(key, lax.axis_index(DATA))


class OneDeviceOfPmap(OneDevice):
    """``pmap`` does not know which values are alike on all devices, so gradients are still each device's own."""

    def gradients(self, gradients: Tree) -> Tree:
        """Mean over the devices: each one differentiated the sum over all of them, a factor of their number."""
        return lax.pmean(gradients, DATA)


# One object each: a layout is part of the key under which jit keeps what it traced.
_INSIDE, _INSIDE_PMAP = OneDevice(), OneDeviceOfPmap()


@dataclasses.dataclass(frozen=True)
class ShardMapped(Placement):
    """The step as ``jax.shard_map``, which also proves that all devices end with the same state."""

    def step(self, body: Callable[..., Any], state: Tree, batch: Tree) -> Any:
        """Sums of gradients come from differentiating what is the same on all devices."""
        specs = jax.tree.map(lambda x: batch_sharding(self.mesh, x.shape).spec, batch)
        mapped = jax.shard_map(
            _inside(body, _INSIDE),
            mesh=self.mesh,
            in_specs=(PartitionSpec(), specs),
            out_specs=PartitionSpec(),
        )
        return mapped(state, batch)


@dataclasses.dataclass(frozen=True)
class Pmapped(Placement):
    """The step as ``jax.pmap``."""

    def step(self, body: Callable[..., Any], state: Tree, batch: Tree) -> Any:
        """A leading dimension of devices is what it wants."""
        n = self.mesh.size
        batch = jax.tree.map(lambda x: x.reshape(n, x.shape[0] // n, *x.shape[1:]), batch)
        mapped = jax.pmap(
            _inside(body, _INSIDE_PMAP),
            axis_name=DATA,
            in_axes=(None, 0),
            out_axes=None,
            devices=list(self.mesh.devices.flat),
        )
        return mapped(state, batch)


def _inside(body: Callable[..., Any], layout: Layout) -> Callable[..., Any]:
    def local(state: Tree, batch: Tree) -> Any:
        with active(layout):
            return body(state, batch)

    return local
