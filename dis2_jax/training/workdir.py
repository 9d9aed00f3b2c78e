"""The folder of one run: its config and dataset card, and the refusal of what is not the same run."""

from __future__ import annotations

from pathlib import Path

from dis2_jax import config_file
from dis2_jax.config import Config
from dis2_jax.files import write_whole
from dis2_jax.schema import CARD_FILE, DatasetCard, Dis2Error

MAY_CHANGE = frozenset(
    {
        "data.dir",
        "data.source",
        "data.workers",
        "data.on_error",
        "data.max_skips",
        "train.steps",
        "train.log_every",
        "train.eval_every",
        "train.checkpoint_every",
        "train.keep",
        "train.eval_batch_size",
        "train.panels",
        "sharding.strategy",
        "sharding.axes",
        "sharding.remat",
    }
)
"""Config keys that a resumed run may have another value of: they do not change what a step computes.

(``train.steps`` stretches a cosine schedule from the resumed step on.)
"""
CHECKPOINTS = "checkpoints"
"""The folder of a workdir that holds the checkpoints."""
_CARD_KEYS = ("name", "modalities", "legend", "tile", "splits")


def train_tile(config: Config, card: DatasetCard) -> tuple[int, int]:
    """(height, width) of a training sample in pixels.

    Raises ``Dis2Error`` for position tables with a crop: validation reads whole tiles, which they would not fit.
    """
    height, width = config.data.crop
    tile = (height or card.tile[0], width or card.tile[1])
    if config.model.position == "table" and tile != card.tile:
        raise Dis2Error(
            f"config data.crop = {config.data.crop} with model.position = 'table': position tables know one tile size,"
            f" and evaluation reads whole tiles of {card.tile}; set data.crop = (0, 0) or position = 'sincos'"
        )
    return tile


def check_same_run(
    *, old: Config, new: Config, old_card: DatasetCard, new_card: DatasetCard, where: str
) -> None:
    """Raise ``Dis2Error`` that lists what differs between a stored run and this one, with both values."""
    other = [k for k in _CARD_KEYS if getattr(old_card, k) != getattr(new_card, k)]
    if not old_card.splits:  # imported weights: no dataset was there
        other = [k for k in other if k != "splits"]
    if other:
        parts = ", ".join(f"{k} was {_short(old_card, k)}, now {_short(new_card, k)}" for k in other)
        raise Dis2Error(f"{where} is of another dataset: {parts}; use another --workdir or the old data")
    conflicts = [d for d in config_file.differences(old, new) if d.key not in MAY_CHANGE]
    if conflicts:
        raise Dis2Error(
            f"{where} is of a run with another config: {'; '.join(map(str, conflicts))};"
            " use another --workdir or the old values"
        )


def claim(workdir: str | Path, *, config: Config, card: DatasetCard) -> None:
    """Store config and card in a new workdir; in an old one check that it is this run, then update it.

    A workdir without a checkpoint holds nothing to continue, so that a run that failed at once can be mended there.
    Raises ``Dis2Error``: the workdir holds checkpoints of another config or dataset.
    """
    folder = Path(workdir)
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / config_file.CONFIG_FILE).is_file() and _has_checkpoint(folder):
        check_same_run(
            old=config_file.read(folder),
            new=config,
            old_card=read_card(folder),
            new_card=card,
            where=f"workdir {folder}",
        )
    else:
        write_card(card, folder)
    config_file.write(config, folder)


def _has_checkpoint(folder: Path) -> bool:
    """Whether there is one, be it a damaged one that was put aside."""
    names = [p.name for p in (folder / CHECKPOINTS).glob("*")]
    return any(name.isdigit() or name.startswith("damaged-") for name in names)


def read_card(workdir: str | Path) -> DatasetCard:
    """Read the card that the run was trained with (only the modalities it uses)."""
    path = Path(workdir) / CARD_FILE
    if not path.is_file():
        raise Dis2Error(f"{path} not found: {workdir} is not a complete training workdir")
    return DatasetCard.load(workdir)


def write_card(card: DatasetCard, workdir: str | Path) -> None:
    """Store ``dataset_card.json``, whole or not at all."""
    write_whole(Path(workdir) / CARD_FILE, card.to_json() + "\n")


def _short(card: DatasetCard, key: str) -> str:
    """One field of a card in a few words; where the names agree, the contents differ."""
    value = getattr(card, key)
    if key == "modalities":
        return "+".join(f"{m.name}[{m.channels}] {m.kind} mean {m.mean}" for m in value)
    if key == "legend":
        return "/".join(value.names)
    return repr(value)
