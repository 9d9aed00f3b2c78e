"""Rows of degraded inputs as text: in ``degraded.json``, and as they come in the file of an unfinished call."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dis2_jax
from dis2_jax.files import write_whole
from dis2_jax.schema import Dis2Error

if TYPE_CHECKING:
    from dis2_jax.evaluation.chosen import Study
    from dis2_jax.evaluation.degrade.results import DegradedRow

Point = tuple[str, str, float]
"""Kind, modality, severity: what is measured at a time; ``('clean', '', 0.0)`` is the undegraded one."""


def row_values(row: DegradedRow) -> dict[str, Any]:
    """Return a row for JSON, with ratios for readers. The classes stand elsewhere in the file."""
    m = row.metrics
    own = {k: getattr(row, k) for k in ("kind", "modality", "severity", "branch", "tiles")}
    ratios = {"miou": m.miou, "mf1": m.mf1, "oa": m.oa, "iou": [c.iou for c in m.classes]}
    return {**own, **ratios, "confusion": row.confusion}


def read_row(values: Mapping[str, Any], classes: Sequence[str]) -> DegradedRow:
    """Undo ``row_values``, exactly. ``KeyError``, ``TypeError`` or ``ValueError`` on anything else."""
    from dis2_jax.evaluation.degrade.results import DegradedRow

    return DegradedRow(
        kind=values["kind"],
        modality=values["modality"],
        severity=values["severity"],
        branch=values["branch"],
        tiles=values["tiles"],
        confusion=tuple(tuple(int(n) for n in line) for line in values["confusion"]),
        classes=tuple(classes),
    )


class Unfinished:
    """The finished severities of a call that may be interrupted: one JSON line each, behind one that tells of the call.

    Raises ``Dis2Error`` when the file is of other weights or tiles, so that nothing finished is lost unasked.
    """

    def __init__(self, path: Path, study: Study) -> None:
        self.path = path
        self._call = _identity(study)
        self._classes = study.card.legend.names
        self._rows: dict[Point, list[dict[str, Any]]] = {}
        if path.exists():
            self._read()

    def __len__(self) -> int:
        return len(self._rows)

    def rows(self, point: Point, branches: Sequence[str]) -> list[DegradedRow] | None:
        """Rows of these branches at a point; None unless all of them are there."""
        found = {values["branch"]: values for values in self._rows.get(point, [])}
        if not set(branches) <= set(found):
            return None
        return [read_row(found[branch], self._classes) for branch in branches]

    def add(self, point: Point, rows: Sequence[DegradedRow]) -> None:
        """Keep a finished point, on the disk when this returns. Raises ``Dis2Error`` where it cannot be."""
        self._rows[point] = [row_values(row) for row in rows]
        try:
            if not self.path.exists():
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._rewrite()
                return
            with self.path.open("a") as file:
                file.write(_line({"point": point, "rows": self._rows[point]}))
                file.flush()
                os.fsync(file.fileno())
        except OSError as e:
            raise Dis2Error(f"{self.path} cannot be written: {e.strerror}") from e

    def drop(self, points: Sequence[Point]) -> None:
        """Forget points that are in the results now; without others the file goes."""
        self._rows = {p: rows for p, rows in self._rows.items() if p not in points}
        if self._rows:
            self._rewrite()
        else:
            self.path.unlink(missing_ok=True)

    def _rewrite(self) -> None:
        points = [_line({"point": p, "rows": rows}) for p, rows in self._rows.items()]
        write_whole(self.path, "".join([_line({"call": self._call}), *points]))

    def _read(self) -> None:
        """Read whole lines; a kill may have torn the last one, which is cut off."""
        try:
            lines = [json.loads(text) for text in self.path.read_text().split("\n")[:-1]]
            call = lines[0]["call"]
            for line in lines[1:]:
                kind, modality, severity = line["point"]
                rows = [row_values(read_row(values, self._classes)) for values in line["rows"]]
                self._rows[kind, modality, severity] = rows
        except (OSError, UnicodeDecodeError, ValueError, KeyError, TypeError, IndexError) as e:
            raise Dis2Error(
                f"{self.path} cannot be read ({type(e).__name__}): delete it to start over"
            ) from e
        for what, value in self._call.items():
            if call.get(what) != value:
                raise Dis2Error(
                    f"{self.path} holds {len(self._rows)} finished severities of a call with another {what}"
                    f" ({call.get(what)} there, {value} now): repeat that call, or delete the file"
                )
        self._rewrite()


def _identity(study: Study) -> dict[str, Any]:
    """What decides the counts, in the words of the command where it has some."""
    dataset = hashlib.blake2b(study.card.to_json().encode(), digest_size=8).hexdigest()
    return {
        "--checkpoint": study.provenance.get("step"),
        "--split": study.split,
        "--tiles": len(study.indices),
        "--seed": study.seed,
        "dataset": f"{study.card.name} {dataset}",
        "normalisation": study.data.normalize,
        "weights": _weights_digest(study.variables),
        "version": dis2_jax.__version__,
    }


def _weights_digest(variables: Mapping[str, Any]) -> str:
    import jax
    import numpy as np

    digest = hashlib.blake2b(digest_size=8)
    for leaf in jax.tree.leaves(dict(variables)):
        digest.update(np.asarray(leaf).tobytes())
    return digest.hexdigest()


def _line(values: Mapping[str, Any]) -> str:
    return json.dumps(values) + "\n"
