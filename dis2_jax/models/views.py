"""Test-time augmentation: a tile is looked at turned and mirrored, and the answers are averaged."""

from __future__ import annotations

import dataclasses
import itertools

import jax
import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class View:
    """One of the 8 symmetries of the grid: transposed, then flipped."""

    transpose: bool
    flip_rows: bool
    flip_cols: bool

    def of(self, x: jax.Array) -> jax.Array:
        """Return maps ``[B, H, W, C]`` as they look from here; transposing makes them ``[B, W, H, C]``."""
        return self._flipped(x.swapaxes(1, 2) if self.transpose else x)

    def back(self, x: jax.Array) -> jax.Array:
        """Undo ``of``."""
        x = self._flipped(x)
        return x.swapaxes(1, 2) if self.transpose else x

    def _flipped(self, x: jax.Array) -> jax.Array:
        axes = [axis for axis, flip in ((1, self.flip_rows), (2, self.flip_cols)) if flip]
        return jnp.flip(x, axes) if axes else x


def views(size: tuple[int, int]) -> tuple[View, ...]:
    """Return the symmetries that keep the size (height, width): 8 of a square, else 4; the first changes nothing."""
    transposed = (False, True) if size[0] == size[1] else (False,)
    return tuple(View(*v) for v in itertools.product(transposed, (False, True), (False, True)))
