"""From paths to a comparison, and to its files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dis2_jax.evaluation.comparison.runs import group_runs, load_runs
from dis2_jax.evaluation.comparison.statistics import Comparison, compare_groups
from dis2_jax.evaluation.comparison.tables import json_comparison, markdown_comparison
from dis2_jax.files import write_results
from dis2_jax.schema import Dis2Error


def compare_runs(
    runs: Sequence[str | Path],
    *,
    baseline: Sequence[str | Path] = (),
    split: str | None = None,
    samples: int = 1000,
) -> Comparison:
    """Compare evaluated runs; see ``load_runs`` for what a run may be and what is refused.

    Args:
        runs: workdirs or evaluation files.
        baseline: one run, or the seeds of one setting, to take differences to; they may be among ``runs``.
            None given: the setting of the first run.
        split: of the workdirs' evaluations; None: the one of ``evaluation.json``.
        samples: bootstrap resamples of the tiles; 0: no intervals.
    """
    if samples < 0:
        raise Dis2Error(f"--bootstrap {samples}: it must be at least 0")
    given = {Path(p).resolve() for p in baseline}
    others = [p for p in runs if Path(p).resolve() not in given]
    if len(baseline) + len(others) < 2:
        raise Dis2Error("name at least two runs to compare, such as `dis2 compare runs/a runs/b`")
    loaded = load_runs([*baseline, *others], split=split)
    groups = group_runs(loaded, baseline=loaded[: len(baseline)])
    return compare_groups(groups, samples=samples)


def write_comparison(comparison: Comparison, folder: str | Path) -> list[Path]:
    """Write ``comparison.md`` and ``comparison.json``; return their paths."""
    texts = {
        "comparison.md": markdown_comparison(comparison),
        "comparison.json": json_comparison(comparison),
    }
    return write_results(Path(folder), texts)
