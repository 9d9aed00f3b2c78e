"""What the compensation diagnostics found, as ``diagnostics.json`` holds it. No JAX.

The file is one object with the run (``dataset`` ... ``seed``) and three flat lists: ``similarities`` (one
entry per scenario, fill and level), ``scores`` (one per scenario and fill, with its confusion matrix) and
``falls`` (one per scenario and class, derived from the scores), plus ``recoveries`` (derived) and
``attention`` (paths of pictures, relative to the file).
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from dis2_jax.evaluation.scoring.metrics import Metrics, summarize
from dis2_jax.files import read_results
from dis2_jax.schema import Dis2Error, Fill

FILLS: tuple[Fill, ...] = ("compensation", "zeros", "specific")
LEVELS = ("f1", "f2", "f3", "f4", "g", "penultimate")
"""Fused maps at strides 2, 4, 8, 16, the fusion token, the map before the last convolution (METHOD.md)."""


@dataclasses.dataclass(frozen=True)
class Similarity:
    """One student's features at one level against the full branch's, on the same tiles.

    A position is one place of a map (the token has one per tile). ``distance_positions`` of them, all there
    are, entered the distances, ``cka_positions`` (a seeded sample) the CKA. None: no position, or features
    that do not vary.
    """

    scenario: str
    fill: Fill
    level: str
    relative_l2: float | None
    """Mean over positions of ``|student - full| / |full|``; 0: equal."""
    cosine_distance: float | None
    """Mean over positions of ``1 - cosine``; 0: same direction, 1: nothing in common."""
    cka: float | None
    """Linear CKA (Kornblith et al. 2019), 0..1, from centred second moments; 1: equal up to rotation and scale."""
    cka_debiased: float | None
    """The same from unbiased HSIC (Song et al. 2012): about 0 for unrelated features however few positions."""
    distance_positions: int
    cka_positions: int


@dataclasses.dataclass(frozen=True)
class FillScore:
    """Confusion matrix of one branch, rows = reference, columns = prediction, in pixels.

    The full branch is the entry with ``fill`` None.
    """

    scenario: str
    fill: Fill | None
    missing: tuple[str, ...]
    tiles: int
    confusion: tuple[tuple[int, ...], ...]
    classes: tuple[str, ...]

    @property
    def metrics(self) -> Metrics:
        """Ratios of ``confusion``."""
        return summarize(self.confusion, self.classes)


@dataclasses.dataclass(frozen=True)
class ClassFall:
    """How far one class's IoU falls when ``missing`` is not there (its student as trained, against full)."""

    scenario: str
    missing: tuple[str, ...]
    class_name: str
    iou_full: float | None
    iou: float | None

    @property
    def fall(self) -> float | None:
        """``iou_full - iou``; negative: better without. None: the class is absent from the reference."""
        return None if self.iou_full is None or self.iou is None else self.iou_full - self.iou


@dataclasses.dataclass(frozen=True)
class Recovery:
    """What the compensation features of one student are worth, in mIoU on the same tiles.

    ``of_full`` and ``of_specific``: the share of the way from ``zeros`` to the full branch, and to the same
    student given the real features. None where that way goes up by less than 0.02. The student never saw real
    features in this slot while training, so ``specific`` bounds the information, not always the score.
    """

    scenario: str
    compensation: float | None
    zeros: float | None
    specific: float | None
    full: float | None

    @property
    def of_full(self) -> float | None:
        """``(compensation - zeros) / (full - zeros)``."""
        return share(self.compensation, start=self.zeros, end=self.full)

    @property
    def of_specific(self) -> float | None:
        """``(compensation - zeros) / (specific - zeros)``."""
        return share(self.compensation, start=self.zeros, end=self.specific)


