"""``ombria``: Sentinel-1 and Sentinel-2 chips before and after floods, from the original folder layout.

Source: github.com/geodrak/OMBRIA (Drakonakis et al., IEEE JSTARS 2022). Files are
``Ombria{S1,S2}/{train,test}/{BEFORE,AFTER,MASK}/<S1|S2>_<before|after|mask>_<id>.png``, 256 x 256, uint8.
Whole chips become records. The official test chips are ``test``; ``validation`` is held out of the official
training chips: those with the smallest CRC-32 of ``ombria/<id>``, so the choice depends on the ids alone and
looks random.
"""

from __future__ import annotations

import dataclasses
import re
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from dis2_jax.data.builders.scene_jobs import Job, bundles
from dis2_jax.data.builders.tiles import DatasetSpec, Tile
from dis2_jax.data.rasters import read_raster
from dis2_jax.schema import ClassLegend, Dis2Error, Modality

CHIP = (256, 256)
CLOUD_BRIGHTNESS = 35
CLOUD_SHARE = 0.98

LEGEND = ClassLegend(names=("dry", "flooded"), colors=((170, 150, 110), (30, 110, 220)), codes=(0, 255))

_SENSORS = ("S1", "S2")
_MOMENTS = ("before", "after")
_CHANNELS = {"S1": 1, "S2": 3}
_PRODUCTS = {"S1": "Sentinel-1 backscatter, 8 bits", "S2": "Sentinel-2 false colours, 8 bits"}


@dataclasses.dataclass(frozen=True)
class OmbriaOptions:
    """``holdout`` training chips become validation; ``keep_clouds`` calls clouded S2 chips available."""

    source: Path
    holdout: int = 48
    keep_clouds: bool = False


@dataclasses.dataclass(frozen=True)
class Ombria:
    """The dataset, a ``SceneDataset``: checked ids per split; ids whose S2 after-chip shows nothing but cloud."""

    options: OmbriaOptions
    ids: dict[str, tuple[str, ...]]
    clouded: tuple[str, ...]

    @property
    def root(self) -> Path:
        """The folder with both sensors."""
        return self.options.source

    @property
    def spec(self) -> DatasetSpec:
        """Describe the dataset."""
        clouds = ", ".join(self.clouded) or "none"
        return DatasetSpec(
            name="ombria",
            modalities=tuple(
                Modality(
                    f"{sensor.lower()}_{moment}",
                    _CHANNELS[sensor],
                    kind="sar" if sensor == "S1" else "optical",
                    unit="digital number",
                    product=f"{_PRODUCTS[sensor]}, {moment} the flood",
                )
                for moment in _MOMENTS
                for sensor in _SENSORS
            ),
            dtypes=("uint8",) * 4,
            legend=LEGEND,
            tile=CHIP,
            description=(
                f"OMBRIA flood chips; {self.options.holdout} official training chips held out for validation; "
                f"s2_after marked absent under full cloud: {clouds}."
            ),
            source="github.com/geodrak/OMBRIA (Drakonakis et al., IEEE JSTARS 2022)",
            licence="contains modified Copernicus Sentinel data; the repository states no licence",
            ground_sampling_distance=10.0,
        )

    def jobs(self) -> list[Job]:
        """Bundle each split's chips by ascending id; ``detail`` holds the ids."""
        return [
            Job(
                id=bundle[0],
                split=split,
                inputs=tuple(p for chip in bundle for p in _files(self.options.source, _folder(split), chip)),
                detail=bundle,
            )
            for split, chips in self.ids.items()
            for bundle in bundles(chips)
        ]

    def tile_count(self, job: Job) -> int:
        """Every chip is a tile."""
        return len(job.detail)

    def tiles(self, job: Job) -> Iterator[Tile]:
        """Yield the job's chips. ``Dis2Error`` names a damaged or unfitting file."""
        source, folder = self.options.source, _folder(job.split)
        for chip in job.detail:
            images = {
                f"{sensor.lower()}_{moment}": _read(source, sensor, folder, moment, chip)
                for moment in _MOMENTS
                for sensor in _SENSORS
            }
            if chip in self.clouded:
                del images["s2_after"]
            yield Tile(tile_id=chip, images=images, label=_label(source, folder, chip))

    def notes(self) -> tuple[str, ...]:
        """Say which chips lie under cloud."""
        if self.options.keep_clouds:
            return ("clouded S2 chips were not looked for (--keep-clouds)",)
        where = {chip: split for split, ids in self.ids.items() for chip in ids}
        clouded = ", ".join(f"{chip} ({where[chip]})" for chip in self.clouded) or "none"
        return (f"s2_after is absent under full cloud in {len(self.clouded)} chips: {clouded}",)


