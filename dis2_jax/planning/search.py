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
    starts: Sequence[Request],
    compile_row: Compile,
    *,
    with_batch: Callable[[Request, int], Request],
    limit: int,
) -> Search:
    """Double the batch of every start (a strategy) while it fits, pays and stays below ``limit`` tiles.

    Memory grows with the batch, so that nothing above a batch that does not fit is compiled, nor a batch that two
    smaller ones say will not fit.
    """
    rows: list[Row] = []
    pruned: list[str] = []
    for start in starts:
        tried: list[Row] = []
        request: Request | None = start
        while request is not None:
            row = compile_row(request)
            rows.append(row)
            tried.append(row)
            request, why = _next(tried, with_batch=with_batch, limit=limit)
            if why:
                pruned.append(why)
    speeds = {id(r): p.tiles_per_second for r in rows if r.fits and (p := predicted(r))}
    best = max((r for r in rows if id(r) in speeds), key=lambda r: speeds[id(r)], default=None)
    return Search(tuple(rows), tuple(pruned), best)


def _next(
    tried: Sequence[Row], *, with_batch: Callable[[Request, int], Request], limit: int
) -> tuple[Request | None, str]:
    """The next batch of a strategy and no reason, or none and the reason."""
    last = tried[-1]
    request = last.request
    batch = request.config.data.batch_size
    name = f"{request.topology} {request.config.sharding.strategy}: batches above {batch}"
    if not last.fits:
        reason = last.failure.reason if last.failure else "does not fit"
        return None, f"{name}: {batch} {'does not fit' if reason == 'does not fit' else 'was ' + reason}"
    if 2 * batch > limit:
        return None, f"{name}: above the limit of {limit}"
    if len(tried) > 1:
        before, now = (predicted(r) for r in tried[-2:])
        assert before is not None
        assert now is not None
        gain = now.tiles_per_second / before.tiles_per_second
        if gain < WORTH:
            return None, f"{name}: doubling to {batch} brought {100 * (gain - 1):.1f} % more speed"
        peaks = [r.facts.memory.peak for r in tried[-2:] if r.facts]
        chip = request.machine.chip
        expected = peaks[1] + 2 * (peaks[1] - peaks[0])
        if expected > chip.memory // chip.devices_per_chip:
            return None, f"{name}: {2 * batch} would need about {expected / 2**30:.1f} GiB"
    return with_batch(request, 2 * batch), ""