@dataclasses.dataclass(frozen=True)
class Diagnostics:
    """The diagnostics of one model on one split. ``tiles``: those with every modality, which all rows share."""

    dataset: str
    split: str
    classes: tuple[str, ...]
    modalities: tuple[str, ...]
    tiles: int
    sample_seed: int
    """Of the order of tiles (``--tiles``) and of the positions that enter the CKA."""
    positions_per_tile: int
    """At most so many positions of a map per tile enter the CKA."""
    similarities: tuple[Similarity, ...]
    scores: tuple[FillScore, ...]
    attention: tuple[str, ...] = ()
    step: int | None = None
    checkpoint: str | None = None
    recipe: str | None = None
    seed: int | None = None

    @property
    def students(self) -> tuple[str, ...]:
        """Scenario names of the students, in the model's order."""
        return tuple(dict.fromkeys(s.scenario for s in self.scores if s.fill is not None))

    @property
    def full(self) -> FillScore:
        """The full branch's score."""
        return next(s for s in self.scores if s.fill is None)

    def score(self, scenario: str, fill: Fill = "compensation") -> FillScore:
        """Look a student's score up. Raises ``Dis2Error`` for one that is not there."""
        for s in self.scores:
            if (s.scenario, s.fill) == (scenario, fill):
                return s
        raise Dis2Error(f"no scenario {scenario!r} with {fill} here: {', '.join(self.students)}")

    def similarity(self, scenario: str, level: str, fill: Fill = "compensation") -> Similarity:
        """Look one comparison up. Raises ``Dis2Error`` for one that is not there."""
        for s in self.similarities:
            if (s.scenario, s.level, s.fill) == (scenario, level, fill):
                return s
        raise Dis2Error(f"no level {level!r} of scenario {scenario!r} with {fill} in these diagnostics")

    @property
    def falls(self) -> tuple[ClassFall, ...]:
        """Every student x class."""
        full = self.full.metrics.classes
        return tuple(
            ClassFall(name, score.missing, before.name, before.iou, after.iou)
            for name in self.students
            for score in (self.score(name),)
            for before, after in zip(full, score.metrics.classes, strict=True)
        )

    @property
    def recoveries(self) -> tuple[Recovery, ...]:
        """One per student."""
        found = []
        for name in self.students:
            by_fill = {s.fill: s.metrics.miou for s in self.scores if s.scenario == name}
            values = {f: by_fill.get(f) for f in FILLS}
            found.append(Recovery(scenario=name, full=self.full.metrics.miou, **values))
        return tuple(found)

    def to_json(self) -> str:
        """Serialise, with the derived lists for readers; ``from_json`` is the exact inverse."""
        lists = ("similarities", "scores")
        head = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name not in lists}
        scores = [
            {
                "scenario": s.scenario,
                "fill": s.fill,
                "missing": s.missing,
                "tiles": s.tiles,
                **{k: v for k, v in dataclasses.asdict(s.metrics).items() if k != "classes"},
                "iou": [c.iou for c in s.metrics.classes],
                "confusion": s.confusion,
            }
            for s in self.scores
        ]
        body = {
            "similarities": [dataclasses.asdict(s) for s in self.similarities],
            "scores": scores,
            "falls": [{**dataclasses.asdict(f), "fall": f.fall} for f in self.falls],
            "recoveries": [
                {**dataclasses.asdict(r), "of_full": r.of_full, "of_specific": r.of_specific}
                for r in self.recoveries
            ],
        }
        return json.dumps({**head, **body}, indent=1)

    @classmethod
    def from_json(cls, text: str) -> Diagnostics:
        """Parse what ``to_json`` wrote; derived lists are computed again. ``Dis2Error`` on anything else."""
        try:
            values: dict[str, Any] = json.loads(text)
            classes = tuple(values["classes"])
            scores = tuple(
                FillScore(
                    scenario=s["scenario"],
                    fill=s["fill"],
                    missing=tuple(s["missing"]),
                    tiles=s["tiles"],
                    confusion=tuple(tuple(int(n) for n in line) for line in s["confusion"]),
                    classes=classes,
                )
                for s in values["scores"]
            )
            own = {f.name for f in dataclasses.fields(cls)} - {"similarities", "scores"}
            head: dict[str, Any] = {k: tuple(v) if isinstance(v := values[k], list) else v for k in own}
            similarities = tuple(Similarity(**s) for s in values["similarities"])
            return cls(**head, similarities=similarities, scores=scores)
        except (KeyError, TypeError, ValueError, AttributeError) as e:
            raise Dis2Error(f"not diagnostics: {type(e).__name__}: {e}") from e

    @classmethod
    def load(cls, path: str | Path) -> Diagnostics:
        """Read a ``diagnostics.json``."""
        return read_results(path, cls.from_json, command="dis2 diagnose")


LEAST_WAY = 0.02
"""Shares of a shorter way, in mIoU, would be noise."""


def share(value: float | None, *, start: float | None, end: float | None) -> float | None:
    """Part of the way from ``start`` to ``end`` at which ``value`` lies; None if it rises less than ``LEAST_WAY``."""
    if value is None or start is None or end is None or end - start < LEAST_WAY:
        return None
    return (value - start) / (end - start)
