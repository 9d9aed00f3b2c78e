"""A run with the tiles that a study looks at: its weights, and the first tiles of a seeded order."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
from jax.sharding import Mesh

from dis2_jax.config import DataConfig
from dis2_jax.data.batch import Batch
from dis2_jax.data.opening import open_tiles
from dis2_jax.data.samples import stack_tiles
from dis2_jax.data.tileset import StoredTile, TileSet
from dis2_jax.evaluation.evaluate import check_size, on_mesh, round_up
from dis2_jax.evaluation.run import FOLDER, default_split, matching_card
from dis2_jax.models.dis2 import DIS2
from dis2_jax.schema import DatasetCard, Dis2Error
from dis2_jax.sharding.mesh import data_mesh
from dis2_jax.training.checkpoint import load_eval_variables


@dataclasses.dataclass(frozen=True)
class Choice:
    """Which weights and tiles. None: the run's own choice."""

    split: str | None = None
    """Default: the test split if the dataset has one, else validation."""
    checkpoint: Literal["best", "last"] | int = "best"
    dataset: str | None = None
    tiles: int | None = None
    """Only the first so many tiles of the order that ``seed`` draws; None: all."""
    batch_size: int | None = None
    seed: int = 0


@dataclasses.dataclass(frozen=True, eq=False)
class Study:
    """What a pass over chosen tiles needs; ``batches`` reads them.

    ``variables`` lie on ``mesh``; ``stem`` is added to the names of what the study writes into ``folder``.
    """

    model: DIS2
    variables: Mapping[str, Any]
    card: DatasetCard
    data: DataConfig
    source: TileSet
    indices: tuple[int, ...]
    batch_size: int
    mesh: Mesh
    split: str
    seed: int
    folder: Path = Path(FOLDER)
    stem: str = ""
    provenance: dict[str, Any] = dataclasses.field(default_factory=dict)
    """``step``, ``checkpoint``, ``recipe``, ``seed`` of the run."""

    def batches(self) -> Iterator[tuple[list[StoredTile], Batch]]:
        """Yield the chosen tiles as stored, and as a normalised batch that padding rows fill up."""
        for start in range(0, len(self.indices), self.batch_size):
            tiles = [self.source[i] for i in self.indices[start : start + self.batch_size]]
            yield tiles, stack_tiles(tiles, self.card, self.data, size=self.batch_size)


def open_study(workdir: str | Path, choice: Choice) -> Study:
    """Load a run and choose its tiles.

    Raises:
        Dis2Error: no such run, checkpoint, dataset or split, a dataset with other modalities or classes, a
            number below 1, or a job of several processes.
    """
    if jax.process_count() > 1:
        raise Dis2Error("diagnose and degrade run in one process: start them outside the job")
    for option, value in (("tiles", choice.tiles), ("batch-size", choice.batch_size)):
        if value is not None and value < 1:
            raise Dis2Error(f"--{option} {value}: it must be at least 1")
    if choice.seed < 0:
        raise Dis2Error(f"--seed {choice.seed}: it must not be negative")
    run = load_eval_variables(workdir, choice.checkpoint)
    dataset = choice.dataset or run.config.data.dir
    card, other = matching_card(dataset, run.card)
    default = default_split(card, run.config.data)
    split = choice.split or default
    check_size(run.model, card.tile)
    source = open_tiles(dataset, split, card, kind="auto" if choice.dataset else run.config.data.source)
    mesh = data_mesh()
    parts = [Path(dataset).resolve().name if other else "", "" if split == default else split]
    return Study(
        model=run.model,
        variables=on_mesh(run.variables, mesh),
        card=card,
        data=run.config.data,
        source=source,
        indices=tuple(choose_tiles(len(source), count=choice.tiles, seed=choice.seed)),
        batch_size=round_up(choice.batch_size or run.config.train.eval_batch_size, mesh),
        mesh=mesh,
        split=split,
        seed=choice.seed,
        folder=Path(workdir) / FOLDER,
        stem="".join(f"-{p}" for p in parts if p),
        provenance={
            "step": run.step,
            "checkpoint": str(choice.checkpoint),
            "recipe": run.config.recipe,
            "seed": run.config.train.seed,
        },
    )


def choose_tiles(total: int, *, count: int | None, seed: int) -> list[int]:
    """Return the first ``count`` of ``total`` tile numbers in the order that ``seed`` draws (None: all)."""
    order = np.random.default_rng([seed, total]).permutation(total)
    return [int(i) for i in order[:count]]


def complete(batch: Batch) -> np.ndarray:
    """``[B]`` bool: real tiles that have every modality."""
    return np.asarray(batch["valid"] & batch["available"].all(axis=1))


def no_complete_tile(study: Study) -> Dis2Error:
    """Build the error for a study in which no tile has every modality."""
    return Dis2Error(
        f"split {study.split!r}: none of the {len(study.indices)} tiles read has every modality"
        f" ({', '.join(study.card.modality_names)}), so there is nothing to compare; choose another --split"
    )
