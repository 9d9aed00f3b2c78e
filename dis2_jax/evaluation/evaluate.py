"""Every missing-modality scenario of a model over a split, in one pass over the data."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from dis2_jax.config import DataConfig
from dis2_jax.data.batch import Batch
from dis2_jax.data.pipeline import eval_batches
from dis2_jax.evaluation.results import Evaluation, ScenarioKind, ScenarioResult
from dis2_jax.evaluation.scoring.ruler import CONFIDENCE_ONE, calibration_of
from dis2_jax.evaluation.scoring.tile_table import TileCounts
from dis2_jax.models.dis2 import DIS2
from dis2_jax.models.layout import current
from dis2_jax.schema import IGNORE, DatasetCard, Dis2Error, Scenario
from dis2_jax.sharding.mesh import put_batch, put_whole, replicated, tile_shards

Outputs = Literal["counts", "tally", "confidence", "probabilities"]
"""What comes off the device beside counts and class maps: nothing, sums per tile, or maps (each its own program)."""

RELIABILITY_BINS = 15


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the table before it has numbers.

    ``branch`` is what the model is asked for, ``available`` the modalities that it really gets. The rest of
    the branch's modalities, in a baseline, are zeros *after* normalisation: the modality's mean under
    ``normalize='card'``, raw zero under ``'none'``. A user without student branches would do that.
    """

    name: str
    kind: ScenarioKind
    branch: Scenario
    available: tuple[str, ...]


def rows_of(model: DIS2, card: DatasetCard, *, baselines: bool) -> tuple[Row, ...]:
    """The full branch, every student, and with ``baselines`` the zero-filled full branch per student.

    Raises:
        Dis2Error: the model's modalities are not the card's.
    """
    names = card.modality_names
    if model.names != names:
        raise Dis2Error(f"the model reads {', '.join(model.names)} but the dataset has {', '.join(names)}")
    full, *students = model.scenarios
    rows = [Row(str(full), "full", full, names)]
    rows += [Row(str(s), "student", s, s.available) for s in students]
    if baselines:
        for s in students:
            missing = "+".join(m for m in names if m not in s.available)
            rows.append(Row(f"{s} (full model, {missing} zero-filled)", "baseline", full, s.available))
    return tuple(rows)


@dataclasses.dataclass(frozen=True)
class SplitScores:
    """Scenarios with confusion and calibration, and per scenario the counts of its tiles."""

    evaluation: Evaluation
    tiles: dict[str, TileCounts]


def evaluate_split(
    model: DIS2,
    variables: Mapping[str, Any],
    dataset_dir: str,
    card: DatasetCard,
    data: DataConfig,
    *,
    split: str,
    batch_size: int,
    mesh: Mesh | None = None,
    baselines: bool = False,
    on_batch: Callable[[int, int], None] | None = None,
) -> SplitScores:
    """Count confusion matrices of the full branch and every student over all tiles of a split.

    All is summed on the devices, so that a pod is not kept waiting by one host's arithmetic; ``measure_split``
    has more to tell and takes longer. A scenario takes the tiles in which its modalities are really there. Counts
    are int32 on the device per batch and int64 over the split: exact, whatever the batch size or mesh.

    Args:
        model: a DIS2 module: ``modalities``, ``students`` and ``predict`` are used.
        variables: ``{"params", "batch_stats"}``.
        dataset_dir: the prepared dataset.
        card: the card whose modalities and statistics the model was trained with.
        data: how tiles are read and normalised.
        split: its name.
        batch_size: tiles at a time; rounded up to a multiple of the mesh's devices.
        mesh: devices to spread the tiles over; None: the default device.
        baselines: also feed the full branch zeros for what each student does without (see ``Row``).
        on_batch: called after each batch with (tiles read, tiles in all); it may raise to stop.

    Raises:
        Dis2Error: unknown or empty split, a label outside the legend, or a prediction that is not finite.
    """
    rows = rows_of(model, card, baselines=baselines)
    total = _Total(rows=rows, card=card, split=split)
    what = (model, variables, dataset_dir, card, data)
    options: dict[str, Any] = {"split": split, "batch_size": batch_size, "mesh": mesh, "on_batch": on_batch}
    for batch, counts in predict_split(rows, *what, outputs="tally", **options):
        rows_read = everywhere({"index": batch["index"], "valid": batch["valid"]}, mesh)
        total.add(counts, records=rows_read["index"], valid=rows_read["valid"])
    evaluation = Evaluation(
        dataset=card.name,
        split=split,
        classes=card.legend.names,
        scenarios=total.results(),
        unread=tuple(f"record {i}" for i in range(card.splits[split]) if i not in total.read),
    )
    return SplitScores(evaluation, total.tiles())


