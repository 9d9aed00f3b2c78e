"""What an evaluation found: counts per scenario, and everything that follows from them. No JAX."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from dis2_jax.evaluation.scoring.measures import (
    Boundary,
    Calibration,
    Confusion,
    Eroded,
    Intervals,
    Scenes,
    read_confusion,
)
from dis2_jax.evaluation.scoring.metrics import Metrics, mean_of_known, summarize
from dis2_jax.files import read_results
from dis2_jax.schema import Dis2Error

ScenarioKind = Literal["full", "student", "baseline"]


@dataclasses.dataclass(frozen=True)
class ScenarioResult:
    """One row: a branch of the model, or the full branch fed zeros (``baseline``), over one split.

    ``confusion`` has rows = reference, columns = prediction, in pixels. ``tiles`` counts the tiles that took
    part: those in which every modality of ``available`` is really there. The fields from ``calibration`` on
    are None where they were not measured: in validations, and in files of older versions.
    """

    name: str
    kind: ScenarioKind
    available: tuple[str, ...]
    tiles: int
    confusion: Confusion
    classes: tuple[str, ...]
    excluded_pixels: int = 0
    """Reference pixels of excluded classes, which are not in ``confusion``."""
    calibration: Calibration | None = None
    intervals: Intervals | None = None
    boundary: Boundary | None = None
    eroded: Eroded | None = None
    scenes: Scenes | None = None
    """None also where the tiles' places in their scenes are not known (``Evaluation.no_scenes``)."""

    @property
    def metrics(self) -> Metrics:
        """Ratios of ``confusion``."""
        return summarize(self.confusion, self.classes)


@dataclasses.dataclass(frozen=True)
class Average:
    """Means over the real scenarios that have the number; ``iou`` and ``f1`` by class."""

    miou: float | None
    mf1: float | None
    oa: float | None
    kappa: float | None
    iou: dict[str, float | None]
    f1: dict[str, float | None]
    eroded_miou: float | None
    boundary_f1: float | None
    ece: float | None


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
    excluded: tuple[str, ...] = ()
    """Classes whose reference pixels are not scored; they are in no mean. Predicting one is an error."""
    no_scenes: str | None = None
    """Why there is no scene-level score, in one line."""
    tta: bool = False
    """With test-time augmentation."""
    unread: tuple[str, ...] = ()
    """Tiles that could not be read and are in no score (``data.on_error = 'skip'``)."""

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
        return mean_of_known(s.metrics.miou for s in self.real)

    @property
    def average(self) -> Average:
        """Means over the real scenarios."""

        def mean(number: Callable[[ScenarioResult], float | None]) -> float | None:
            return mean_of_known(number(s) for s in self.real)

        def by_class(part: str) -> dict[str, float | None]:
            return {
                name: mean_of_known(getattr(s.metrics.classes[k], part) for s in self.real)
                for k, name in enumerate(self.classes)
            }

        return Average(
            miou=self.mean_miou,
            mf1=mean(lambda s: s.metrics.mf1),
            oa=mean(lambda s: s.metrics.oa),
            kappa=mean(lambda s: s.metrics.kappa),
            iou=by_class("iou"),
            f1=by_class("f1"),
            eroded_miou=mean(lambda s: s.eroded.metrics.miou if s.eroded else None),
            boundary_f1=mean(lambda s: s.boundary.mean_f1 if s.boundary else None),
            ece=mean(lambda s: s.calibration.ece if s.calibration else None),
        )

    @property
    def worst(self) -> ScenarioResult | None:
        """The real scenario with the lowest mIoU ("Last-1")."""
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
        summary = {
            "mean_miou": self.mean_miou,
            "worst_scenario": worst.name if worst else None,
            "average": dataclasses.asdict(self.average),
        }
        rows = [self._row_dict(s) for s in self.scenarios]
        return json.dumps({**head, **summary, "scenarios": rows}, indent=1)

    def _row_dict(self, s: ScenarioResult) -> dict[str, Any]:
        return {
            "name": s.name,
            "kind": s.kind,
            "available": s.available,
            "tiles": s.tiles,
            "gap_to_full": self.gap(s),
            **dataclasses.asdict(s.metrics),
            "confusion": s.confusion,
            "excluded_pixels": s.excluded_pixels,
            "eroded": s.eroded and s.eroded.to_dict(),
            "boundary": s.boundary and s.boundary.to_dict(s.classes),
            "intervals": s.intervals and s.intervals.to_dict(s.classes),
            "calibration": s.calibration and s.calibration.to_dict(),
            "scenes": s.scenes and s.scenes.to_dict(),
        }

    @classmethod
    def from_json(cls, text: str) -> Evaluation:
        """Parse what ``to_json`` wrote; ratios are computed again. Raises ``Dis2Error`` on anything else."""
        try:
            values: dict[str, Any] = json.loads(text)
            classes = tuple(values["classes"])
            head = {k: values[k] for k in ("dataset", "split", "step", "checkpoint", "recipe", "seed")}
            return cls(
                classes=classes,
                scenarios=tuple(_read_row(row, classes) for row in values["scenarios"]),
                excluded=tuple(values.get("excluded", ())),
                no_scenes=values.get("no_scenes"),
                tta=values.get("tta", False),
                unread=tuple(values.get("unread", ())),
                **head,
            )
        except (KeyError, TypeError, ValueError, AttributeError) as e:
            raise Dis2Error(f"not an evaluation: {type(e).__name__}: {e}") from e

    @classmethod
    def load(cls, path: str | Path) -> Evaluation:
        """Read an ``evaluation.json``."""
        return read_results(path, cls.from_json, command="dis2 evaluate")


def _read_row(row: Mapping[str, Any], classes: tuple[str, ...]) -> ScenarioResult:
    """Read one scenario; files of older versions lack everything behind the confusion matrix."""

    def part(key: str, read: Callable[..., Any], *more: Any) -> Any:
        return None if row.get(key) is None else read(row[key], *more)

    return ScenarioResult(
        name=row["name"],
        kind=row["kind"],
        available=tuple(row["available"]),
        tiles=row["tiles"],
        confusion=read_confusion(row["confusion"]),
        classes=classes,
        excluded_pixels=row.get("excluded_pixels", 0),
        calibration=part("calibration", Calibration.from_dict),
        intervals=part("intervals", Intervals.from_dict, classes),
        boundary=part("boundary", Boundary.from_dict, classes),
        eroded=part("eroded", Eroded.from_dict, classes),
        scenes=part("scenes", Scenes.from_dict, classes),
    )
