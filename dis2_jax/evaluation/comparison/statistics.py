"""Mean, deviation and paired difference of groups of runs, per scenario and class. No JAX."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from dis2_jax.evaluation.comparison.runs import Group, Run
from dis2_jax.evaluation.results import ScenarioResult
from dis2_jax.evaluation.scoring.bootstrap import percentile_interval, resampled_ratios
from dis2_jax.evaluation.scoring.measures import Interval

AVERAGE, WORST = "mean over scenarios", "worst scenario"
"""Rows that are made of all of a run's own scenarios, baselines aside."""
RATIOS: dict[str, Callable[[ScenarioResult], float | None]] = {
    "miou": lambda s: s.metrics.miou,
    "mf1": lambda s: s.metrics.mf1,
    "oa": lambda s: s.metrics.oa,
    "kappa": lambda s: s.metrics.kappa,
    "eroded_miou": lambda s: s.eroded.metrics.miou if s.eroded else None,
    "boundary_f1": lambda s: s.boundary.mean_f1 if s.boundary else None,
    "ece": lambda s: s.calibration.ece if s.calibration else None,
    "scene_miou": lambda s: s.scenes.metrics.miou if s.scenes else None,
}
Scores = dict[str, float | None]
"""``miou`` ... and ``iou/<class>``, ``f1/<class>``."""
Samples = dict[str, np.ndarray]
"""The same keys, where the bootstrap gives them: values of every resample ``[S]``, NaN where undefined."""


@dataclasses.dataclass(frozen=True)
class Difference:
    """A group's mean less the baseline's.

    ``deviation`` is over pairs of runs with the same seed, None unless there are two such pairs and no other
    run. ``interval``: of resampled tiles, the same in both groups; None where the tiles are not known.
    """

    mean: float
    deviation: float | None
    pairs: int
    interval: Interval | None

    @property
    def certain(self) -> bool:
        """Whether the interval leaves 0 out."""
        return self.interval is not None and not self.interval[0] <= 0 <= self.interval[1]


@dataclasses.dataclass(frozen=True)
class Statistic:
    """Over the ``runs`` of a group that have the number; the deviation (n - 1) needs two of them."""

    mean: float | None
    deviation: float | None
    runs: int
    difference: Difference | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class GroupStatistics:
    """Row (scenario, ``AVERAGE`` or ``WORST``) -> score -> statistic."""

    group: Group
    rows: Mapping[str, Mapping[str, Statistic]]


@dataclasses.dataclass(frozen=True, eq=False)
class Comparison:
    """All groups; the first is the baseline of the others' differences."""

    groups: tuple[GroupStatistics, ...]
    samples: int
    level: float
    notes: tuple[str, ...]


def compare_groups(
    groups: Sequence[Group], *, samples: int = 1000, seed: int = 0, level: float = 0.95
) -> Comparison:
    """Compute every statistic; the first group is the baseline."""
    rows = _row_names(groups)
    scores = {id(run): _scores(run) for g in groups for run in g.runs}
    paired = samples > 0 and len(groups) > 1 and _same_tiles([r for g in groups for r in g.runs])
    drawn = {id(run): _resample(run, samples=samples, seed=seed) for g in groups for run in g.runs if paired}
    found = []
    for group in groups:
        table = {}
        for row in rows:
            own = [scores[id(r)].get(row, {}) for r in group.runs]
            base = [scores[id(r)].get(row, {}) for r in groups[0].runs]
            keys = dict.fromkeys(k for one in own for k in one)
            table[row] = {
                key: _statistic(
                    [one.get(key) for one in own],
                    None if group is groups[0] else [one.get(key) for one in base],
                    same_seeds=_pairable(group, groups[0]),
                    interval=_difference_interval(
                        [drawn.get(id(r), {}).get(row, {}).get(key) for r in group.runs],
                        [drawn.get(id(r), {}).get(row, {}).get(key) for r in groups[0].runs],
                        level=level,
                    ),
                )
                for key in keys
            }
        found.append(GroupStatistics(group, table))
    return Comparison(tuple(found), samples, level, tuple(_notes(groups, paired=paired, samples=samples)))


def _statistic(
    own: Sequence[float | None],
    base: Sequence[float | None] | None,
    *,
    same_seeds: bool,
    interval: Interval | None,
) -> Statistic:
    known = [v for v in own if v is not None]
    mean = statistics.fmean(known) if known else None
    deviation = statistics.stdev(known) if len(known) > 1 else None
    there = [v for v in base or () if v is not None]
    if mean is None or not there:
        return Statistic(mean, deviation, len(known))
    pairs = [
        a - b for a, b in zip(own, base or (), strict=False) if same_seeds and a is not None and b is not None
    ]
    difference = Difference(
        mean=mean - statistics.fmean(there),
        deviation=statistics.stdev(pairs) if len(pairs) > 1 else None,
        pairs=len(pairs),
        interval=interval,
    )
    return Statistic(mean, deviation, len(known), difference)