def predict_split(
    rows: Sequence[Row],
    model: DIS2,
    variables: Mapping[str, Any],
    dataset_dir: str,
    card: DatasetCard,
    data: DataConfig,
    *,
    split: str,
    batch_size: int,
    mesh: Mesh | None = None,
    on_batch: Callable[[int, int], None] | None = None,
    outputs: Outputs = "counts",
    order: Sequence[int] | None = None,
) -> Iterator[tuple[Batch, dict[str, Counts]]]:
    """Yield this host's share of every batch with what every row found in it (see ``run_rows``).

    A batch is yielded when the next one has started, so that the device has work while the caller looks.
    Arguments and errors as ``evaluate_split``; ``order`` as ``eval_batches``.
    """
    check_size(model, card.tile)
    if mesh is not None:
        batch_size = round_up(batch_size, mesh)
        variables = on_mesh(variables, mesh)
    hosts = {"process_index": jax.process_index(), "process_count": jax.process_count()} if mesh else {}
    reading: dict[str, Any] = {"split": split, "batch_size": batch_size, "order": order, **hosts}
    waiting: tuple[Batch, dict[str, Counts]] | None = None
    read = 0
    for batch in eval_batches(dataset_dir, card, data, **reading):
        started = run_rows(rows, variables, batch, model=model, card=card, mesh=mesh, outputs=outputs)
        if waiting is not None:
            yield waiting
        waiting = (batch, started)
        read = min(read + batch_size, card.splits[split])
        if on_batch is not None:
            on_batch(read, card.splits[split])
    if waiting is not None:
        yield waiting


def run_rows(
    rows: Sequence[Row],
    variables: Mapping[str, Any],
    batch: Batch,
    *,
    model: DIS2,
    card: DatasetCard,
    mesh: Mesh | None,
    outputs: Outputs = "counts",
) -> dict[str, Counts]:
    """Start every row on this host's share of a batch; rows without a usable tile are left out.

    The device may still be computing when this returns. ``variables`` lie where ``mesh`` says (``on_mesh``).
    """
    usable = {row.name: usable_tiles(batch, row, card) for row in rows}
    host: dict[str, Any] = {"image": batch["image"], "label": batch["label"], "usable": usable}
    if any(row.kind == "baseline" for row in rows):
        # As inputs and not as constants, so that the baselines run the full branch that is compiled already.
        host["zeros"] = {m: np.zeros_like(x) for m, x in batch["image"].items()}
    placed: Any = host if mesh is None else put_batch(host, mesh)
    return {
        row.name: count_confusion(
            variables,
            {m: placed["image" if m in row.available else "zeros"][m] for m in row.branch.available},
            placed["label"],
            placed["usable"][row.name],
            model=model,
            branch=row.branch,
            num_classes=len(card.legend),
            outputs=outputs,
        )
        for row in rows
        if usable[row.name].any() or (mesh is not None and jax.process_count() > 1)  # all hosts or none
    }


def check_size(model: DIS2, size: tuple[int, int], *, what: str = "tile") -> None:
    """Refuse a tile (height, width) that the model cannot read; ``Dis2Error`` says which it can."""
    if any(side < 16 or side % 16 for side in size):
        raise Dis2Error(f"{what} of {size[0]} x {size[1]} pixels: both sides must be multiples of 16")
    if model.position == "table" and size != model.tile:
        raise Dis2Error(
            f"{what} of {size[0]} x {size[1]} pixels: this model's position tables tie it to"
            f" {model.tile[0]} x {model.tile[1]}; cut tiles to that, or train with model.position = 'sincos'"
        )


