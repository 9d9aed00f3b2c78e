"""What a workdir holds for a report. Reading is cheap and without JAX; only a missing evaluation is made first."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Generic, Literal, TypeVar

import numpy as np

from dis2_jax import config_file
from dis2_jax.config import Config
from dis2_jax.evaluation.degrade.results import Degraded
from dis2_jax.evaluation.diagnostics.results import Diagnostics
from dis2_jax.evaluation.report.history import History, read_history
from dis2_jax.evaluation.results import Evaluation
from dis2_jax.evaluation.run import FOLDER, Options, default_split, evaluate_workdir
from dis2_jax.evaluation.scoring.bootstrap import class_counts_of
from dis2_jax.evaluation.scoring.tile_table import TileCounts, read_tile_counts
from dis2_jax.schema import DatasetCard, Dis2Error, nearest
from dis2_jax.training import checkpoint as checkpoints
from dis2_jax.training.environment import Session, read_sessions
from dis2_jax.training.workdir import CHECKPOINTS, read_card

Checkpoint = Literal["best", "last"] | int
T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Maybe(Generic[T]):
    """Something that may be there, or one line why it is not."""

    value: T | None
    why: str = ""


@dataclasses.dataclass(frozen=True)
class Inputs:
    """Everything that sections are made from."""

    workdir: Path
    config: Config
    card: DatasetCard
    checkpoint: Checkpoint
    step: int
    split: str
    own_split: bool
    """Whether the split is the one that `dis2 evaluate` takes by itself."""
    evaluation: Evaluation
    evaluation_path: Path
    origin: str
    """Where the evaluation comes from, in a sentence."""
    history: History
    sessions: Maybe[tuple[Session, ...]]
    tiles: Maybe[dict[str, TileCounts]]
    diagnostics: Maybe[Diagnostics]
    degraded: Maybe[Degraded]

    def command(self, name: str) -> str:
        """Return a command that makes something of this run's checkpoint and split."""
        parts = [f"dis2 {name} --workdir {self.workdir}"]
        if not self.own_split:
            parts.append(f"--split {self.split}")
        if self.checkpoint != "best":
            parts.append(f"--checkpoint {self.checkpoint}")
        return " ".join(parts)


def read_inputs(
    workdir: str | Path,
    *,
    split: str | None = None,
    checkpoint: Checkpoint = "best",
    say: Callable[[str], None],
    on_batch: Callable[[int, int], None] | None = None,
) -> Inputs:
    """Read a run; evaluate it first unless ``evaluation.json`` belongs to the same checkpoint.

    Args:
        workdir: of `dis2 train`.
        split: None: test if the dataset has it, else validation.
        checkpoint: which weights.
        say: told in a line where the evaluation comes from.
        on_batch: as in ``evaluate_workdir``.

    Raises:
        Dis2Error: not a workdir, no such checkpoint or split, or an evaluation that cannot be made.
    """
    folder = Path(workdir)
    config, card = config_file.read(folder), read_card(folder)
    own = default_split(card, config.data)
    chosen = split or own
    if card.splits and chosen not in card.splits:
        raise Dis2Error(
            f"no split {chosen!r}{nearest(chosen, card.splits)}; the dataset has {', '.join(card.splits)}"
        )
    step = checkpoints.find_step(folder, checkpoint)
    ending = "" if chosen == own else f"-{chosen}"
    path = folder / FOLDER / f"evaluation{ending}.json"
    stale = _why_not(path, folder, step=step)
    if stale is None:
        origin = f"reused {path} (step {step})"
        say(origin)
    else:
        say(f"{stale}; evaluating step {step} on {chosen} ...")
        made = evaluate_workdir(folder, Options(split=chosen, checkpoint=checkpoint), on_batch=on_batch)
        # Of another name where the dataset's card has changed since the training.
        path = next(p for p in made.paths if p.suffix == ".json")
        ending = path.stem.removeprefix("evaluation")
        origin = f"evaluated for this report into {path} (step {step})"
    evaluation = Evaluation.load(path)
    results = folder / FOLDER
    return Inputs(
        workdir=folder,
        config=config,
        card=card,
        checkpoint=checkpoint,
        step=step,
        split=chosen,
        own_split=chosen == own,
        evaluation=evaluation,
        evaluation_path=path,
        origin=origin,
        history=read_history(folder),
        sessions=_attempt(lambda: read_sessions(folder)),
        tiles=_attempt(lambda: _tile_counts(results / f"tiles{ending}.csv", evaluation)),
        diagnostics=_attempt(lambda: _of_step(Diagnostics.load, results / f"diagnostics{ending}.json", step)),
        degraded=_attempt(lambda: _of_step(Degraded.load, results / f"degraded{ending}.json", step)),
    )


def _attempt(read: Callable[[], T]) -> Maybe[T]:
    """Read a file that may be missing or damaged: the rest of the report does not need it."""
    try:
        return Maybe(read())
    except Dis2Error as e:
        return Maybe(None, str(e))


def _why_not(path: Path, workdir: Path, *, step: int) -> str | None:
    """Say why an evaluation is not of this checkpoint; None: it is."""
    if not path.is_file():
        return f"{path} is not there"
    try:
        found = Evaluation.load(path)
    except Dis2Error as e:
        return str(e)
    if found.step != step:
        return f"{path} is of step {found.step}"
    saved = _saved_at(workdir / CHECKPOINTS / str(step))
    if saved is not None and path.stat().st_mtime < saved:
        return f"{path} is older than checkpoint {step}"
    return None


def _saved_at(folder: Path) -> float | None:
    """Seconds since 1970 at which Orbax finished a checkpoint, by its own note; copies keep that."""
    try:
        noted = json.loads((folder / "_CHECKPOINT_METADATA").read_text())["commit_timestamp_nsecs"]
        return float(noted) / 1e9
    except (OSError, ValueError, KeyError, TypeError):
        return None


S = TypeVar("S", Diagnostics, Degraded)


def _of_step(load: Callable[[Path], S], path: Path, step: int) -> S:
    if not path.is_file():
        raise Dis2Error("Not measured yet.")
    found = load(path)
    if found.step != step:
        raise Dis2Error(f"{path} is of step {found.step}, this report of step {step}.")
    return found


def _tile_counts(path: Path, evaluation: Evaluation) -> dict[str, TileCounts]:
    """Read ``tiles.csv`` and check that it adds up to the evaluation."""
    if not path.is_file():
        raise Dis2Error(f"{path} is not there: the evaluation is of an older version.")
    found = read_tile_counts(path, evaluation.classes)
    for s in evaluation.real:
        confusion = np.asarray(s.confusion, np.int64)
        own = found[s.name].counts.sum(0) if s.name in found else np.zeros((3, len(confusion)), np.int64)
        if not np.array_equal(own, class_counts_of(confusion)):
            raise Dis2Error(f"{path} does not add up to the evaluation (scenario {s.name}).")
    return found
