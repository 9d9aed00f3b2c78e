"""Evaluate a workdir: find its weights and tiles, write tables and panels beside them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import jax

from dis2_jax.config import DataConfig
from dis2_jax.distributed.meeting import connect
from dis2_jax.evaluation.pictures.examples import make_examples, spread_tiles
from dis2_jax.evaluation.pictures.panels import save_panels
from dis2_jax.evaluation.results import Evaluation
from dis2_jax.evaluation.scoring.measure import measure_split
from dis2_jax.evaluation.scoring.ruler import MeasureOptions
from dis2_jax.evaluation.scoring.tile_table import TileTable
from dis2_jax.evaluation.tables import scores
from dis2_jax.files import write_results
from dis2_jax.schema import DatasetCard, Dis2Error
from dis2_jax.sharding.mesh import data_mesh
from dis2_jax.training.checkpoint import load_eval_variables
from dis2_jax.training.everywhere import check_same_weights_everywhere

FOLDER = "evaluation"


@dataclasses.dataclass(frozen=True)
class Options:
    """What to evaluate. None: the run's own choice."""

    split: str | None = None
    """Default: the test split if the dataset has one, else validation."""
    checkpoint: Literal["best", "last"] | int = "best"
    dataset: str | None = None
    """Another prepared dataset with the same modalities and classes."""
    panels: int | None = None
    """Tiles to draw; 0: none."""
    batch_size: int | None = None
    baselines: bool = True
    """Also the full model with zeros for what each student does without."""
    tta: bool = False
    """Test-time augmentation: average over turned and mirrored tiles, see ``models/views.py``."""
    measures: MeasureOptions = dataclasses.field(default_factory=MeasureOptions)


@dataclasses.dataclass(frozen=True)
class Report:
    """The numbers, and the files that hold them."""

    evaluation: Evaluation
    paths: tuple[Path, ...]


def evaluate_workdir(
    workdir: str | Path, options: Options, *, on_batch: Callable[[int, int], None] | None = None
) -> Report:
    """Evaluate every scenario into ``<workdir>/evaluation``.

    Writes ``evaluation.{json,csv,md}``, ``tiles.csv`` (see ``TileTable``) and ``panels/*.png``. Names tell what
    is not the default: ``evaluation-validation.json``, ``evaluation-<dataset folder>-validation.json``,
    ``evaluation-without-clutter.json``, ``evaluation-tta.json``, ``tiles-validation.csv``. Panels are called
    ``<split>-1.png`` ... with the folder in front likewise, or ``<split>-tta-1.png``. Tiles are normalised with the
    run's own statistics, those of another dataset too. Only process 0 of a job writes.

    Raises:
        Dis2Error: no such run, checkpoint, dataset or split; a dataset with other modalities or classes.
    """
    panels = _at_least(0, "panels", options.panels)
    size = _at_least(1, "batch-size", options.batch_size)
    check_same_weights_everywhere(workdir, options.checkpoint, options=dataclasses.asdict(options))
    mesh = data_mesh()
    connect(mesh)
    run = load_eval_variables(workdir, options.checkpoint)
    excluded = options.measures.excluded(run.card.legend)
    folder = options.dataset or run.config.data.dir
    card, other = matching_card(folder, run.card)
    default = default_split(card, run.config.data)
    split = options.split or default
    batch_size = size or run.config.train.eval_batch_size
    common: dict[str, Any] = {"split": split, "batch_size": batch_size, "mesh": mesh}
    data = dataclasses.replace(run.config.data, source="auto") if options.dataset else run.config.data
    what = (run.model.clone(tta=options.tta), run.variables, folder, card, data)
    found = measure_split(
        *what, options=options.measures, baselines=options.baselines, on_batch=on_batch, **common
    )
    evaluation = dataclasses.replace(
        found.evaluation,
        step=run.step,
        checkpoint=str(options.checkpoint),
        recipe=run.config.recipe,
        seed=run.config.train.seed,
        tta=options.tta,
    )
    count = run.config.train.panels if panels is None else panels
    titles = spread_tiles(card, split=split, count=count)
    examples = make_examples(*what, titles=titles, outputs=found.outputs, **common)
    if jax.process_index() != 0:
        return Report(evaluation, ())
    prefix = f"{Path(folder).resolve().name}-" if other else ""
    without = f"without-{'-'.join(excluded)}" if excluded else ""
    tta = "tta" if options.tta else ""
    parts = (prefix[:-1], "" if split == default else split, without, tta)
    ending = "".join(f"-{part}" for part in parts if part)
    out = Path(workdir) / FOLDER
    paths = write_tables(evaluation, found.tiles, out, ending=ending)
    if examples:
        paths += save_panels(examples, card, out / "panels", stem=f"{prefix}{split}{'-tta' if tta else ''}")
    return Report(evaluation, tuple(paths))


def matching_card(folder: str, trained: DatasetCard) -> tuple[DatasetCard, bool]:
    """Read a dataset's card as the run sees it, and whether it is another dataset than the run's.

    Sizes and splits are the dataset's, modalities (with statistics) and legend the run's. Raises
    ``Dis2Error`` when the dataset has not the same modalities, in channels and order, or the same classes.
    """
    if not folder:
        raise Dis2Error("the run's config has no data.dir: name the prepared dataset with --dataset DIR")
    if not Path(folder).is_dir():
        raise Dis2Error(f"dataset {folder} not found: name the folder where it is now with --dataset DIR")
    card = DatasetCard.load(folder)
    own, wanted = _shape(card.select(trained.modality_names)), _shape(trained)
    if own != wanted:
        raise Dis2Error(
            f"{folder} has {own} where the run was trained on {wanted}: give a dataset that agrees"
        )
    if card.legend.names != trained.legend.names:
        own, wanted = ", ".join(card.legend.names), ", ".join(trained.legend.names)
        raise Dis2Error(
            f"{folder} has classes {own}; the run was trained on {wanted}: give a dataset that agrees"
        )
    seen = dataclasses.replace(card, modalities=trained.modalities, legend=trained.legend)
    return seen, card.select(trained.modality_names) != trained


def default_split(card: DatasetCard, data: DataConfig) -> str:
    """The test split if the dataset has one with tiles, else validation."""
    return data.test_split if card.splits.get(data.test_split) else data.validation_split


def write_tables(evaluation: Evaluation, tiles: TileTable, folder: Path, *, ending: str) -> list[Path]:
    """Write ``evaluation<ending>.json``, ``.csv``, ``.md`` and ``tiles<ending>.csv``; return their paths."""
    texts = {
        f"evaluation{ending}.json": evaluation.to_json(),
        f"evaluation{ending}.csv": scores.csv_table(evaluation),
        f"evaluation{ending}.md": scores.markdown_table(evaluation),
        f"tiles{ending}.csv": tiles.to_csv(),
    }
    return write_results(folder, texts)


def _shape(card: DatasetCard) -> str:
    return "+".join(f"{m.name}[{m.channels}]" for m in card.modalities)


def _at_least(least: int, option: str, value: int | None) -> int | None:
    if value is not None and value < least:
        raise Dis2Error(f"--{option} {value}: it must be at least {least}")
    return value
