"""What degraded inputs did to a model, as ``degraded.json`` holds it. No JAX.

The file is one object with the run (``dataset`` ... ``seed``), the unit of each kind's severity (``units``)
and one flat list ``rows``: kind x modality x severity x branch, each with its confusion matrix. All rows
count the same tiles. Rows of kind ``clean`` (modality '', severity 0) are the undegraded branches: the
starting points of the curves, and the horizontal lines of the students that ignore a modality. ``switches``
(derived) says from which severity on such a student is the better choice.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
from pathlib import Path
from typing import Any

from dis2_jax.evaluation.degrade.stored import read_row, row_values
from dis2_jax.evaluation.scoring.metrics import Metrics, summarize
from dis2_jax.files import read_results
from dis2_jax.schema import Dis2Error

CLEAN = "clean"


@dataclasses.dataclass(frozen=True)
class DegradedRow:
    """One branch over all tiles, one of its modalities degraded.

    ``branch`` is a scenario of the model, the full one or a student, such as ``rgb+ndsm``. ``confusion`` has
    rows = reference, columns = prediction, in pixels.
    """

    kind: str
    modality: str
    severity: float
    branch: str
    tiles: int
    confusion: tuple[tuple[int, ...], ...]
    classes: tuple[str, ...]

    @property
    def metrics(self) -> Metrics:
        """Ratios of ``confusion``."""
        return summarize(self.confusion, self.classes)


@dataclasses.dataclass(frozen=True)
class Switch:
    """When to leave ``branch`` for ``fallback``, the student that ignores the degraded modality.

    ``severity`` is where the curve, straight between measured points, first meets the fallback's mIoU: 0 if
    it starts there, None if it never does up to ``highest`` or there is no fallback.
    """

    kind: str
    modality: str
    branch: str
    fallback: str | None
    fallback_miou: float | None
    severity: float | None
    highest: float


@dataclasses.dataclass(frozen=True)
class Degraded:
    """All curves of one model on one split."""

    dataset: str
    split: str
    classes: tuple[str, ...]
    modalities: tuple[str, ...]
    tiles: int
    sample_seed: int
    """Of the order of tiles (``--tiles``) and of everything random in the degradations."""
    units: dict[str, str]
    """Kind -> what its severity counts."""
    rows: tuple[DegradedRow, ...]
    step: int | None = None
    checkpoint: str | None = None
    recipe: str | None = None
    seed: int | None = None

    @property
    def clean(self) -> dict[str, DegradedRow]:
        """Branch -> its undegraded row; the full branch first."""
        return {r.branch: r for r in self.rows if r.kind == CLEAN}

    @property
    def curves(self) -> tuple[tuple[str, str, str], ...]:
        """Every (kind, modality, branch) that was measured."""
        found = ((r.kind, r.modality, r.branch) for r in self.rows if r.kind != CLEAN)
        return tuple(dict.fromkeys(found))

    def curve(self, kind: str, modality: str, branch: str) -> tuple[DegradedRow, ...]:
        """Rows by rising severity, the clean one first. Raises ``Dis2Error`` if it was not measured."""
        if (kind, modality, branch) not in self.curves:
            raise Dis2Error(f"no curve of {branch} with {kind} on {modality!r} here")
        rows = [r for r in self.rows if (r.kind, r.modality, r.branch) == (kind, modality, branch)]
        return (self.clean[branch], *sorted(rows, key=lambda r: r.severity))

    def fallback(self, modality: str, branch: str) -> DegradedRow | None:
        """The clean student to use instead: ``branch`` without the modality, or else the best one within that."""
        rest = tuple(m for m in branch.split("+") if m != modality)
        inside = [r for r in self.clean.values() if set(r.branch.split("+")) <= set(rest)]
        exact = [r for r in inside if r.branch == "+".join(rest)]
        return exact[0] if exact else max(inside, key=lambda r: r.metrics.miou or 0.0, default=None)

    @property
    def switches(self) -> tuple[Switch, ...]:
        """One per curve."""
        return tuple(self._switch(*names) for names in self.curves)

    def _switch(self, kind: str, modality: str, branch: str) -> Switch:
        rows = self.curve(kind, modality, branch)
        instead = self.fallback(modality, branch)
        level = None if instead is None else instead.metrics.miou
        points = [(r.severity, m) for r in rows if (m := r.metrics.miou) is not None]
        return Switch(
            kind=kind,
            modality=modality,
            branch=branch,
            fallback=None if instead is None else instead.branch,
            fallback_miou=level,
            severity=None if level is None else crossing(points, level),
            highest=rows[-1].severity,
        )

    def with_curves_of(self, older: Degraded) -> Degraded:
        """Add the curves of ``older`` that are not here, if it measured the same weights on the same tiles.

        "The same" includes equal counts of the clean branches. Otherwise nothing is added.
        """
        same = [f.name for f in dataclasses.fields(self) if f.name not in ("rows", "units")]
        if self.clean != older.clean or any(getattr(self, k) != getattr(older, k) for k in same):
            return self
        own = set(self.curves)
        kept = [r for r in older.rows if r.kind != CLEAN and (r.kind, r.modality, r.branch) not in own]
        return dataclasses.replace(self, rows=(*self.rows, *kept), units={**older.units, **self.units})

    def to_json(self) -> str:
        """Serialise, with ratios and switches for readers; ``from_json`` is the exact inverse."""
        head = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "rows"}
        rows = [row_values(r) for r in self.rows]
        switches = [dataclasses.asdict(s) for s in self.switches]
        return json.dumps({**head, "switches": switches, "rows": rows}, indent=1)

    @classmethod
    def from_json(cls, text: str) -> Degraded:
        """Parse what ``to_json`` wrote; derived values are computed again. ``Dis2Error`` on anything else."""
        try:
            values: dict[str, Any] = json.loads(text)
            classes = tuple(values["classes"])
            rows = tuple(read_row(r, classes) for r in values["rows"])
            own = {f.name for f in dataclasses.fields(cls)} - {"rows"}
            head: dict[str, Any] = {k: tuple(v) if isinstance(v := values[k], list) else v for k in own}
            return cls(**head, rows=rows)
        except (KeyError, TypeError, ValueError, AttributeError) as e:
            raise Dis2Error(f"not results of degraded inputs: {type(e).__name__}: {e}") from e

    @classmethod
    def load(cls, path: str | Path) -> Degraded:
        """Read a ``degraded.json``."""
        return read_results(path, cls.from_json, command="dis2 degrade")


def crossing(points: list[tuple[float, float]], level: float) -> float | None:
    """First severity at which the line through ``points`` (severity, mIoU; rising) is down at ``level``."""
    if points and points[0][1] <= level:
        return points[0][0]
    for (s0, m0), (s1, m1) in itertools.pairwise(points):
        if m1 <= level < m0:
            return s0 + (s1 - s0) * (m0 - level) / (m0 - m1)
    return None
