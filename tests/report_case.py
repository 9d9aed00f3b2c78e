"""A workdir with results and no network behind them, and a reader of HTML pages that is strict."""

from __future__ import annotations

import dataclasses
import json
from html.parser import HTMLParser
from pathlib import Path

import numpy as np

from dis2_jax import config_file
from dis2_jax.config import Config, DataConfig, TrainConfig
from dis2_jax.evaluation.results import Evaluation, ScenarioResult
from dis2_jax.evaluation.scoring.bootstrap import class_counts_of, tile_intervals
from dis2_jax.evaluation.scoring.measures import (
    Bin,
    Boundary,
    BoundaryCounts,
    Calibration,
    Eroded,
    read_confusion,
)
from dis2_jax.evaluation.scoring.tile_table import TileScores, TileTable
from dis2_jax.schema import ClassLegend, DatasetCard, Modality
from dis2_jax.training.workdir import write_card

STEP = 12
TILES = 9
ROWS = (
    ("rgb+ndsm", "full", 30),
    ("rgb", "student", 12),
    ("ndsm", "student", 6),
    ("rgb (full model, ndsm zero-filled)", "baseline", 4),
    ("ndsm (full model, rgb zero-filled)", "baseline", 2),
)
VOID = {"meta", "link", "img", "br", "hr", "input", "wbr"}


def make_workdir(folder: Path, *, classes: tuple[str, ...] = ("ground", "building", "tree")) -> Evaluation:
    """Config, card, log, an empty checkpoint and a whole evaluation with its tiles."""
    legend = ClassLegend(classes, tuple((40 * i, 255 - 40 * i, 90) for i in range(len(classes))))
    card = DatasetCard(
        name="mini <city>",
        modalities=(
            Modality(
                "rgb", 3, kind="optical", bands=("red", "green", "blue"), mean=(1.0,) * 3, std=(2.0,) * 3
            ),
            Modality("ndsm", 1, kind="height", unit="m", mean=(1.0,), std=(2.0,)),
        ),
        legend=legend,
        tile=(32, 32),
        splits={"train": 4, "test": TILES},
        description="Cities & <b>towns</b>",
        class_pixels={"test": (*range(1, len(classes) + 1), 5)},
    )
    folder.mkdir(parents=True)
    write_card(card, folder)
    config = Config(data=DataConfig(dir="/nowhere"), train=TrainConfig(steps=STEP, seed=4))
    config_file.write(config, folder)
    (folder / "checkpoints" / str(STEP)).mkdir(parents=True)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in log_lines()))
    evaluation, tiles = make_evaluation(card)
    results = folder / "evaluation"
    results.mkdir()
    (results / "evaluation.json").write_text(evaluation.to_json())
    (results / "tiles.csv").write_text(tiles.to_csv())
    return evaluation


def log_lines() -> list[dict]:
    """Twelve steps with a validation after every sixth."""
    lines: list[dict] = []
    for step in range(1, STEP + 1):
        losses = {"loss": 9.0 / step, "loss/full": 1.0 / step, "norm/gradients": None if step == 3 else 0.5}
        lines.append({"step": step, "kind": "train", **losses, "epoch": 0.1, "tiles_per_second": 4.0 + step})
        if step % 6 == 0:
            scores = {"mean_miou": 0.3, "miou/rgb+ndsm": 0.5 + 0.01 * step, "miou/rgb": 0.3, "miou/ndsm": 0.2}
            lines.append({"step": step, "kind": "validation", **scores})
    return lines


def make_evaluation(card: DatasetCard) -> tuple[Evaluation, TileTable]:
    """Random confusions per tile; the better the scenario, the heavier the diagonal."""
    g = np.random.default_rng(3)
    k, classes = len(card.legend), card.legend.names
    rows, scores = [], {}
    for name, kind, diagonal in ROWS:
        confusion = g.integers(0, 9, (TILES, k, k)) + diagonal * np.eye(k, dtype=np.int64)
        confusion[:, -1] = 0  # the last class is not in the reference
        counts = class_counts_of(confusion)
        total = confusion.sum(0)
        boundary = Boundary(3, tuple(BoundaryCounts(9, 6, 8, 4 + i % 4) for i in range(k)))
        bins = (Bin(0.0, 0.5, 10, 0.4, 0.5), Bin(0.5, 1.0, 30, 0.9, 0.7))
        rows.append(
            ScenarioResult(
                name=name,
                kind=kind,
                available=tuple(name.split(" ")[0].split("+")),
                tiles=TILES,
                confusion=read_confusion(total),
                classes=classes,
                calibration=Calibration(bins),
                intervals=tile_intervals(counts, samples=50, seed=0),
                boundary=boundary,
                eroded=Eroded(3, read_confusion(total // 2), classes),
            )
        )
        scores[name] = TileScores(np.arange(TILES), counts, counts, np.ones((TILES, k, 4), np.int64))
    where = {"step": STEP, "checkpoint": "best", "recipe": "ours", "seed": 4}
    evaluation = Evaluation(card.name, "test", classes, tuple(rows), **where)
    return evaluation, TileTable(classes, tuple(f"tile{i}" for i in range(TILES)), scores)


def without_measures(evaluation: Evaluation) -> Evaluation:
    """As an older version wrote it."""
    gone = dict.fromkeys(("calibration", "intervals", "boundary", "eroded"))
    rows = tuple(dataclasses.replace(s, **gone) for s in evaluation.scenarios)
    return dataclasses.replace(evaluation, scenarios=rows)


class Page(HTMLParser):
    """Reads a page and asserts that its elements close in order.

    ``elements``: (tag, attributes); ``tables``: caption -> rows of cells; ``text`` of everything shown.
    """

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.tables: dict[str, list[list[str]]] = {}
        self.text = ""
        self._open: list[str] = []
        self._caption = ""
        self.feed(text)
        self.close()
        assert not self._open, f"not closed: {self._open}"

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, {k: v or "" for k, v in attrs}))
        if tag not in VOID:
            self._open.append(tag)
        if tag == "caption":
            self._caption = ""
        elif tag == "tr":
            self.tables[self._caption].append([])
        elif tag in ("td", "th"):
            self.tables[self._caption][-1].append("")

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, {k: v or "" for k, v in attrs}))

    def handle_endtag(self, tag):
        assert self._open.pop() == tag
        if tag == "caption":
            self.tables[self._caption] = []

    def handle_data(self, data):
        if "style" in self._open:
            return
        self.text += data
        if "caption" in self._open:
            self._caption += data
        elif {"td", "th"} & set(self._open):
            self.tables[self._caption][-1][-1] += data

    def values(self, attribute: str) -> list[str]:
        """Return every value of an attribute."""
        return [a[attribute] for _, a in self.elements if attribute in a]

    def count(self, tag: str) -> int:
        """Count elements."""
        return sum(t == tag for t, _ in self.elements)
