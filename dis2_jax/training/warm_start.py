"""Start a run from another run's weights."""

from __future__ import annotations

from pathlib import Path

import jax

from dis2_jax.schema import Dis2Error
from dis2_jax.sharding.mesh import put_whole
from dis2_jax.training.checkpoint import load_eval_variables
from dis2_jax.training.state import TrainState, Tree

_LISTED = 4


def warm_start(state: TrainState, source: str | Path) -> TrainState:
    """Replace the parameters, their average and the statistics of a fresh ``state`` by those of ``source``.

    ``source`` is a workdir; its best checkpoint is read, averaged parameters where it keeps them. Leaves keep the
    shardings of ``state``; step count and optimiser slots stay new.

    Raises:
        Dis2Error: ``source`` holds no whole checkpoint, or a network of other parts or shapes (they are listed).
    """
    given = load_eval_variables(source).variables
    _check_same(given, {"params": state.params, "batch_stats": state.batch_stats}, source)

    def place(new: Tree, old: Tree) -> Tree:
        # Copies: the step donates every leaf of the state, so no two may share a buffer.
        return jax.tree.map(lambda n, o: put_whole(n.astype(o.dtype), o.sharding), new, old)

    return state.replace(
        params=place(given["params"], state.params),
        batch_stats=place(given["batch_stats"], state.batch_stats),
        ema=None if state.ema is None else place(given["params"], state.ema),
    )


def _check_same(given: Tree, wanted: Tree, source: str | Path) -> None:
    there, here = _shapes(given), _shapes(wanted)
    parts = [
        *(f"{name} is missing" for name in here.keys() - there.keys()),
        *(f"{name} is extra" for name in there.keys() - here.keys()),
        *(
            f"{name} is {there[name]}, not {here[name]}"
            for name in here.keys() & there.keys()
            if here[name] != there[name]
        ),
    ]
    if parts:
        listed = "; ".join(sorted(parts)[:_LISTED]) + (
            f"; and {len(parts) - _LISTED} more" if len(parts) > _LISTED else ""
        )
        raise Dis2Error(
            f"config train.init_from = {str(source)!r} is another network: {listed}; use the same model.* keys,"
            " modalities and classes"
        )


def _shapes(tree: Tree) -> dict[str, tuple[int, ...]]:
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf.shape
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }
