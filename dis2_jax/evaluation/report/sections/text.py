"""Numbers and names as text, the same everywhere in a report."""

from __future__ import annotations

from collections.abc import Iterable

from dis2_jax.evaluation.results import Evaluation, ScenarioResult

NONE = "–"


def ratio(value: float | None) -> str:
    """Write three digits, as the tables of `dis2 evaluate` do."""
    return NONE if value is None else f"{value:.3f}"


def interval(ends: tuple[float, float] | None) -> str:
    """Write both ends."""
    return NONE if ends is None else f"{ends[0]:.3f} to {ends[1]:.3f}"


def duration(seconds: float) -> str:
    """Write 3725 as 1 h 2 min, 95 as 1 min 35 s, 7.31 as 7.3 s, 0.0356 as 35.6 ms."""
    if seconds < 1:
        return f"{1000 * seconds:.3g} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def quantity(value: float, unit: str) -> str:
    """Write with a metric prefix: 9.7e9, 'FLOP' -> 9.7 GFLOP."""
    for size, letter in ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g} {letter}{unit}"
    return f"{value:.3g} {unit}"


def listing(names: Iterable[str]) -> str:
    """Join as a, b and c."""
    *others, last = list(names) or [""]
    return f"{', '.join(others)} and {last}" if others else last


def order(evaluation: Evaluation, result: ScenarioResult) -> int:
    """Place of a scenario's colour: full 0, students from 1; baselines as the student they stand against."""
    for i, s in enumerate(evaluation.real):
        if s.available == result.available:
            return i
    return 0
