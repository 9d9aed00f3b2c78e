"""The fastest strategy and batch that fit, with as few compilations as possible: each takes minutes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

from dis2_jax.planning.plan import Compile, predicted
from dis2_jax.planning.request import Request, Row

WORTH = 1.03
"""Doubling the batch goes on while it brings at least so much more speed."""


@dataclasses.dataclass(frozen=True)
class Search:
    """Rows that were compiled, what was left out and why, and the winner."""

    rows: tuple[Row, ...]
    pruned: tuple[str, ...]
    best: Row | None


def search(
    ladders: Sequence[Sequence[Request]],
    compile_row: Compile,
    *,
    with_batch: Callable[[Request, int], Request],
    limit: int,
) -> Search:
    """Double the batch of every strategy while it fits, pays and stays below ``limit`` tiles.

    A ladder holds one strategy under policies that need ever less memory and ever more time (rematerialisation).
    Memory grows with the batch: nothing above a batch that does not fit is compiled, nor one that two smaller ones say
    will not fit. A policy is tried from the batch on that did not fit under the one before it.
    """
    rows: list[Row] = []
    pruned: list[str] = []
    for ladder in ladders:
        batch: int | None = ladder[0].config.data.batch_size
        for start in ladder:
            if batch is None:
                pruned.append(f"{_name(start)}: memory was not what ended the one before")
                continue
            tried, why, batch = _climb(
                with_batch(start, batch), compile_row, with_batch=with_batch, limit=limit
            )
            rows += tried
            pruned.append(why)
    speeds = {id(r): p.tiles_per_second for r in rows if r.fits and (p := predicted(r))}
    best = max((r for r in rows if id(r) in speeds), key=lambda r: speeds[id(r)], default=None)
    return Search(tuple(rows), tuple(pruned), best)


def _climb(
    start: Request, compile_row: Compile, *, with_batch: Callable[[Request, int], Request], limit: int
) -> tuple[list[Row], str, int | None]:
    """(rows, why it ended, the batch that is too large for memory if that was why)."""
    tried = [compile_row(start)]
    while (step := _next(tried, limit=limit)).batch is not None:
        tried.append(compile_row(with_batch(start, step.batch)))
    return tried, f"{_name(start)}: {step.why}", step.too_large


def _name(request: Request) -> str:
    sharding = request.config.sharding
    remat = "" if sharding.remat == "none" else f" remat {sharding.remat}"
    return f"{request.topology} {sharding.strategy}{remat}"


@dataclasses.dataclass(frozen=True)
class _Step:
    """The next batch, or why there is none."""

    batch: int | None = None
    why: str = ""
    too_large: int | None = None


def _next(tried: Sequence[Row], *, limit: int) -> _Step:
    last = tried[-1]
    batch = last.request.config.data.batch_size
    if not last.fits:
        reason = last.failure.reason if last.failure else "does not fit"
        memory = reason == "does not fit"
        return _Step(
            why=f"{batch} tiles {'do not fit' if memory else 'were ' + reason}",
            too_large=batch if memory else None,
        )
    if 2 * batch > limit:
        return _Step(why=f"more than {batch} tiles are above the limit of {limit}")
    if len(tried) > 1:
        before, now = (predicted(r) for r in tried[-2:])
        assert before is not None
        assert now is not None
        gain = now.tiles_per_second / before.tiles_per_second
        if gain < WORTH:
            return _Step(why=f"doubling to {batch} tiles brought {100 * (gain - 1):.1f} % more speed")
        peaks = [r.facts.memory.peak for r in tried[-2:] if r.facts]
        chip = last.request.machine.chip
        expected = peaks[1] + 2 * (peaks[1] - peaks[0])
        if expected > chip.memory // chip.devices_per_chip:
            return _Step(
                why=f"{2 * batch} tiles would need about {expected / 2**30:.1f} GiB", too_large=2 * batch
            )
    return _Step(batch=2 * batch)
