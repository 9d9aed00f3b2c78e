"""A run's configuration: frozen dataclasses that check themselves. ``configs/*.py`` fill them (see config_file).

``released`` values of a switch reproduce the published code; the other values are ours (METHOD.md, weaknesses).
"""

from __future__ import annotations

import dataclasses
import math
import typing
from collections.abc import Mapping
from typing import Any, Literal

from dis2_jax.schema import Dis2Error, nearest

Recipe = Literal["ours", "released"]


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Which prepared dataset, and how a training sample is drawn from it."""

    dir: str = ""
    """Folder that `dis2 data prepare`, `index` (scenes) or `mix` wrote."""
    source: Literal["auto", "prepared", "scenes", "mixture"] = "auto"
    """What `dir` must be; `auto`: whatever it is."""
    modalities: tuple[str, ...] = ()
    """Use only these modalities of the dataset; empty: all."""
    train_split: str = "train"
    validation_split: str = "validation"
    test_split: str = "test"
    batch_size: int = 8
    """Tiles per step, over all hosts."""
    crop: tuple[int, int] = (0, 0)
    """Height, width of a training sample; (0, 0): the whole tile. Multiples of 16."""
    samples_per_epoch: int = 0
    """Tiles drawn afresh each epoch; 0: every tile once."""
    flip: bool = True
    rotate90: bool = True
    rotate_degrees: float = 0.0
    """Free rotation, uniform in +-degrees; uncovered pixels repeat by reflection (images) or are ignored (labels)."""
    scale: tuple[float, float] = (1.0, 1.0)
    """Zoom factor range (log-uniform); above 1 objects get larger."""
    photometric: float = 0.0
    """Strength of brightness, contrast and per-channel gain noise on optical modalities, in standard deviations."""
    augment: Literal["host", "device"] = "host"
    """Who carries the above out: `host`, the readers; `device`, the training step, on whole tiles."""
    normalize: Literal["card", "none"] = "card"
    """`card`: (x - mean) / std of the training split; `none`: raw values, as released."""
    workers: int = 0
    """Reader processes per host; 0: threads in this process."""
    on_error: Literal["raise", "skip"] = "raise"
    """A tile that cannot be read: `raise` ends the run, `skip` takes another one in its place and counts."""
    max_skips: int = 100
    """With `skip`: the run ends after more than so many, per host and start."""


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The network. Defaults are the published sizes with our switches."""

    width: int = 32
    """Channels of level 1 (multiple of 8); levels 2-4 have 2, 4, 8 times as many."""
    heads: int = 8
    depth: int = 2
    """Transformer layers in the fusion."""
    feed_forward: int = 256
    dropout: float = 0.1
    position: Literal["table", "sincos"] = "sincos"
    """`table` (released): learned, ties the weights to one tile size; `sincos`: fixed 2-D sines, any size."""
    class_scale: Literal["sum", "mean"] = "mean"
    """`sum` (released): class maps shrink as 1/positions; `mean`: attention has mean 1 over positions."""
    pool: Literal["attention", "mean"] = "mean"
    """Pooling in front of the distillation and orthogonality terms; `attention` as released (METHOD.md 3)."""
    dtype: Literal["float32", "bfloat16", "float64"] = "float32"
    """Compute type. Parameters stay float32; statistics, softmaxes and losses too. float64 needs x64."""
    students: str = "default"
    """Which available-sets get a student: default | single | drop_one | all | 'a,b+c,...'."""


