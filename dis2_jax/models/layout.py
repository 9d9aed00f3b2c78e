"""Where arrays lie on the devices: hooks that a strategy fills, and that do nothing without one."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any, Protocol

import jax

Tree = Any


class Layout(Protocol):
    """What a strategy does to arrays inside a jit. Hashable: traced programs are kept per layout."""

    def parameters(self, params: Tree, dtype: jax.typing.DTypeLike) -> Tree:
        """Parameters as the model is about to read them; ``dtype`` is what it computes in."""
        ...

    def gradients(self, gradients: Tree) -> Tree:
        """Gradients, a tree like the parameters, as the optimiser is about to read them."""
        ...

    def state(self, state: Tree) -> Tree:
        """The train state at the end of a step."""
        ...


# Part of the key under which jit keeps what it traced, so that no program of another layout is reused.
_active: Any = jax.make_user_context(default_value=None)


def active(layout: Layout | None) -> AbstractContextManager[None]:
    """Let ``layout`` place the arrays of everything that is traced or called inside the ``with`` block."""
    context: AbstractContextManager[None] = _active(layout)
    return context


def place_parameters(params: Tree, dtype: jax.typing.DTypeLike) -> Tree:
    """See ``Layout.parameters``."""
    return params if _active.value is None else _active.value.parameters(params, dtype)


def place_gradients(gradients: Tree) -> Tree:
    """See ``Layout.gradients``."""
    return gradients if _active.value is None else _active.value.gradients(gradients)


def place_state(state: Tree) -> Tree:
    """See ``Layout.state``."""
    return state if _active.value is None else _active.value.state(state)