@flax.struct.dataclass
class Tally:
    """Sums per tile, int32; zeros for a tile that is not usable."""

    counts: jax.Array
    """``[B, 3, K]``: hits, reference and predicted pixels, as ``TileCounts``."""
    reliability: jax.Array
    """``[B, bins, 4]``: pixels, correct ones, confidence in 1/65535 as low and high byte (their sums fit)."""


@flax.struct.dataclass
class Counts:
    """What one batch adds to a row: int32 sums over the whole batch (over the whole mesh), exact."""

    confusion: jax.Array
    """``[K, K]``, rows are the reference."""
    usable: jax.Array
    """``[B]`` bool: the tiles that were counted."""
    pixels: jax.Array
    """Pixels that the matrix must hold."""
    predicted: jax.Array
    """Class map ``[B, H, W]`` int32, -1 where the output is not finite."""
    tally: Tally | None = None
    """With ``outputs='tally'``."""
    confidence: jax.Array | None = None
    """``[B, H, W]`` uint16: probability of the predicted class in 1/65535, with the outputs that are maps."""
    probabilities: jax.Array | None = None
    """``[B, H, W, K]`` float32, with ``outputs='probabilities'``."""


@functools.partial(jax.jit, static_argnames=("model", "branch", "num_classes", "outputs"))
def count_confusion(
    variables: Mapping[str, Any],
    images: Mapping[str, jax.Array],
    label: jax.Array,
    usable: jax.Array,
    *,
    model: DIS2,
    branch: Scenario,
    num_classes: int,
    outputs: Outputs = "counts",
) -> Counts:
    """Predict normalised images ``[B, H, W, C]`` and count ``usable`` tiles (``[B]`` bool) against ``label``.

    Compiled once per model and branch, across calls. Counting is an integer product of one-hot maps: exact
    below 2^31 pixels per batch, and over a mesh one small sum. Predictions that are not finite land in no
    column: the caller sees them as missing pixels.
    """
    placed = {**variables, "params": current().parameters(variables["params"], model.dtype)}
    probabilities: Any = model.apply(placed, images, scenario=branch, method="predict")
    finite = jnp.isfinite(probabilities).all(-1)
    predicted = jnp.where(finite, jnp.argmax(probabilities, axis=-1), -1)
    classes = jnp.arange(num_classes)
    counted = (label != IGNORE) & usable[:, None, None]
    confusion = jnp.einsum(
        "bhwr,bhwp->rp",
        ((label[..., None] == classes) & counted[..., None]).astype(jnp.int8),
        (predicted[..., None] == classes).astype(jnp.int8),
        preferred_element_type=jnp.int32,
    )
    known = probabilities.astype(jnp.float32)
    share = jnp.where(finite, known.max(-1), 0.0)
    confidence = jnp.round(share * CONFIDENCE_ONE).astype(jnp.uint16)
    return Counts(
        confusion=confusion,
        usable=usable,
        pixels=counted.sum(dtype=jnp.int32),
        predicted=predicted,
        tally=_tally(label, predicted, confidence, counted, num_classes) if outputs == "tally" else None,
        confidence=confidence if outputs in ("confidence", "probabilities") else None,
        probabilities=known if outputs == "probabilities" else None,
    )


