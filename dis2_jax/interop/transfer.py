"""A published state dict becomes a workdir that evaluates, predicts and trains on; and back."""

from __future__ import annotations

import dataclasses
import math
import shutil
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from dis2_jax import recipes
from dis2_jax.config import Config, ModelConfig
from dis2_jax.interop.names import PUBLISHED, StateDictError, compare, published_state_dict, to_variables
from dis2_jax.interop.state_dict import read_state_dict, write_state_dict
from dis2_jax.models.dis2 import DIS2
from dis2_jax.schema import CARD_FILE, ClassLegend, DatasetCard, Dis2Error, Modality
from dis2_jax.training.checkpoint import Checkpoints, load_eval_variables
from dis2_jax.training.optimizer import make_optimizer
from dis2_jax.training.state import TrainState, build_model, state_maker
from dis2_jax.training.workdir import claim, train_tile

# The five classes of the published Potsdam model, in its order, with the benchmark's colours.
_POTSDAM = ("impervious_surfaces", "building", "low_vegetation", "tree", "car")
_POTSDAM_COLORS = ((255, 255, 255), (0, 0, 255), (0, 255, 255), (0, 255, 0), (255, 255, 0))


@dataclasses.dataclass(frozen=True)
class Sizes:
    """What the shapes of a state dict tell. Published defaults stand in for entries that are not there."""

    width: int
    classes: int
    channels: tuple[int, int]
    depth: int
    feed_forward: int
    positions: int
    """Rows of a position table: H/16 * W/16."""


@dataclasses.dataclass(frozen=True)
class Imported:
    """A new workdir, and the names in the file that nothing uses."""

    workdir: Path
    config: Config
    card: DatasetCard
    parameters: int
    unused: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Exported:
    """A written state dict. ``notes`` say what the published code must be told."""

    path: Path
    names: int
    parameters: int
    notes: tuple[str, ...]


def import_checkpoint(
    checkpoint: str | Path,
    workdir: str | Path,
    *,
    card: str | Path | None = None,
    tile: tuple[int, int] | None = None,
) -> Imported:
    """Make ``workdir`` from a published checkpoint; it appears when it is complete, or not at all.

    Args:
        checkpoint: see ``read_state_dict``.
        workdir: a folder that does not exist yet, or is empty.
        card: a ``dataset_card.json`` or the prepared dataset's folder, which the config then points at. None:
            the published Potsdam set-up (``rgb``, ``ndsm``; five classes), sizes from the shapes.
        tile: (height, width) in pixels that the position tables stand for. None: the card's, else a square.

    Raises:
        StateDictError: names missing, extra, or of another shape; all of them are in ``mismatch``.
        Dis2Error: unreadable checkpoint or card, or a workdir that is not empty.
    """
    target = Path(workdir)
    _require_free(target)
    state_dict = read_state_dict(checkpoint)
    sizes = infer_sizes(state_dict)
    chosen = _load_card(card, sizes, tile)
    config = _config(sizes, chosen, card, tile)
    model = build_model(config.model, chosen, tile=train_tile(config, chosen))
    found = compare(state_dict, model=model)
    if not found.fits:
        kinds = (
            f"{len(found.missing)} missing, {len(found.extra)} extra, {len(found.reshaped)} of another shape"
        )
        raise StateDictError(
            f"{checkpoint} does not fit {_describe(model)}: {kinds}; nothing was written", found
        )
    variables = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), to_variables(state_dict, model=model))
    _write_workdir(target, config, chosen, model, variables)
    count = sum(x.size for x in jax.tree.leaves(variables["params"]))
    return Imported(workdir=target, config=config, card=chosen, parameters=count, unused=found.unused)


def export_checkpoint(workdir: str | Path, path: str | Path, *, step: int | None = None) -> Exported:
    """Write a run's evaluation variables (best checkpoint, or ``step``) under the published names.

    Raises ``Dis2Error`` for a model that the published network cannot compute: not two modalities with a
    student each, ``position`` not ``'table'`` or ``class_scale`` not ``'sum'``.
    """
    trained = load_eval_variables(workdir, "best" if step is None else step)
    if trained.config.model.class_scale != "sum":
        raise Dis2Error(
            f"{workdir}: the published network computes model.class_scale = 'sum', this one "
            f"{trained.config.model.class_scale!r}; train with --config.recipe=released to export"
        )
    arrays = jax.tree.map(np.asarray, trained.variables)
    state_dict = published_state_dict(arrays, model=trained.model)
    write_state_dict(path, state_dict)
    count = sum(x.size for x in jax.tree.leaves(arrays["params"]))
    return Exported(
        Path(path), names=len(state_dict), parameters=count, notes=_notes(trained.config, trained.card)
    )


def infer_sizes(state_dict: Mapping[str, np.ndarray]) -> Sizes:
    """Read the sizes off the shapes; where entries disagree the most frequent answer wins."""
    shapes = {name: tuple(np.shape(array)) for name, array in state_dict.items()}

    def vote(names: Sequence[str], axis: int, default: int) -> int:
        seen = [shapes[n][axis] for n in names if n in shapes and len(shapes[n]) > axis]
        return statistics.mode(seen) if seen else default

    branches = ("full", *(f"miss_{m}" for m in PUBLISHED))
    fusion = [f"{b}_fuse" for b in branches]
    layers = [f"{f}.transformer.layers.{i}.linear1.weight" for f in fusion for i in range(64)]
    first = {m: [f"{m}_encoder.e1.weight", f"{m}_else.e1.weight"] for m in PUBLISHED}
    depths = [sum(n in shapes for n in layers if n.startswith(f)) for f in fusion]
    return Sizes(
        width=vote([n for m in PUBLISHED for n in first[m]], 0, 32),
        classes=vote([f"{b}_classwise_attention.class_queries" for b in branches], 0, 5),
        channels=(vote(first["rgb"], 1, 3), vote(first["ndsm"], 1, 1)),
        depth=statistics.mode(depths) or 2,
        feed_forward=vote(layers, 0, 256),
        positions=vote([f"{f}.{m}_pos" for f in fusion for m in PUBLISHED], 1, 1024),
    )