@dataclasses.dataclass(frozen=True)
class LossConfig:
    """Weights and forms of the DLKD loss terms."""

    cross_entropy: Literal["released", "standard", "balanced"] = "standard"
    """`released`: clipped log, mean over classes too; `standard`: log-softmax, mean over pixels; `balanced`: mean
    weighted by 1 - the class's share of the batch, for IoU where a scenario leaves rare classes doubtful."""
    dice: Literal["released", "present"] = "present"
    """`released`: an absent class scores 0; `present`: mean over the classes in the batch."""
    distill_reduction: Literal["mean", "sum"] = "sum"
    """Squared distance of unit vectors: `mean` over channels (released) or `sum`; KL over classes likewise."""
    distillation: float = 0.1
    distill_parts: tuple[Literal["pooled", "penultimate", "logits"], ...] = (
        "pooled",
        "penultimate",
        "logits",
    )
    """What is matched: pooled fused maps and fusion token, penultimate map, softened predictions; released: all."""
    orthogonality: float = 1.0
    temperature: float = 2.0
    unimodal: float = 1.0
    side: float = 0.25
    """Weight of each of the four side maps of a branch; released: 1."""
    distill_start: float = 0.0
    """Distillation weight is 0 before this moment ..."""
    distill_ramp: float = 0.0
    """... and grows linearly to its full value over this long."""
    distill_unit: Literal["epochs", "steps"] = "epochs"


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """Optax optimiser, schedule, accumulation, clipping, EMA."""

    name: Literal["adamw", "sgd", "adam", "lion"] = "adamw"
    learning_rate: float = 1e-3
    schedule: Literal["cosine", "cosine_restarts", "constant"] = "cosine"
    warmup_steps: int = 0
    restart_every: int = 15
    """Optimiser steps between restarts of `cosine_restarts`."""
    momentum: float = 0.9
    nesterov: bool = True
    b2: float = 0.999
    weight_decay: float = 0.01
    """On kernels only: never on biases, norms, tokens or position tables."""
    clip_norm: float = 0.0
    """Global gradient norm limit; 0: none."""
    accumulate: int = 1
    """Batches per optimiser step."""
    accumulate_first: Literal["full", "half"] = "full"
    """`half` (released): the very first optimiser step comes after one batch."""
    ema: float = 0.0
    """Decay of the averaged parameters that evaluation uses; 0: none."""


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """How long, how often, and which scenario when."""

    steps: int = 1000
    seed: int = 0
    init_from: str = ""
    """Workdir of another run whose best parameters and statistics this one starts from; empty: random ones."""
    scenarios: Literal["sampled", "all"] = "sampled"
    """`sampled`: one missing scenario per step, a function of (seed, step); `all`: every student in every step."""
    scenario_weights: tuple[float, ...] = ()
    """Probabilities in the order of the students; empty: equal."""
    log_every: int = 10
    eval_every: int = 500
    """Steps between validations; a checkpoint is saved at each, and at the end."""
    checkpoint_every: int = 0
    """Further checkpoints between validations; 0: none."""
    keep: int = 2
    """Last checkpoints kept, beside the best."""
    eval_batch_size: int = 8
    select: Literal["mean_miou"] = "mean_miou"
    """Best checkpoint: highest mean over scenarios of validation mIoU."""
    panels: int = 4
    """Validation tiles drawn in TensorBoard and the evaluation panels."""


@dataclasses.dataclass(frozen=True)
class ShardingConfig:
    """How a run is spread over its devices; no number of the result depends on it."""

    strategy: Literal["single", "dp", "zero1", "fsdp", "hsdp", "spatial", "class", "shard_map", "pmap"] = "dp"
    """`single`: one device; `dp`: tiles; `zero1`: tiles, and optimiser slots and averages; `fsdp`: parameters too;
    `hsdp`: fsdp inside each slice or host, dp between them; `spatial`: rows of the tiles; `class`: the class maps.
    These two also come on top of the others, as `axes`. `shard_map`, `pmap`: dp written out, to compare with."""
    remat: Literal["none", "decoder", "branch", "full"] = "none"
    """What is computed again for the gradient instead of kept: the classwise decoders, branches, every part."""
    axes: str = ""
    """Mesh axes and sizes such as `data:-1,fsdp:4`, -1 fills (data, fsdp, rows, classes); empty: the strategy's."""


