"""``metrics.jsonl`` as curves. No JAX."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dis2_jax.evaluation.report.drawing.curves import Series
from dis2_jax.training.logs import METRICS_FILE

NOT_CURVES = frozenset({"step", "kind", "epoch"})


@dataclasses.dataclass(frozen=True)
class History:
    """Entries of one kind each, by ascending step."""

    train: tuple[Mapping[str, Any], ...] = ()
    validation: tuple[Mapping[str, Any], ...] = ()

    def curves(self, kind: str) -> tuple[Series, ...]:
        """Every number that ``kind`` logged, in the order of its keys; values that were not finite left out."""
        entries = self.train if kind == "train" else self.validation
        names = dict.fromkeys(key for e in entries for key in e if key not in NOT_CURVES)
        found = []
        for name in names:
            pairs = [(e["step"], e[name]) for e in entries if _finite(e.get(name))]
            if pairs:
                steps, values = np.array(pairs, np.float64).T
                found.append(Series(name, steps, values))
        return tuple(found)

    @property
    def speeds(self) -> np.ndarray:
        """Tiles per second of every log window that was measured."""
        values = (e.get("tiles_per_second") for e in self.train)
        return np.array([v for v in values if _finite(v)], np.float64)

    @property
    def best_step(self) -> int | None:
        """Step of the highest mean mIoU in validation."""
        ranked = [(e["mean_miou"], -e["step"]) for e in self.validation if e.get("mean_miou") is not None]
        return -max(ranked)[1] if ranked else None


def read_history(workdir: str | Path) -> History:
    """Read the log. Resumed sessions are joined: of two entries for a step the later line holds."""
    path = Path(workdir) / METRICS_FILE
    if not path.is_file():
        return History()
    entries: dict[tuple[str, int], Mapping[str, Any]] = {}
    for line in path.read_text(errors="replace").splitlines():
        try:
            entry = json.loads(line)
            entries[str(entry["kind"]), int(entry["step"])] = entry
        except (ValueError, KeyError, TypeError):
            continue  # a kill cut it; training drops such a line too

    def kind(name: str) -> tuple[Mapping[str, Any], ...]:
        return tuple(e for (k, _), e in sorted(entries.items(), key=lambda p: p[0][1]) if k == name)

    return History(train=kind("train"), validation=kind("validation"))


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
