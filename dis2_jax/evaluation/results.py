"""What an evaluation found: counts per scenario, and everything that follows from them. No JAX."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, Literal

from dis2_jax.evaluation.metrics import Metrics, summarize
from dis2_jax.schema import Dis2Error

ScenarioKind = Literal["full", "student", "baseline"]


@dataclasses.dataclass(frozen=True)
class ScenarioResult:
    """One row: a branch of the model, or the full branch fed zeros (``baseline``), over one split.

    ``confusion`` has rows = reference, columns = prediction, in pixels. ``tiles`` counts the tiles that took
    part: those in which every modality of ``available`` is really there.
    """

    name: str
    kind: ScenarioKind
    available: tuple[str, ...]
    tiles: int
    confusion: tuple[tuple[int, ...], ...]
    classes: tuple[str, ...]

    @property
    def metrics(self) -> Metrics:
        """Ratios of ``confusion``."""
        return summarize(self.confusion, self.classes)


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """All scenarios of one model on one split, and where the model and the tiles came from.

    ``scenarios`` starts with the full one, then the students, then the baselines (if asked for).
    """

    dataset: str
    split: str
    classes: tuple[str, ...]
    scenarios: tuple[ScenarioResult, ...]
    step: int | None = None
    checkpoint: str | None = None
    recipe: str | None = None
    seed: int | None = None

    @property
    def real(self) -> tuple[ScenarioResult, ...]:
        """The model's own branches: no baselines."""
        return tuple(s for s in self.scenarios if s.kind != "baseline")

    @property
    def full(self) -> ScenarioResult:
        """The scenario with every modality."""
        return next(s for s in self.scenarios if s.kind == "full")

    def scenario(self, name: str) -> ScenarioResult:
        """Look a row up by name, such as ``rgb``."""
        for s in self.scenarios:
            if s.name == name:
                return s
        raise Dis2Error(
            f"no scenario {name!r} in this evaluation: {', '.join(s.name for s in self.scenarios)}"
        )

    @property
    def mean_miou(self) -> float | None:
        """Mean mIoU over the real scenarios that had tiles; selects the best checkpoint."""
        there = [m for s in self.real if (m := s.metrics.miou) is not None]
        return sum(there) / len(there) if there else None

    @property
    def worst(self) -> ScenarioResult | None:
        """The real scenario with the lowest mIoU."""
        there = [(m, s) for s in self.real if (m := s.metrics.miou) is not None]
        return min(there, key=lambda pair: pair[0])[1] if there else None

    def gap(self, result: ScenarioResult) -> float | None:
        """MIoU lost against the full scenario (negative: better than full)."""
        full, own = self.full.metrics.miou, result.metrics.miou
        return None if full is None or own is None else full - own

    def to_json(self) -> str:
        """Serialise counts, and the ratios for readers; ``from_json`` is the exact inverse."""
        worst = self.worst
        head = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "scenarios"}
        rows = [
            {
                "name": s.name,
                "kind": s.kind,
                "available": s.available,
                "tiles": s.tiles,
                "gap_to_full": self.gap(s),
                **dataclasses.asdict(s.metrics),
                "confusion": s.confusion,
            }
            for s in self.scenarios
        ]
        summary = {"mean_miou": self.mean_miou, "worst_scenario": worst.name if worst else None}
        return json.dumps({**head, **summary, "scenarios": rows}, indent=1)

    @classmethod
    def from_json(cls, text: str) -> Evaluation:
        """Parse what ``to_json`` wrote; ratios are computed again. Raises ``Dis2Error`` on anything else."""
        try:
            values: dict[str, Any] = json.loads(text)
            classes = tuple(values["classes"])
            rows = tuple(
                ScenarioResult(
                    name=row["name"],
                    kind=row["kind"],
                    available=tuple(row["available"]),
                    tiles=row["tiles"],
                    confusion=tuple(tuple(int(n) for n in line) for line in row["confusion"]),
                    classes=classes,
                )
                for row in values["scenarios"]
            )
            head = {k: values[k] for k in ("dataset", "split", "step", "checkpoint", "recipe", "seed")}
            return cls(classes=classes, scenarios=rows, **head)
        except (KeyError, TypeError, ValueError, AttributeError) as e:
            raise Dis2Error(f"not an evaluation: {type(e).__name__}: {e}") from e

    @classmethod
    def load(cls, path: str | Path) -> Evaluation:
        """Read an ``evaluation.json``."""
        if not Path(path).is_file():
            raise Dis2Error(f"{path} not found: write it with `dis2 evaluate --workdir ...`")
        try:
            return cls.from_json(Path(path).read_text())
        except Dis2Error as e:
            raise Dis2Error(f"{path}: {e}") from e
