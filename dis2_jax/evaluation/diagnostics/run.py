"""Diagnose a workdir: compare, and write numbers, tables and pictures beside its evaluation."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

from dis2_jax.evaluation.chosen import Choice, open_study
from dis2_jax.evaluation.diagnostics.attention import attention_sheet
from dis2_jax.evaluation.diagnostics.compare import compare_branches
from dis2_jax.evaluation.diagnostics.results import Diagnostics
from dis2_jax.evaluation.diagnostics.tables import markdown_report
from dis2_jax.files import write_results
from dis2_jax.schema import Dis2Error


@dataclasses.dataclass(frozen=True)
class DiagnosisReport:
    """The numbers, and the files that hold them."""

    diagnostics: Diagnostics
    paths: tuple[Path, ...]


def diagnose_workdir(
    workdir: str | Path,
    choice: Choice,
    *,
    positions: int = 64,
    pictures: int = 4,
    on_batch: Callable[[int, int], None] | None = None,
) -> DiagnosisReport:
    """Write ``<workdir>/evaluation/diagnostics.{json,md}`` and ``attention/<split>-tile-<n>.png``.

    A split or dataset that is not the default goes into the names (``diagnostics-validation.json``). Pictures
    of an earlier diagnosis of the same split are replaced. Errors as ``open_study`` and ``compare_branches``.
    """
    for option, value, least in (("positions", positions, 1), ("pictures", pictures, 0)):
        if value < least:
            raise Dis2Error(f"--{option} {value}: it must be at least {least}")
    study = open_study(workdir, choice)
    found = compare_branches(study, positions=positions, pictures=pictures, on_batch=on_batch)
    prefix = f"diagnostics{study.stem}"
    sheets = {
        f"attention/{prefix}-{study.split}-tile-{e.index}.png": attention_sheet(e, study.card)
        for e in found.examples
    }
    diagnostics = dataclasses.replace(found.diagnostics, attention=tuple(sheets))
    paths = write_results(study.folder, sheets)
    paths += write_results(
        study.folder,
        {f"{prefix}.json": diagnostics.to_json(), f"{prefix}.md": markdown_report(diagnostics)},
    )
    for old in (study.folder / "attention").glob(f"{prefix}-{study.split}-tile-*.png"):
        if old not in paths:
            old.unlink()
    return DiagnosisReport(diagnostics, tuple(paths))
