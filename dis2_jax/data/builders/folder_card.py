"""What a bring-your-own dataset's card says, as dataclasses. ``card_parser`` reads them from TOML."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

from dis2_jax.data.builders.scene_list import ListedScene
from dis2_jax.schema import ClassLegend, ModalityKind

SPLITS = ("train", "validation", "test")
Code = int | tuple[int, int, int]
Box = tuple[float, float, float, float]


@dataclasses.dataclass(frozen=True)
class FolderModality:
    """A ``[[modality]]`` block. ``bands`` are 1-based (empty: all); ``nodata`` None: what each file says.

    ``files`` is empty where the card names a list of scenes.
    """

    name: str
    files: str
    kind: ModalityKind = "other"
    unit: str = ""
    bands: tuple[int, ...] = ()
    band_names: tuple[str, ...] = ()
    nodata: float | None = None
    scale: float = 1.0
    offset: float = 0.0
    optional: bool = False

    @property
    def rescaled(self) -> bool:
        """Whether values change between file and dataset."""
        return self.scale != 1.0 or self.offset != 0.0


@dataclasses.dataclass(frozen=True)
class FolderLabel:
    """The ``[label]`` block; ``codes[i]`` are those of class i, all of them integers or all colours."""

    files: str
    codes: tuple[tuple[Code, ...], ...]
    ignore: tuple[Code, ...] = ()
    unknown: Literal["refuse", "ignore"] = "refuse"

    @property
    def colored(self) -> bool:
        """Whether labels are RGB pictures."""
        return isinstance(self.codes[0][0], tuple)


@dataclasses.dataclass(frozen=True)
class FolderSplit:
    """How scenes (``list``, ``pattern``: ``ids``) or their parts (``region``: ``boxes``) are split."""

    by: Literal["list", "pattern", "region"]
    ids: dict[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    boxes: dict[str, tuple[Box, ...]] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class FolderCard:
    """A parsed card.

    ``scenes`` are those of its list; empty: file patterns say it. ``reference`` is the modality (or ``label``)
    whose pixels the tiles have where scenes are streamed.
    """

    path: Path
    name: str
    modalities: tuple[FolderModality, ...]
    label: FolderLabel
    legend: ClassLegend
    split: FolderSplit
    tile: tuple[int, int]
    overlap: int = 0
    test_overlap: int = 0
    scenes: tuple[ListedScene, ...] = ()
    reference: str = "label"
    description: str = ""
    source: str = ""
    licence: str = ""
    ground_sampling_distance: float | None = None
