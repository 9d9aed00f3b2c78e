"""Where arrays lie on the devices: the hooks of ``Layout``, which do nothing until a strategy is active.

The model calls them with the name of what it holds; what a name means is said in ``sharding.rules``.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Literal

import jax
import jax.numpy as jnp

Tree = Any
Activation = Literal["map", "class_map", "class_stack", "output", "tokens", "heads"]
"""``map`` ``[B, h, w, C]`` of encoders, fusion and heads; ``class_map`` ``[B * K, h, w, C]`` as ``fold`` orders it;
``class_stack`` ``[B, K, h, w, C]``; ``output`` ``[B, H, W, ...]`` behind the decoder's classes, and labels; ``tokens``
``[B, N, D]``, or as maps ``[B, h, w, D]``; ``heads`` ``[B, N, heads, D]``."""
Edges = Literal["constant", "reflect"]
"""What stands beyond the edge of a map: zeros, or the map mirrored about its edge pixels (numpy's names)."""
OnRows = Callable[..., jax.Array]


class Layout:
    """What happens to arrays inside a jit; this one leaves everything to the compiler.

    A strategy's own one is hashable: traced programs are kept per layout.
    """

    def parameters(self, params: Tree, dtype: jax.typing.DTypeLike) -> Tree:
        """Parameters as the model is about to read them; ``dtype`` is what it computes in."""
        del dtype
        return params

    def gradients(self, gradients: Tree) -> Tree:
        """Gradients, a tree like the parameters, as the optimiser is about to read them."""
        return gradients

    def state(self, state: Tree) -> Tree:
        """The train state at the end of a step."""
        return state

    def step(self, body: Callable[..., Any], state: Tree, batch: Tree) -> Any:
        """``body(state, batch)``, a whole training step."""
        return body(state, batch)

    def activation(self, x: jax.Array, name: Activation) -> jax.Array:
        """Put ``x`` where its name says; the values stay."""
        del name
        return x

    def total(self, x: jax.Array) -> jax.Array:
        """What has been summed over the tiles at hand -> the sum over the global batch."""
        return x

    def random(self, key: jax.Array) -> jax.Array:
        """Key for numbers drawn per tile."""
        return key

    def on_padded(
        self,
        work: OnRows,
        x: jax.Array,
        *weights: jax.Array,
        edges: Edges,
        name: Activation = "map",
        together: int = 1,
    ) -> jax.Array:
        """``work(padded, *weights)`` with ``x`` ``[B, h, w, C]`` padded by one pixel all around.

        ``work`` must be local: cut into pieces of a multiple of ``together`` rows, each with one more row at either
        end, ``x`` must give the pieces of the result.
        """
        del name, together
        return work(jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode=edges), *weights)

    def enlarge_rows(self, matrix: Any, x: jax.Array, *, precision: Any, name: Activation) -> jax.Array:
        """``matrix`` ``[n * h, h]`` times the rows of ``x`` ``[B, h, w, C]``.

        Output row i must depend on the rows i // n - 1 .. i // n + 1 alone, as in a bilinear enlargement.
        """
        del name
        return jnp.einsum("yh,bhwc->bywc", jnp.asarray(matrix, x.dtype), x, precision=precision)

    def fold(self, x: jax.Array) -> jax.Array:
        """``[B, K, ...]`` -> ``[B * K, ...]`` in an order that only ``unfold`` knows."""
        return x.reshape(-1, *x.shape[2:])

    def unfold(self, x: jax.Array, classes: int) -> jax.Array:
        """``[B * K, ...]`` -> ``[B, K, ...]``."""
        return x.reshape(-1, classes, *x.shape[1:])


# Part of the key under which jit keeps what it traced, so that no program of another layout is reused.
_active: Any = jax.make_user_context(default_value=Layout())


def active(layout: Layout) -> AbstractContextManager[None]:
    """Let ``layout`` place the arrays of everything that is traced or called inside the ``with`` block."""
    context: AbstractContextManager[None] = _active(layout)
    return context


def current() -> Layout:
    """The layout of this block and thread."""
    layout: Layout = _active.value
    return layout