@dataclasses.dataclass(frozen=True)
class Config:
    """One run."""

    recipe: Recipe = "ours"
    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    loss: LossConfig = dataclasses.field(default_factory=LossConfig)
    optimizer: OptimizerConfig = dataclasses.field(default_factory=OptimizerConfig)
    train: TrainConfig = dataclasses.field(default_factory=TrainConfig)
    sharding: ShardingConfig = dataclasses.field(default_factory=ShardingConfig)

    def __post_init__(self) -> None:
        _check(self)

    def to_dict(self) -> dict[str, Any]:
        """Nested plain dict, JSON-ready."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Config:
        """Build from a nested mapping. Unknown keys and bad values raise ``Dis2Error`` with the nearest valid name."""
        return _build(cls, values, path="")


def _build(cls: type, values: Mapping[str, Any], *, path: str) -> Any:
    hints = typing.get_type_hints(cls)
    known = [f.name for f in dataclasses.fields(cls)]
    given: dict[str, Any] = {}
    for key, value in values.items():
        if key not in known:
            raise Dis2Error(
                f"config has no key {path + key!r}{nearest(key, known)}; it has {', '.join(known)}"
            )
        given[key] = (
            _build(hints[key], value, path=f"{path}{key}.")
            if dataclasses.is_dataclass(hints[key])
            else _coerce(value, hints[key], path + key)
        )
    return cls(**given)


def _coerce(value: Any, hint: Any, path: str) -> Any:
    """Accept exactly what the annotation says (an int may stand for a float, a list for a tuple)."""
    origin = typing.get_origin(hint)
    if origin is Literal:
        options = typing.get_args(hint)
        if value not in options:
            raise Dis2Error(
                f"config {path} = {value!r}{nearest(str(value), options)}: choose from {', '.join(options)}"
            )
        return value
    if origin is tuple:
        if not isinstance(value, (tuple, list)):
            raise Dis2Error(f"config {path} = {value!r}: a tuple is wanted, such as (1, 2)")
        args = typing.get_args(hint)
        items = [args[0]] * len(value) if args[-1] is Ellipsis else list(args)
        if len(items) != len(value):
            raise Dis2Error(f"config {path} = {value!r}: {len(items)} values are wanted")
        return tuple(_coerce(v, h, path) for v, h in zip(value, items, strict=True))
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise Dis2Error(f"config {path} = {value!r}: {hint.__name__} is wanted")
    return value


def _check(c: Config) -> None:
    """Raise ``Dis2Error`` for the first value that cannot work."""
    _check_finite(c.to_dict(), path="")
    rules = [
        (c.data.batch_size >= 1, "data.batch_size", c.data.batch_size, "at least 1"),
        (all(s >= 0 and s % 16 == 0 for s in c.data.crop), "data.crop", c.data.crop, "multiples of 16"),
        (0 < c.data.scale[0] <= c.data.scale[1], "data.scale", c.data.scale, "0 < low <= high"),
        (
            0 <= c.data.photometric <= 10,
            "data.photometric",
            c.data.photometric,
            "0 to 10 standard deviations",
        ),
        (c.data.workers >= 0, "data.workers", c.data.workers, "at least 0"),
        (c.data.max_skips >= 0, "data.max_skips", c.data.max_skips, "at least 0"),
        (c.data.samples_per_epoch >= 0, "data.samples_per_epoch", c.data.samples_per_epoch, "at least 0"),
        (c.data.rotate_degrees >= 0, "data.rotate_degrees", c.data.rotate_degrees, "at least 0"),
        (c.train.panels >= 0, "train.panels", c.train.panels, "at least 0"),
        (0 <= c.optimizer.b2 < 1, "optimizer.b2", c.optimizer.b2, "in [0, 1)"),
        (c.optimizer.weight_decay >= 0, "optimizer.weight_decay", c.optimizer.weight_decay, "at least 0"),
        (c.optimizer.warmup_steps >= 0, "optimizer.warmup_steps", c.optimizer.warmup_steps, "at least 0"),
        (c.model.width >= 8 and c.model.width % 8 == 0, "model.width", c.model.width, "a multiple of 8"),
        (
            c.model.heads >= 1 and 8 * c.model.width % c.model.heads == 0,
            "model.heads",
            c.model.heads,
            f"a divisor of 8 * width = {8 * c.model.width}",
        ),
        (c.model.depth >= 1, "model.depth", c.model.depth, "at least 1"),
        (c.model.feed_forward >= 1, "model.feed_forward", c.model.feed_forward, "at least 1"),
        (0 <= c.model.dropout < 1, "model.dropout", c.model.dropout, "in [0, 1)"),
        (c.loss.temperature > 0, "loss.temperature", c.loss.temperature, "above 0"),
        (c.optimizer.learning_rate > 0, "optimizer.learning_rate", c.optimizer.learning_rate, "above 0"),
        (c.optimizer.accumulate >= 1, "optimizer.accumulate", c.optimizer.accumulate, "at least 1"),
        (c.optimizer.restart_every >= 1, "optimizer.restart_every", c.optimizer.restart_every, "at least 1"),
        (c.optimizer.clip_norm >= 0, "optimizer.clip_norm", c.optimizer.clip_norm, "at least 0"),
        (0 <= c.optimizer.ema < 1, "optimizer.ema", c.optimizer.ema, "in [0, 1)"),
        (0 <= c.optimizer.momentum < 1, "optimizer.momentum", c.optimizer.momentum, "in [0, 1)"),
        (c.train.steps >= 1, "train.steps", c.train.steps, "at least 1"),
        (c.train.log_every >= 1, "train.log_every", c.train.log_every, "at least 1"),
        (c.train.eval_every >= 1, "train.eval_every", c.train.eval_every, "at least 1"),
        (c.train.checkpoint_every >= 0, "train.checkpoint_every", c.train.checkpoint_every, "at least 0"),
        (c.train.keep >= 1, "train.keep", c.train.keep, "at least 1"),
        (c.train.eval_batch_size >= 1, "train.eval_batch_size", c.train.eval_batch_size, "at least 1"),
        (0 <= c.train.seed < 2**32, "train.seed", c.train.seed, "at least 0 and below 2**32"),
    ]
    for ok, key, value, wanted in rules:
        if not ok:
            raise Dis2Error(f"config {key} = {value!r}: it must be {wanted}")
    negative = [
        f.name
        for f in dataclasses.fields(c.loss)
        if isinstance(v := getattr(c.loss, f.name), float) and v < 0
    ]
    if negative:
        raise Dis2Error(f"config loss.{negative[0]}: it must be at least 0")
    w = c.train.scenario_weights
    if any(x < 0 for x in w) or (w and sum(w) <= 0):
        raise Dis2Error(f"config train.scenario_weights = {w}: weights are at least 0 and not all 0")


def _check_finite(values: Mapping[str, Any], *, path: str) -> None:
    for key, value in values.items():
        if isinstance(value, Mapping):
            _check_finite(value, path=f"{path}{key}.")
        for x in value if isinstance(value, tuple) else (value,):
            if isinstance(x, float) and not math.isfinite(x):
                raise Dis2Error(f"config {path}{key} = {value}: it must be finite")
