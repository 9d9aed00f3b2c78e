"""Cards of published datasets that are not on this disk: channels and classes, all that a plan needs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dis2_jax.data.builders.isprs_labels import NAMES as ISPRS_CLASSES
from dis2_jax.random_tiles import random_card
from dis2_jax.schema import CARD_FILE, DatasetCard, Dis2Error, nearest

KNOWN: dict[str, tuple[dict[str, int], int]] = {
    "potsdam": ({"rgb": 3, "irrg": 3, "rgbir": 4, "ndsm": 1, "dsm": 1}, len(ISPRS_CLASSES)),
    "vaihingen": ({"irrg": 3, "ndsm": 1, "dsm": 1}, len(ISPRS_CLASSES)),
    "ombria": ({"s1_before": 1, "s2_before": 3, "s1_after": 1, "s2_after": 3}, 2),
}
"""Name of the builder -> channels of each modality that it can make, number of classes."""


def known_card(name: str, modalities: Sequence[str], *, tile: tuple[int, int]) -> DatasetCard:
    """Describe a published dataset with these modalities; ``Dis2Error`` for others than it has."""
    if name not in KNOWN:
        raise Dis2Error(
            f"no description of a dataset {name!r}{nearest(name, KNOWN)}: there are {', '.join(KNOWN)};"
            " or give --modalities a:C,b:C --classes K"
        )
    channels, classes = KNOWN[name]
    unknown = [m for m in modalities if m not in channels]
    if unknown or not modalities:
        wrong = f"has no modality {unknown[0]!r}" if unknown else "needs config.data.modalities"
        raise Dis2Error(f"dataset {name!r} {wrong}: it has {', '.join(channels)}")
    chosen = [(m, c) for m, c in channels.items() if m in modalities]
    return random_card(chosen, classes=classes, tile=tile)


def config_card(folder: str, modalities: Sequence[str], *, tile: tuple[int, int]) -> DatasetCard:
    """Card of a config's dataset: the prepared one where there is one, else the published one of the folder's name."""
    if folder and (Path(folder) / CARD_FILE).is_file():
        return DatasetCard.load(folder).select(tuple(modalities))
    if Path(folder).name in KNOWN:
        return known_card(Path(folder).name, modalities, tile=tile)
    raise Dis2Error(
        f"{folder or 'the dataset'} is not there: give --card {'|'.join(KNOWN)}, or --modalities a:C,b:C --classes K"
    )
