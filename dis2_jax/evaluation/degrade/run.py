"""Degrade a workdir's inputs: measure, and write numbers, tables and curves beside its evaluation."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

from dis2_jax.evaluation.chosen import Choice, open_study
from dis2_jax.evaluation.degrade.kinds import plan_conditions
from dis2_jax.evaluation.degrade.plot import plot_classes, plot_curves, save_bytes
from dis2_jax.evaluation.degrade.results import Degraded
from dis2_jax.evaluation.degrade.stored import Unfinished
from dis2_jax.evaluation.degrade.sweep import point_of, sweep
from dis2_jax.evaluation.degrade.tables import markdown_report
from dis2_jax.files import locked_folder, write_results
from dis2_jax.schema import ClassLegend


@dataclasses.dataclass(frozen=True)
class Damage:
    """What to measure. Empty: everything that fits."""

    kinds: tuple[str, ...] = ()
    modalities: tuple[str, ...] = ()
    severities: tuple[float, ...] = ()
    """Only with one kind: every kind counts something else."""
    students: bool = True
    """Also the students that still use the degraded modality."""


@dataclasses.dataclass(frozen=True)
class DamageReport:
    """The numbers, and the files that hold them. ``measured``: without the curves of earlier calls."""

    degraded: Degraded
    measured: Degraded
    paths: tuple[Path, ...]


class Interrupted(KeyboardInterrupt):
    """Ctrl-C; the text tells what is kept."""


def degrade_workdir(
    workdir: str | Path,
    choice: Choice,
    damage: Damage,
    *,
    on_line: Callable[[int, int], None] | None = None,
) -> DamageReport:
    """Write ``<workdir>/evaluation/degraded.{json,md}``, ``degraded.{png,svg}`` and ``degraded-classes.*``.

    Curves in an earlier file stay if they are of the same weights, tiles and seed and were not measured
    again, so kinds can be measured one by one. A split or dataset that is not the default goes into the names.
    Until all is written, finished severities lie in ``degraded.unfinished.jsonl``; a later call goes on from there.

    Raises:
        Dis2Error: as ``open_study``, ``plan_conditions`` and ``sweep``; a file that is not degraded results; an
            unfinished call of other weights or tiles; another process that works on the same results.
        Interrupted: on Ctrl-C while measuring.
    """
    study = open_study(workdir, choice)
    conditions = plan_conditions(
        study.card.modalities,
        kinds=damage.kinds,
        only=damage.modalities,
        severities=damage.severities,
    )
    stem = f"degraded{study.stem}"
    # Another call would lose this one's severities and curves.
    with locked_folder(study.folder, command="dis2 degrade", flag="--workdir", part=stem):
        path = study.folder / f"{stem}.json"
        older = Degraded.load(path) if path.exists() else None
        unfinished = Unfinished(study.folder / f"{stem}.unfinished.jsonl", study)
        try:
            measured = sweep(
                study, conditions, students=damage.students, unfinished=unfinished, on_line=on_line
            )
        except KeyboardInterrupt as e:
            kept = f"the same command goes on after {len(unfinished)} finished severities"
            raise Interrupted(f"interrupted; {kept}") from e
        found = measured if older is None else measured.with_curves_of(older)
        paths = write_results(study.folder, _files(found, study.card.legend, stem=stem))
        unfinished.drop([point_of(c) for c in (None, *conditions)])
    return DamageReport(found, measured, tuple(paths))


def _files(found: Degraded, legend: ClassLegend, *, stem: str) -> dict[str, str | bytes]:
    figures = {stem: plot_curves(found), f"{stem}-classes": plot_classes(found, legend)}
    files: dict[str, str | bytes] = {}
    for name, figure in figures.items():
        files[f"{name}.png"] = save_bytes(figure, "png")
        files[f"{name}.svg"] = save_bytes(figure, "svg")
    pictures = tuple(f"{name}.png" for name in figures)
    files[f"{stem}.md"] = markdown_report(found, figures=pictures)
    return {**files, f"{stem}.json": found.to_json()}