def _difference_interval(
    own: Sequence[np.ndarray | None], base: Sequence[np.ndarray | None], *, level: float
) -> Interval | None:
    """Interval of the groups' difference over resamples; None unless every run has them."""
    a, b = ([x for x in side if x is not None] for side in (own, base))
    if not a or not b or len(a) < len(own) or len(b) < len(base):
        return None
    return percentile_interval(np.mean(a, axis=0) - np.mean(b, axis=0), level=level)


def _scores(run: Run) -> dict[str, Scores]:
    """Row -> scores of one run."""
    rows = {s.name: _scenario_scores(s) for s in run.evaluation.scenarios}
    real = [rows[s.name] for s in run.evaluation.real]
    average: Scores = {}
    worst: Scores = {}
    for key in real[0]:
        values = [v for row in real if (v := row[key]) is not None]
        average[key] = statistics.fmean(values) if values else None
        if key in ("miou", "mf1", "oa", "kappa"):
            worst[key] = min(values) if values else None
    return {**rows, AVERAGE: average, WORST: worst}


def _scenario_scores(s: ScenarioResult) -> Scores:
    scores: Scores = {name: ratio(s) for name, ratio in RATIOS.items()}
    for part in ("iou", "f1"):
        scores |= {f"{part}/{c.name}": getattr(c, part) for c in s.metrics.classes}
    return scores


def _resample(run: Run, *, samples: int, seed: int) -> dict[str, Samples]:
    """Row -> score -> values of every resample. Average and worst need scenarios scored on the same tiles."""
    tiles = run.tiles or {}
    rows: dict[str, Samples] = {}
    for name, own in tiles.items():
        ratios = resampled_ratios(own.counts, samples=samples, seed=seed)
        rows[name] = {"miou": ratios.miou, "mf1": ratios.mf1, "oa": ratios.oa}
        for k, c in enumerate(run.evaluation.classes):
            rows[name] |= {f"iou/{c}": ratios.iou[:, k], f"f1/{c}": ratios.f1[:, k]}
    real = [s.name for s in run.evaluation.real]
    if all(n in tiles for n in real) and len({tiles[n].tile_ids for n in real}) == 1:
        stacked = {key: np.stack([rows[n][key] for n in real]) for key in rows[real[0]]}
        rows[AVERAGE] = {key: _mean_known(values) for key, values in stacked.items()}
        rows[WORST] = {key: np.fmin.reduce(stacked[key], axis=0) for key in ("miou", "mf1", "oa")}
    return rows


def _mean_known(values: np.ndarray) -> np.ndarray:
    """Mean over the first axis of what is not NaN."""
    known = ~np.isnan(values)
    count = known.sum(0)
    total = np.where(known, values, 0).sum(0)
    return np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)


def _same_tiles(runs: Sequence[Run]) -> bool:
    """Whether all runs have tables of tiles, with the same names and references in scenarios of one name."""
    seen: dict[str, tuple[tuple[str, ...], np.ndarray]] = {}
    for run in runs:
        if run.tiles is None:
            return False
        for name, own in run.tiles.items():
            reference = own.counts[:, 1]
            ids, wanted = seen.setdefault(name, (own.tile_ids, reference))
            if ids != own.tile_ids or not np.array_equal(reference, wanted):
                return False
    return True


def _pairable(a: Group, b: Group) -> bool:
    """Whether every run has one partner with its seed."""
    return None not in a.seeds and len(set(a.seeds)) == len(a.seeds) and a.seeds == b.seeds


def _row_names(groups: Sequence[Group]) -> list[str]:
    names = (s.name for g in groups for r in g.runs for s in r.evaluation.scenarios)
    return [*dict.fromkeys(names), AVERAGE, WORST]


def _notes(groups: Sequence[Group], *, paired: bool, samples: int) -> list[str]:
    notes = []
    for g in groups:
        if len(set(g.seeds)) < len(g.seeds):
            seeds = ", ".join(map(str, g.seeds))
            notes.append(f"{g.name}: seeds {seeds}; runs of one seed are not independent")
    if len(groups) > 1 and not paired and samples:
        notes.append(
            "no intervals of the differences: not every run has a table of the same tiles (tiles.csv)"
        )
    lacking = [g.name for g in groups[1:] if not _pairable(g, groups[0])]
    if lacking:
        notes.append(f"not paired by seed with {groups[0].name}: {', '.join(lacking)}")
    have = {r.name: {s.name for s in r.evaluation.scenarios} for g in groups for r in g.runs}
    common = set.intersection(*have.values())
    odd = sorted(set.union(*have.values()) - common)
    if odd:
        notes.append(
            f"not in every run, so the mean and the worst are not over the same scenarios: {', '.join(odd)}"
        )
    return notes
