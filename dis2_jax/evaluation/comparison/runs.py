"""Read the evaluations to compare, refuse what cannot be compared, put runs that differ only in seed together."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dis2_jax import config_file
from dis2_jax.config import Config
from dis2_jax.evaluation.results import Evaluation
from dis2_jax.evaluation.scoring.bootstrap import class_counts_of
from dis2_jax.evaluation.scoring.tile_table import TileCounts, read_tile_counts
from dis2_jax.schema import Dis2Error

FOLDER = "evaluation"
_SAME_TRAINING = frozenset(
    {
        "train.seed",
        "data.dir",
        "data.workers",
        "train.log_every",
        "train.checkpoint_every",
        "train.keep",
        "train.eval_batch_size",
        "train.panels",
    }
)
"""Config keys in which runs of one group may differ: the seed, and what does not touch the result."""


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
    """One evaluated run. ``config`` and ``tiles`` (scenario -> counts) are None where their files are missing."""

    name: str
    path: Path
    evaluation: Evaluation
    config: Config | None
    tiles: Mapping[str, TileCounts] | None

    @property
    def setting(self) -> Any:
        """Equal for two runs that differ only in seed; a run without a config is alone with its path."""
        if self.config is None:
            return str(self.path)
        leaves = [k for k in config_file.keys(Config) if k not in _SAME_TRAINING]
        how = (self.evaluation.checkpoint, self.evaluation.tta)
        return (*how, *(config_file.get(self.config, k) for k in leaves))


@dataclasses.dataclass(frozen=True, eq=False)
class Group:
    """Runs of one setting, by seed. ``differs``: what distinguishes it from the baseline, in words."""

    name: str
    runs: tuple[Run, ...]
    differs: tuple[str, ...] = ()

    @property
    def seeds(self) -> tuple[int | None, ...]:
        """One per run."""
        return tuple(r.evaluation.seed for r in self.runs)


def load_runs(paths: Sequence[str | Path], *, split: str | None) -> tuple[Run, ...]:
    """Read workdirs, or files that `dis2 evaluate` wrote.

    Args:
        paths: workdirs or ``evaluation*.json`` files.
        split: of the workdirs' evaluations; None: the one of ``evaluation.json``.

    Raises:
        Dis2Error: runs that were not evaluated, with the commands to do that; the same run twice; runs on
            different datasets, splits, classes or tiles.
    """
    files = [_evaluation_file(Path(p), split) for p in paths]
    lacking = [str(p) for p, f in zip(paths, files, strict=True) if f is None]
    if lacking:
        option = f" --split {split}" if split else ""
        commands = " && ".join(f"dis2 evaluate --workdir {p}{option}" for p in lacking)
        raise Dis2Error(f"not evaluated yet: {', '.join(lacking)}; run {commands}")
    known = [f for f in files if f is not None]
    for a, b in itertools.combinations(known, 2):
        if a.resolve() == b.resolve():
            raise Dis2Error(f"{a} is given twice: name every run once")
    runs = tuple(_load(f, name) for f, name in zip(known, _names(paths), strict=True))
    for other in runs[1:]:
        _check_comparable(runs[0], other)
    return runs


def group_runs(runs: Sequence[Run], *, baseline: Sequence[Run]) -> tuple[Group, ...]:
    """Put runs that differ only in seed together, in the order given; the group of ``baseline`` comes first.

    Raises ``Dis2Error`` when ``baseline`` names runs of more than one setting.
    """
    ordered = [*baseline, *(r for r in runs if all(r is not b for b in baseline))]
    settings: dict[Any, list[Run]] = {}
    for run in ordered:
        settings.setdefault(run.setting, []).append(run)
    if len({run.setting for run in baseline}) > 1:
        names = ", ".join(r.name for r in baseline)
        raise Dis2Error(f"--baseline {names}: they differ in more than the seed; name runs of one setting")
    first = next(iter(settings.values()))[0]
    return tuple(_group(own, first) for own in settings.values())


def _group(runs: Sequence[Run], first: Run) -> Group:
    by_seed = sorted(runs, key=lambda r: (r.evaluation.seed is None, r.evaluation.seed, r.name))
    name = runs[0].name if len(runs) == 1 else f"{runs[0].name} (x{len(runs)})"
    return Group(name, tuple(by_seed), _differences(first, runs[0]))


def _differences(first: Run, other: Run) -> tuple[str, ...]:
    """Config keys (and how it was evaluated) in which a group differs from the first, as ``key = value``."""
    found = []
    if first.evaluation.checkpoint != other.evaluation.checkpoint:
        found.append(f"checkpoint = {other.evaluation.checkpoint}")
    if first.evaluation.tta != other.evaluation.tta:
        found.append(f"test-time augmentation = {other.evaluation.tta}")
    if first.config is not None and other.config is not None:
        changed = config_file.differences(first.config, other.config)
        found += [f"{d.key} = {d.new}" for d in changed if d.key not in _SAME_TRAINING]
    return tuple(found)


def _evaluation_file(path: Path, split: str | None) -> Path | None:
    """The evaluation that a user means by a workdir, or by the file itself; None if it is not there yet."""
    if path.is_file():
        return path
    if not path.is_dir():
        raise Dis2Error(f"{path} not found: give a workdir, or a file that `dis2 evaluate` wrote")
    folder = path / FOLDER
    default = folder / "evaluation.json"
    if split is None:
        return default if default.is_file() else None
    named = folder / f"evaluation-{split}.json"
    if named.is_file():
        return named
    return default if default.is_file() and Evaluation.load(default).split == split else None


def _load(path: Path, name: str) -> Run:
    evaluation = Evaluation.load(path)
    table = path.with_name(path.name.replace("evaluation", "tiles", 1)).with_suffix(".csv")
    tiles = None
    if path.name.startswith("evaluation") and table.is_file():
        tiles = read_tile_counts(table, evaluation.classes)
        _check_tiles(table, tiles, evaluation)
    workdir = path.absolute().parent.parent
    has_config = (workdir / config_file.CONFIG_FILE).is_file()
    return Run(name, path, evaluation, config_file.read(workdir) if has_config else None, tiles)


def _names(paths: Sequence[str | Path]) -> list[str]:
    """Last parts of the paths, as many as make them distinct."""
    whole = [Path(p).absolute() for p in paths]
    for count in range(1, max(len(p.parts) for p in whole)):
        names = ["/".join(p.parts[-count:]) for p in whole]
        if len(set(names)) == len(names):
            return names
    return [str(p) for p in paths]


def _check_tiles(table: Path, tiles: Mapping[str, TileCounts], evaluation: Evaluation) -> None:
    """Refuse a table of tiles that another evaluation wrote."""
    for s in evaluation.scenarios:
        wanted = class_counts_of(np.array(s.confusion, np.int64))
        found = tiles[s.name].counts.sum(0) if s.name in tiles else np.zeros_like(wanted)
        if not np.array_equal(found, wanted):
            raise Dis2Error(
                f"{table} and the evaluation beside it disagree (scenario {s.name}): evaluate again"
            )


def _check_comparable(a: Run, b: Run) -> None:
    for what in ("dataset", "split", "classes", "excluded"):
        old, new = getattr(a.evaluation, what), getattr(b.evaluation, what)
        if old != new:
            told = [", ".join(v) or "none" if isinstance(v, tuple) else v for v in (old, new)]
            raise Dis2Error(
                f"{what} of {a.path}: {told[0]}; of {b.path}: {told[1]}: only runs scored alike can be compared"
            )
    for s in a.evaluation.scenarios:
        other = next((o for o in b.evaluation.scenarios if o.name == s.name), None)
        if other is None:
            continue
        pixels = [[c.reference for c in r.metrics.classes] for r in (s, other)]
        if s.tiles != other.tiles or pixels[0] != pixels[1]:
            raise Dis2Error(
                f"{a.path} and {b.path} were not scored on the same tiles (scenario {s.name}: {s.tiles} and"
                f" {other.tiles} tiles, {sum(pixels[0])} and {sum(pixels[1])} px): evaluate both on one dataset"
            )
