"""What a builder hands to the writer: a dataset's description and its tiles, one by one."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from dis2_jax.data.places import Place
from dis2_jax.schema import IGNORE, ClassLegend, Dis2Error, Modality

STORED_DTYPES = ("uint8", "int16", "uint16", "float32")
_NAME = re.compile(r"[a-z][a-z0-9_]*")


@dataclasses.dataclass(frozen=True)
class DatasetSpec:
    """A dataset before its tiles are known; the writer adds statistics and counts: the ``DatasetCard``.

    ``dtypes`` gives the stored dtype of each modality, in the order of ``modalities``.
    """

    name: str
    modalities: tuple[Modality, ...]
    dtypes: tuple[str, ...]
    legend: ClassLegend
    tile: tuple[int, int]
    description: str = ""
    source: str = ""
    licence: str = ""
    ground_sampling_distance: float | None = None

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise Dis2Error(f"dataset name {self.name!r}: use lower-case letters, digits and _")
        if len(self.dtypes) != len(self.modalities):
            raise Dis2Error(
                f"dataset {self.name!r}: {len(self.modalities)} modalities but {len(self.dtypes)} dtypes"
            )
        for m, dtype in zip(self.modalities, self.dtypes, strict=True):
            if dtype not in STORED_DTYPES:
                raise Dis2Error(
                    f"modality {m.name!r}: cannot store {dtype}; it must be one of {', '.join(STORED_DTYPES)}"
                )
        check_tile_size(self.tile)


@dataclasses.dataclass(frozen=True)
class Tile:
    """One sample: ``images[modality]`` is ``[H, W, C]``; a missing key is an absent modality.

    ``label`` is uint8 ``[H, W]``: 0..K-1 or ``IGNORE``. ``valid[modality]`` (bool ``[H, W]``, optional) marks
    the pixels that count for the modality's statistics: not padding, not nodata. ``place``: where in its scene
    the tile lies; None for one that was not cut from a scene.
    """

    tile_id: str
    images: Mapping[str, np.ndarray]
    label: np.ndarray
    valid: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    place: Place | None = None


def check_tile_size(tile: tuple[int, int]) -> None:
    """Raise ``Dis2Error`` unless both sides are positive multiples of 16 (the model halves four times)."""
    height, width = tile
    if height < 16 or width < 16 or height % 16 or width % 16:
        raise Dis2Error(f"tile size {height} x {width}: both sides must be multiples of 16, at least 16")


def record(spec: DatasetSpec, tile: Tile) -> dict[str, Any]:
    """Return the tile as a TFDS example: absent modalities become zeros with ``available`` False.

    Raises ``Dis2Error`` naming the tile when a shape, dtype or label is not what ``spec`` says, when a float
    raster holds NaN or inf, and when no modality is there at all.
    """
    image: dict[str, np.ndarray] = {}
    unknown = sorted(set(tile.images) - {m.name for m in spec.modalities})
    if unknown or not tile.images:
        raise Dis2Error(
            f"tile {tile.tile_id!r}: " + (f"unknown modality {unknown[0]!r}" if unknown else "no modality")
        )
    for m, dtype in zip(spec.modalities, spec.dtypes, strict=True):
        shape = (*spec.tile, m.channels)
        x = tile.images.get(m.name)
        if x is None:
            x = np.zeros(shape, dtype)
        if x.shape != shape or x.dtype != dtype:
            raise Dis2Error(
                f"tile {tile.tile_id!r}: {m.name} is {x.dtype} {list(x.shape)}, not {dtype} {list(shape)}"
            )
        if x.dtype.kind == "f" and not np.isfinite(x).all():
            raise Dis2Error(
                f"tile {tile.tile_id!r}: {m.name} holds NaN or inf; name its nodata value or mend the file"
            )
        image[m.name] = x
    label = tile.label
    if label.shape != spec.tile or label.dtype != np.uint8:
        raise Dis2Error(
            f"tile {tile.tile_id!r}: label is {label.dtype} {list(label.shape)}, not uint8 {list(spec.tile)}"
        )
    bad = np.unique(label[(label >= len(spec.legend)) & (label != IGNORE)])
    if bad.size:
        raise Dis2Error(
            f"tile {tile.tile_id!r}: label holds {bad.tolist()}, outside 0..{len(spec.legend) - 1}"
        )
    return {
        "image": image,
        "label": label,
        "available": np.array([m.name in tile.images for m in spec.modalities]),
        "tile_id": tile.tile_id,
    }