def _tally(
    label: jax.Array, predicted: jax.Array, confidence: jax.Array, counted: jax.Array, num_classes: int
) -> Tally:
    """Maps ``[B, H, W]`` to sums per tile."""
    classes = jnp.arange(num_classes)
    own = (label[..., None] == classes) & counted[..., None]
    chosen = (predicted[..., None] == classes) & counted[..., None]
    counts = jnp.stack([x.sum((1, 2), dtype=jnp.int32) for x in (own & chosen, own, chosen)], axis=1)
    steps = confidence.astype(jnp.int32)
    bins = jnp.maximum((steps * RELIABILITY_BINS + CONFIDENCE_ONE - 1) // CONFIDENCE_ONE - 1, 0)
    values = jnp.stack([jnp.ones_like(steps), label == predicted, steps & 255, steps >> 8], axis=-1)
    where = (bins[..., None] == jnp.arange(RELIABILITY_BINS)) & counted[..., None]
    reliability = jnp.einsum("bhwn,bhwv->bnv", where.astype(jnp.int32), values.astype(jnp.int32))
    return Tally(counts, reliability)


class _Total:
    """Counts of every row over the split."""

    def __init__(self, *, rows: tuple[Row, ...], card: DatasetCard, split: str) -> None:
        self._rows = rows
        self._classes = card.legend.names
        self._split = split
        k = len(self._classes)
        self._confusion = {row.name: np.zeros((k, k), np.int64) for row in rows}
        self._reliability = {row.name: np.zeros((RELIABILITY_BINS, 3), np.int64) for row in rows}
        self._tiles: dict[str, list[tuple[int, np.ndarray]]] = {row.name: [] for row in rows}
        self.read: set[int] = set()
        """Records that were there."""

    def add(self, found: dict[str, Counts], *, records: np.ndarray, valid: np.ndarray) -> None:
        """Wait for one batch's results and add them; a lost pixel is an error, not a better score."""
        self.read.update(records[valid].tolist())
        for name, counts in found.items():
            confusion = np.asarray(counts.confusion).astype(np.int64)
            check_lost(int(counts.pixels) - int(confusion.sum()), split=self._split, scenario=name)
            self._confusion[name] += confusion
            assert counts.tally is not None
            usable, tally = fetch((counts.usable, counts.tally))
            n, correct, low, high = tally.reliability.astype(np.int64).sum(0).T
            self._reliability[name] += np.stack([n, correct, low + 256 * high], axis=-1)
            self._tiles[name] += [(int(records[i]), tally.counts[i]) for i in np.flatnonzero(usable & valid)]

    def results(self) -> tuple[ScenarioResult, ...]:
        """Freeze."""
        return tuple(
            ScenarioResult(
                name=row.name,
                kind=row.kind,
                available=row.available,
                tiles=len(self._tiles[row.name]),
                confusion=tuple(tuple(int(n) for n in line) for line in self._confusion[row.name]),
                classes=self._classes,
                calibration=calibration_of(self._reliability[row.name]),
            )
            for row in self._rows
        )

    def tiles(self) -> dict[str, TileCounts]:
        """By scenario; those without a tile are left out."""
        return {
            name: TileCounts(
                tuple(f"record {r}" for r, _ in own),
                np.stack([counts for _, counts in own]).astype(np.int64),
                tuple(r for r, _ in own),
            )
            for name, own in self._tiles.items()
            if own
        }


def fetch(tree: Any) -> Any:
    """Whole arrays on every host, as numpy. Every host of a job must call this."""
    return jax.tree.map(
        lambda x: np.asarray(
            x if x.is_fully_addressable else multihost_utils.process_allgather(x, tiled=True)
        ),
        tree,
    )


def everywhere(rows: Any, mesh: Mesh | None) -> Any:
    """All hosts' rows of a batch, in the order of what ``fetch`` brings back of them. Every host must call this.

    They take the way over the mesh, whose devices need not be sorted by host (on TPU they are not).
    """
    if mesh is None or jax.process_count() == 1:
        return rows
    return fetch(put_batch(rows, mesh))


def check_lost(pixels: int, *, split: str, scenario: str) -> None:
    """Raise ``Dis2Error`` when pixels that count have no predicted class."""
    if pixels:
        raise Dis2Error(
            f"split {split!r}, scenario {scenario}: {pixels} pixels could not be counted: the model's"
            " output is not finite there, or a label lies outside the legend"
        )


def usable_tiles(batch: Batch, row: Row, card: DatasetCard) -> np.ndarray:
    """``[B]`` bool: real tiles in which everything that the row reads is there."""
    columns = [card.modality_names.index(m) for m in row.available]
    return batch["valid"] & batch["available"][:, columns].all(axis=1)


def round_up(batch_size: int, mesh: Mesh) -> int:
    """Give every device of the mesh the same number of tiles."""
    n = tile_shards(mesh)
    return -(-batch_size // n) * n


def on_mesh(variables: Mapping[str, Any], mesh: Mesh) -> Any:
    """Copy leaves that are not on the mesh to all of its devices; sharded state stays as it is."""
    devices = set(mesh.devices.flat)

    def place(leaf: Any) -> Any:
        there = isinstance(leaf, jax.Array) and set(leaf.sharding.device_set) == devices
        return leaf if there else put_whole(leaf, replicated(mesh))

    return jax.tree.map(place, variables)
