"""The validation that the training loop runs: every scenario of the validation split, and some panels."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from dis2_jax.config import Config
from dis2_jax.data.opening import open_tiles
from dis2_jax.evaluation.evaluate import evaluate_split
from dis2_jax.evaluation.pictures.examples import make_examples, spread_tiles
from dis2_jax.evaluation.pictures.panels import panel_array
from dis2_jax.evaluation.report.drawing.bars import draw_gaps, gap_pairs
from dis2_jax.evaluation.report.drawing.matrix import draw_confusion, draw_scores
from dis2_jax.evaluation.report.drawing.reliability import draw_reliability
from dis2_jax.evaluation.report.drawing.render import to_array
from dis2_jax.evaluation.report.drawing.style import drawing
from dis2_jax.evaluation.report.pick import pick_tiles
from dis2_jax.evaluation.results import Evaluation
from dis2_jax.models.dis2 import DIS2
from dis2_jax.schema import DatasetCard, Dis2Error, nearest
from dis2_jax.training.loop import Validation


@dataclasses.dataclass(frozen=True)
class SplitValidator:
    """Scores a run on ``config.data.validation_split``; a ``training.loop.Validator``."""

    config: Config
    card: DatasetCard

    def __post_init__(self) -> None:
        split, splits = self.config.data.validation_split, self.card.splits
        if not splits.get(split):
            raise Dis2Error(
                f"config data.validation_split = {split!r}: {self.config.data.dir} has no tiles there"
                f"{nearest(split, splits)}; it has {', '.join(splits)}"
            )
        # A missing or damaged file is told now and not at the first validation, hours later.
        open_tiles(self.config.data.dir, split, self.card, kind=self.config.data.source)

    def __call__(
        self,
        model: DIS2,
        variables: Mapping[str, Any],
        *,
        mesh: Mesh,
        on_batch: Callable[[int, int], None],
    ) -> Validation:
        """Evaluate; draw ``config.train.panels`` fixed tiles, and the best, a typical and the worst one."""
        data, train = self.config.data, self.config.train
        split = data.validation_split
        what = (model, variables, data.dir, self.card, data)
        common: dict[str, Any] = {"split": split, "batch_size": train.eval_batch_size, "mesh": mesh}
        scored = evaluate_split(*what, on_batch=on_batch, **common)
        found = scored.evaluation
        scores = {s.name: s.metrics.miou for s in found.real}
        known = {name: score for name, score in scores.items() if score is not None}
        mean = found.mean_miou
        scalars = {f"miou/{name}": score for name, score in known.items()}
        images = score_pictures(found)
        if train.panels:
            picked = pick_tiles(scored.tiles, list(scores), count=1)
            tiles = {
                "panels": spread_tiles(self.card, split=split, count=train.panels),
                "best_typical_worst": {p.record: f"{p.group}, {p.score:.3f}: {p.tile_id}" for p in picked},
            }
            for name, titles in tiles.items():
                examples = make_examples(*what, titles=titles, **common)
                if examples:
                    images[name] = panel_array(examples, self.card)
        return Validation(
            metric=mean,
            scalars=scalars if mean is None else {"mean_miou": mean, **scalars},
            images=images,
            summary="mIoU " + ", ".join(f"{name} {score:.3f}" for name, score in known.items()),
        )


def score_pictures(found: Evaluation) -> dict[str, np.ndarray]:
    """Draw the report's panels of a validation for TensorBoard; on process 0, which alone logs."""
    if jax.process_index() != 0:
        return {}
    with drawing():
        figures = {"scores": draw_scores(found).figure}
        if gap_pairs(found):
            figures["gaps"] = draw_gaps(found)
        figures |= {f"confusion/{s.name}": draw_confusion(s).figure for s in found.real if s.tiles}
        figures |= {
            f"calibration/{s.name}": draw_reliability(s.calibration, series=i)
            for i, s in enumerate(found.real)
            if s.calibration is not None and s.calibration.ece is not None
        }
    return {name: to_array(figure) for name, figure in figures.items()}
