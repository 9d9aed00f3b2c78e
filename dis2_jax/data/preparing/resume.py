"""What an unfinished run left that can be used."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

from dis2_jax.data.preparing.inputs import NOTE_SUFFIX
from dis2_jax.data.preparing.parts import JobSummary
from dis2_jax.data.preparing.work import Work
from dis2_jax.files import LOCK_FILE


@dataclasses.dataclass(frozen=True)
class Found:
    """Numbers of finished jobs, and what there is to tell about the others."""

    finished: frozenset[int]
    notes: tuple[str, ...]


def find_finished(work: Work) -> Found:
    """Find the jobs whose parts are whole and whose inputs are still the same; clear everything else away."""
    finished: set[int] = set()
    changed = 0
    for number in range(len(work.jobs)):
        if not work.summary(number).exists():
            continue
        if _usable(work, number):
            finished.add(number)
        else:
            changed += 1
    others = _clear(work, finished)
    notes = []
    if finished or changed or others:
        notes.append(f"{len(finished)} of {len(work.jobs)} jobs were there from an unfinished run")
    if changed:
        notes.append(
            f"{changed} jobs were made again: their inputs have changed, or their parts were damaged"
        )
    if others:
        notes.append(f"{others} jobs of an unfinished run with other options or files were thrown away")
    return Found(frozenset(finished), tuple(notes))


def _usable(work: Work, number: int) -> bool:
    """Whether the part has its size (its records are compared when they are joined) and the inputs are the same."""
    try:
        summary = JobSummary.load(work.summary(number))
        if work.part(number).stat().st_size != summary.size:
            return False
    except (OSError, ValueError):
        return False
    return all(found.is_still(Path(path), work.folder) for path, found in summary.inputs.items())


def _clear(work: Work, finished: set[int]) -> int:
    """Delete what is of no use; return the number of finished jobs among it that this run does not know."""
    kept = {p.name for n in finished for p in (work.part(n), work.summary(n))} | {LOCK_FILE}
    known = {work.summary(n).name for n in range(len(work.jobs))}
    others = 0
    for path in list(work.folder.iterdir()):
        if path.name in kept or path.suffix == NOTE_SUFFIX:
            continue
        others += path.suffix == ".json" and path.name not in known
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return others