def find_ombria(options: OmbriaOptions) -> Ombria:
    """List the chips, check that every file has its counterparts, split, and look for clouds.

    Raises ``Dis2Error`` naming the folder or file that is missing, or for a hold-out that leaves no training
    chip.
    """
    official = {folder: _chip_ids(options.source, folder) for folder in ("train", "test")}
    twice = sorted(set(official["train"]) & set(official["test"]))
    if twice:
        raise Dis2Error(f"{options.source}: chip {twice[0]} is in train and in test")
    if not 1 <= options.holdout < len(official["train"]):
        raise Dis2Error(
            f"--holdout {options.holdout}: choose from 1 to {len(official['train']) - 1}, "
            "the training chips less one"
        )
    by_hash = sorted(official["train"], key=lambda i: (zlib.crc32(f"ombria/{i}".encode()), i))
    held = set(by_hash[: options.holdout])
    ids = {
        "train": tuple(i for i in official["train"] if i not in held),
        "validation": tuple(sorted(held)),
        "test": tuple(official["test"]),
    }
    clouded = () if options.keep_clouds else _clouded(options.source, ids)
    return Ombria(options, ids, clouded)


def is_clouded(s2_after: np.ndarray) -> bool:
    """Whether an S2 after-chip (uint8 ``[H, W, 3]``) shows nothing but cloud.

    Clouds of this false-colour composite are not saturated, they are pale cyan: every band is bright, and the
    first (short-wave infrared) is not the brightest, as it is on bare ground. A chip is clouded when more
    than 98 % of its pixels look so. The published chips fall into two groups: 99 % and above, and below 95 %.
    """
    swir, rest = s2_after[..., 0], s2_after[..., 1:].max(-1)
    return bool(((s2_after.min(-1) >= CLOUD_BRIGHTNESS) & (swir <= rest)).mean() > CLOUD_SHARE)


def _folder(split: str) -> str:
    """The official split that a split's chips come from."""
    return "test" if split == "test" else "train"


def _files(source: Path, folder: str, chip: str) -> list[Path]:
    return [_path(source, sensor, folder, m, chip) for sensor in _SENSORS for m in (*_MOMENTS, "mask")]


def _path(source: Path, sensor: str, folder: str, moment: str, chip: str) -> Path:
    return source / f"Ombria{sensor}" / folder / moment.upper() / f"{sensor}_{moment}_{chip}.png"


def _chip_ids(source: Path, folder: str) -> list[str]:
    """Return the sorted ids of an official split; every one of them has all six files."""
    found: dict[tuple[str, str], set[str]] = {}
    for sensor in _SENSORS:
        for moment in (*_MOMENTS, "mask"):
            directory = _path(source, sensor, folder, moment, "x").parent
            if not directory.is_dir():
                raise Dis2Error(
                    f"{directory} not found: --source is the folder that holds OmbriaS1 and OmbriaS2"
                )
            found[sensor, moment] = _ids_in(directory, f"{sensor}_{moment}_")
    everything = set().union(*found.values())
    for (sensor, moment), ids in found.items():
        lacking = sorted(everything - ids)
        if lacking:
            path = _path(source, sensor, folder, moment, lacking[0])
            raise Dis2Error(
                f"{path} is missing, its counterparts are there ({len(lacking)} such): complete the copy"
            )
    return sorted(everything)


def _ids_in(directory: Path, prefix: str) -> set[str]:
    name = re.compile(re.escape(prefix) + r"(\w+)\.png")
    ids = set()
    for path in directory.glob("*.png"):
        match = name.fullmatch(path.name)
        if not match:
            raise Dis2Error(f"{path}: a name like {prefix}0001.png is wanted here")
        ids.add(match[1])
    return ids


def _clouded(source: Path, ids: dict[str, tuple[str, ...]]) -> tuple[str, ...]:
    def each() -> Iterable[str]:
        for split, chips in ids.items():
            yield from (c for c in chips if is_clouded(_read(source, "S2", _folder(split), "after", c)))

    return tuple(sorted(each()))


def _read(source: Path, sensor: str, folder: str, moment: str, chip: str) -> np.ndarray:
    path = _path(source, sensor, folder, moment, chip)
    x = read_raster(path)
    wanted = (*CHIP, 1 if moment == "mask" else _CHANNELS[sensor])
    if x.shape != wanted or x.dtype != np.uint8:
        raise Dis2Error(f"{path} is {x.dtype} {list(x.shape)}, not uint8 {list(wanted)}")
    return x


def _label(source: Path, folder: str, chip: str) -> np.ndarray:
    """Return uint8 ``[256, 256]``: 0 dry, 1 flooded. Both sensors' masks must be the same 0/255 picture."""
    masks = [_read(source, sensor, folder, "mask", chip)[..., 0] for sensor in _SENSORS]
    paths = [_path(source, sensor, folder, "mask", chip) for sensor in _SENSORS]
    codes, counts = np.unique(masks[0], return_counts=True)
    odd = {int(c): int(n) for c, n in zip(codes, counts, strict=True) if c not in LEGEND.codes}
    if odd:
        listed = ", ".join(f"{c} ({n} pixels)" for c, n in odd.items())
        raise Dis2Error(f"{paths[0]} holds codes outside 0 and 255: {listed}")
    differing = int((masks[0] != masks[1]).sum())
    if differing:
        raise Dis2Error(
            f"{paths[0]} and {paths[1]} differ in {differing} pixels: the mask must be the same twice"
        )
    return (masks[0] == 255).astype(np.uint8)