def published_card(sizes: Sizes, *, tile: tuple[int, int]) -> DatasetCard:
    """Describe the data of the published Potsdam model: raw 0-255 ``rgb`` and ``ndsm``."""
    k = sizes.classes
    potsdam = k == len(_POTSDAM)
    grey = tuple((c * 255 // max(k - 1, 1),) * 3 for c in range(k))
    return DatasetCard(
        name="potsdam" if potsdam else "published",
        modalities=(
            Modality("rgb", sizes.channels[0], kind="optical", unit="0-255"),
            Modality("ndsm", sizes.channels[1], kind="height", unit="0-255"),
        ),
        legend=ClassLegend(
            names=_POTSDAM if potsdam else tuple(f"class_{c}" for c in range(k)),
            colors=_POTSDAM_COLORS if potsdam else grey,
            codes=tuple(range(k)),
        ),
        tile=tile,
        splits={},
        description="Inputs of an imported published checkpoint; no dataset is attached.",
    )


def _load_card(card: str | Path | None, sizes: Sizes, tile: tuple[int, int] | None) -> DatasetCard:
    if card is None:
        return published_card(sizes, tile=tile or _square(sizes.positions))
    path = Path(card)
    if path.is_dir():
        return DatasetCard.load(path)
    if not path.is_file():
        raise Dis2Error(f"{path} not found: --card takes a {CARD_FILE} or the folder of a prepared dataset")
    try:
        return DatasetCard.from_json(path.read_text())
    except (Dis2Error, UnicodeDecodeError) as e:
        raise Dis2Error(f"{path}: {e}") from e


def _square(positions: int) -> tuple[int, int]:
    side = 16 * math.isqrt(positions)
    if (side // 16) ** 2 != positions:
        raise Dis2Error(
            f"{positions} positions are not a square tile: give its height and width with --tile HxW"
        )
    return side, side


def _config(
    sizes: Sizes, card: DatasetCard, source: str | Path | None, tile: tuple[int, int] | None
) -> Config:
    """Return the released recipe with the sizes found, pointing at the card's dataset where there is one."""
    config = Config.from_dict(recipes.base("released").to_dict())
    model = dataclasses.replace(
        config.model, width=sizes.width, depth=sizes.depth, feed_forward=sizes.feed_forward
    )
    folder = None if source is None else Path(source) if Path(source).is_dir() else Path(source).parent
    prepared = folder is not None and (folder / "dataset_info.json").is_file()
    data = dataclasses.replace(
        config.data,
        dir=str(folder.resolve()) if folder is not None and prepared else "",
        crop=(0, 0) if tile in (None, card.tile) else tile,
    )
    return dataclasses.replace(config, model=_checked(model), data=data)


def _checked(model: ModelConfig) -> ModelConfig:
    """Return ``model`` when a DIS2 of these sizes exists, else raise ``Dis2Error``."""
    Config(model=model)
    return model


def _write_workdir(target: Path, config: Config, card: DatasetCard, model: DIS2, variables: Mapping) -> None:
    """Write under a temporary name beside the target, then rename."""
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    state = _fresh_state(config, model, variables)
    try:
        claim(partial, config=config, card=card)
        with Checkpoints(partial, config=config, card=card) as checkpoints:
            checkpoints.save(state, step=0, position=0)
        partial.replace(target)
    except OSError as e:
        raise Dis2Error(f"workdir {target} cannot be written: {e.strerror or e}") from e
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _fresh_state(config: Config, model: DIS2, variables: Mapping) -> TrainState:
    """Return the state before the first step, without computing random parameters only to replace them."""
    optimizer = make_optimizer(config.optimizer, steps=config.train.steps)
    shapes = jax.eval_shape(state_maker(model, optimizer, config))
    zeros: TrainState = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
    params = variables["params"]
    return dataclasses.replace(
        zeros,
        params=params,
        batch_stats=variables["batch_stats"],
        opt_state=optimizer.init(params),
        ema=None if shapes.ema is None else params,
    )


def _require_free(workdir: Path) -> None:
    if workdir.exists() and (not workdir.is_dir() or any(workdir.iterdir())):
        raise Dis2Error(f"{workdir} exists and is not empty: give a new --workdir")


def _describe(model: DIS2) -> str:
    inputs = ", ".join(f"{name}:{channels}" for name, channels in model.modalities)
    height, width = model.tile
    return (
        f"a model of width {model.width} for {inputs}, {model.num_classes} classes, {height} x {width} tiles"
    )


def _notes(config: Config, card: DatasetCard) -> tuple[str, ...]:
    notes = []
    if config.data.normalize == "card":
        notes.append(
            "this model wants (x - mean) / std of the dataset card; the published code feeds raw values"
        )
    if card.modality_names != PUBLISHED:
        notes.append(
            f"{card.modality_names[0]} is called rgb, {card.modality_names[1]} ndsm in the state dict"
        )
    if config.model.pool == "mean":
        notes.append("attention pools were not trained and are zeros (training only)")
    return tuple(notes)
