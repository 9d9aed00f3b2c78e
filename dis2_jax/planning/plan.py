"""A plan: which rows a question needs, and their predictions side by side."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

from dis2_jax.config import Config
from dis2_jax.planning.axes import plan_axes
from dis2_jax.planning.model import Prediction, predict
from dis2_jax.planning.request import Request, Row
from dis2_jax.planning.topology import parse_topology
from dis2_jax.schema import DatasetCard, Dis2Error

Compile = Callable[[Request], Row]


@dataclasses.dataclass(frozen=True)
class Line:
    """A row of the plan with what is predicted of it."""

    row: Row
    prediction: Prediction | None
    efficiency: float | None
    """Tiles per second and chip, over those of one chip alone with as many tiles; None without that row."""
    baseline: bool = False
    """There only to compare with."""


def make_request(
    config: Config,
    card: DatasetCard,
    *,
    topology: str,
    strategy: str,
    axes: str = "",
    remat: str = "none",
    batch: int,
    tile: tuple[int, int],
) -> Request:
    """One row's request: ``batch`` tiles over all chips. Raises ``Dis2Error`` for a machine or size that is none."""
    machine = parse_topology(topology)
    axes = axes or plan_axes(strategy, machine, tile=tile, classes=len(card.legend))
    if batch < 1:
        raise Dis2Error(f"a global batch of {batch}: it must be at least 1")
    values = config.to_dict()
    values["sharding"] |= {"strategy": strategy, "axes": axes, "remat": remat}
    values["data"] |= {"batch_size": batch, "crop": tile}
    return Request(topology, Config.from_dict(values), card, tile)


def baseline_of(request: Request) -> Request | None:
    """The same work per chip on one chip alone; None where a chip has no whole number of tiles, or is alone already."""
    machine, batch = request.machine, request.config.data.batch_size
    if batch % machine.chips or machine.chips == 1:
        return None
    return make_request(
        request.config,
        request.card,
        topology=f"{machine.chip.name}:1",
        strategy="dp" if machine.chip.devices_per_chip > 1 else "single",
        remat=request.config.sharding.remat,
        batch=batch // machine.chips,
        tile=request.tile,
    )


def run_plan(requests: Sequence[Request], compile_row: Compile, *, baselines: bool = True) -> list[Line]:
    """Compile all requests, and the one-chip rows they are compared with (each once, in front)."""
    own = {r.to_json(): r for r in requests}
    needed = {b.to_json(): b for r in requests if (b := baseline_of(r)) is not None} if baselines else {}
    alone = {key: compile_row(b) for key, b in needed.items() if key not in own}
    rows = {key: compile_row(r) for key, r in own.items()}
    front = [Line(row, predicted(row), None, baseline=True) for row in alone.values()]
    return front + [_compared(row, {**alone, **rows}) for row in rows.values()]


def _compared(row: Row, known: Mapping[str, Row]) -> Line:
    """Predict a row, and compare it with its one-chip row where ``known`` has that."""
    prediction, wanted = predicted(row), baseline_of(row.request)
    base = known.get(wanted.to_json()) if wanted is not None else None
    alone = predicted(base) if base is not None else None
    efficiency = None
    if prediction and alone:
        chips = row.request.machine.chips
        efficiency = prediction.tiles_per_second / chips / alone.tiles_per_second
    return Line(row, prediction, efficiency)


def predicted(row: Row) -> Prediction | None:
    """Apply the model of time to a compiled row."""
    if row.facts is None:
        return None
    config = row.request.config
    return predict(
        row.facts, row.request.machine, global_batch=config.data.batch_size, dtype=config.model.dtype
    )
