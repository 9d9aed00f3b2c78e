"""``sen12ms`` and ``dfc2020``: Sentinel-1 and Sentinel-2 patches with land cover, and heights where there are some.

Sentinel-1 stays in decibels, Sentinel-2 becomes reflectance (digital number / 10000). A sensor that a patch lacks is
absent in its tiles. NaN is nodata.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from dis2_jax.data.builders.cutting import Rect, count_tiles, cut_tiles
from dis2_jax.data.builders.land_cover import CodeTable, Scheme, code_table
from dis2_jax.data.builders.layers import Layer, LayeredScene, cut_scene
from dis2_jax.data.builders.scene_jobs import Dropped, Job, Noted, bundles
from dis2_jax.data.builders.sentinel_bands import REFLECTANCE, S1, S2_L1C, band_numbers
from dis2_jax.data.builders.sentinel_patches import (
    Patch,
    find_patches,
    lacking,
    listed_patches,
    split_patches,
)
from dis2_jax.data.builders.tiles import DatasetSpec, Tile
from dis2_jax.data.rasters import raster_info
from dis2_jax.schema import Dis2Error, Modality, SourceFormat

PATCH = (256, 256)
PER_JOB = 128
LABEL_BAND = 1
"""The IGBP codes of an ``lc`` file; its other bands are other schemes."""

SEN12MS_TEST = (
    *(f"ROIs1158_spring_{n}" for n in (15, 17, 63, 97, 124, 146)),
    *(f"ROIs1868_summer_{n}" for n in (15, 19, 43, 72, 79, 104, 131)),
    *(f"ROIs1970_fall_{n}" for n in (30, 35, 39, 47, 61, 120, 141, 144)),
    *(f"ROIs2017_winter_{n}" for n in (32, 64, 107, 135, 146)),
)
"""``splits/SEN12MS_holdOutScenes.txt`` of the owners' toolbox (github.com/schmitt-muc/SEN12MS)."""

SEN12MS_VALIDATION = (
    *(f"ROIs1158_spring_{n}" for n in (44, 45, 77, 112, 113, 117)),
    *(f"ROIs1868_summer_{n}" for n in (26, 36, 55, 73, 89, 113)),
    *(f"ROIs1970_fall_{n}" for n in (1, 3, 14, 20, 57, 62, 93, 130, 142)),
    *(f"ROIs2017_winter_{n}" for n in (69, 77, 103, 144)),
)
"""``splits/ValidationScenes.txt`` of the same."""

CONTEST_TEST = ("ROIs0000_test_*",)
CITY_VALIDATION = ("ROIs0000_*_Chabarovsk",)
CITY_TEST = ("ROIs0000_*_CapeTown", "ROIs0000_*_MexicoCity")


@dataclasses.dataclass(frozen=True)
class SentinelOptions:
    """What is made of the patches. Bands empty: all; ``only``, ``validation``, ``test``: patterns of scenes.

    ``validation`` and ``test`` None: the official scenes, or ours where there are none. ``lists``: a folder with
    published ``train_list.txt``, ``val_list.txt``, ``test_list.txt``, which then decide. ``holdout``: training
    patches for validation where no scene is; not for SEN12MS, whose patches overlap.
    """

    source: Path
    name: Literal["sen12ms", "dfc2020"]
    label: Literal["lc", "dfc"]
    scheme: Scheme
    s1_bands: tuple[str, ...] = ()
    s2_bands: tuple[str, ...] = ()
    dem: bool = False
    only: tuple[str, ...] = ()
    validation: tuple[str, ...] | None = None
    test: tuple[str, ...] | None = None
    holdout: int = 0
    lists: Path | None = None
    tile: int = 256


@dataclasses.dataclass(frozen=True)
class SentinelDataset:
    """Patches as they were found, by split: a ``SceneDataset``."""

    options: SentinelOptions
    spec: DatasetSpec
    patches: tuple[tuple[str, tuple[Patch, ...]], ...] = dataclasses.field(repr=False)
    remarks: tuple[str, ...] = ()

    @property
    def root(self) -> Path:
        """Folder that inputs are named relative to."""
        source = self.options.source.absolute()
        return source if source.is_dir() else source.parent

    def jobs(self) -> Sequence[Job]:
        """Bundles of patches of one split, in order."""
        jobs = []
        for split, patches in self.patches:
            for bundle in bundles(patches, size=PER_JOB):
                inputs = tuple(dict.fromkeys(path for p in bundle for path in p.inputs))
                jobs.append(Job(bundle[0].id, split, inputs, bundle))
        return jobs

    def tile_count(self, job: Job) -> int:
        """Tiles of a bundle."""
        return len(job.detail) * count_tiles(Rect(0, 0, *PATCH), self.spec.tile)

    def tiles(self, job: Job) -> Iterator[Tile | Dropped | Noted]:
        """Read the patches of a bundle."""
        table = _table(self.options)
        for patch in job.detail:
            scene = _layered(patch, self.options)
            parts = cut_tiles(Rect(0, 0, *PATCH), self.spec.tile)
            yield from cut_scene(scene, parts, tile=self.spec.tile, read_label=table.read)

    def notes(self) -> Sequence[str]:
        """What was decided when the files were looked for."""
        return self.remarks


def find_sentinel(options: SentinelOptions) -> SentinelDataset:
    """Find the patches and split them.

    Raises ``Dis2Error`` for bands and schemes that there are not, a source without patches, and a bad split.
    """
    table = _table(options)
    patches = find_patches(options.source, label=options.label, only=options.only)
    splits, how = _splits(patches, options)
    used = [p for own in splits.values() for p in own]
    remarks = [how, *(f"{n} patches lack {kind}: it is absent there" for kind, n in lacking(used).items())]
    if options.dem and not any(p.dem for p in used):
        raise Dis2Error(
            f"--dem: {options.source} holds no heights (names like ROIs1158_spring_dem_1_p30.tif in dem_1)"
        )
    return SentinelDataset(
        options, _spec(options, table), tuple((s, tuple(own)) for s, own in splits.items()), tuple(remarks)
    )


def _table(options: SentinelOptions) -> CodeTable:
    return code_table(options.scheme, "igbp" if options.label == "lc" else "dfc")


def _splits(patches: list[Patch], options: SentinelOptions) -> tuple[dict[str, list[Patch]], str]:
    if options.lists is not None:
        names = {"train": "train_list.txt", "validation": "val_list.txt", "test": "test_list.txt"}
        lists = {s: options.lists / n for s, n in names.items() if (options.lists / n).is_file()}
        if not {"train", "validation"} <= set(lists):
            raise Dis2Error(f"--lists {options.lists}: train_list.txt and val_list.txt are wanted there")
        return listed_patches(patches, lists), f"splits by the lists in {options.lists}"
    validation, test, how = _rule(patches, options)
    splits = split_patches(patches, validation=validation, test=test, holdout=options.holdout)
    if not validation:
        how += f", {len(splits['validation'])} training patches are held out for validation (--holdout)"
    return splits, how


def _rule(patches: list[Patch], options: SentinelOptions) -> tuple[tuple[str, ...], tuple[str, ...], str]:
    """Return the patterns of validation and test scenes, and a sentence about them."""
    scenes = {p.scene for p in patches}
    contest = {s for s in scenes if s.startswith(("ROIs0000_test_", "ROIs0000_validation_"))}
    validation: tuple[str, ...]
    if options.name == "sen12ms":
        validation, test = SEN12MS_VALIDATION, SEN12MS_TEST
        how = "test and validation scenes are those of the owners' lists"
    elif contest and scenes - contest:
        raise Dis2Error(
            f"{options.source} holds the contest's patches under ROIs0000_validation and ROIs0000_test, and again "
            "under the seasons: choose with --only 'ROIs0000_test_*,ROIs0000_validation_*'"
        )
    elif contest:
        validation, test = (), CONTEST_TEST
        how = "test is the contest's test set, training its validation set"
    else:
        validation, test = CITY_VALIDATION, CITY_TEST
        how = "there is no official split by city: Chabarovsk is validation, CapeTown and MexicoCity are test"
    if options.validation is not None or options.test is not None:
        how = "scenes chosen by --validation and --test"
    validation = _present(validation, scenes) if options.validation is None else options.validation
    test = _present(test, scenes) if options.test is None else options.test
    return validation, test, how


def _present(patterns: tuple[str, ...], scenes: set[str]) -> tuple[str, ...]:
    """A part of the publication may be prepared: leave out patterns that match none of its scenes."""
    import fnmatch

    return tuple(p for p in patterns if fnmatch.filter(scenes, p))


def _layered(patch: Patch, options: SentinelOptions) -> LayeredScene:
    """Describe a patch's files. Raises ``Dis2Error`` for one of another size or number of bands."""
    bands = {
        "s1": band_numbers(options.s1_bands, S1, option="--s1-bands"),
        "s2": band_numbers(options.s2_bands, S2_L1C, option="--s2-bands"),
        "dem": (1,),
    }
    wanted = {"s1": len(S1), "s2": len(S2_L1C), "dem": 1}
    layers = []
    for kind in wanted if options.dem else ("s1", "s2"):
        path: Path | None = getattr(patch, kind)
        if path is None:
            continue
        info = raster_info(path)
        if info.size != PATCH or info.bands != wanted[kind]:
            raise Dis2Error(
                f"{path} has {info.bands} bands of {info.height} x {info.width} pixels, not "
                f"{wanted[kind]} of {PATCH[0]} x {PATCH[1]}"
            )
        scale = REFLECTANCE if kind == "s2" else 1.0
        layers.append(Layer(kind, path, "float32", bands=bands[kind], scale=scale, gaps=True))
    info = raster_info(patch.label)
    if info.size != PATCH:
        raise Dis2Error(f"{patch.label} is {info.height} x {info.width}, not {PATCH[0]} x {PATCH[1]} pixels")
    return LayeredScene(patch.id, PATCH, tuple(layers), patch.label, label_bands=(LABEL_BAND,))


def _spec(options: SentinelOptions, table: CodeTable) -> DatasetSpec:
    s1 = band_numbers(options.s1_bands, S1, option="--s1-bands")
    s2 = band_numbers(options.s2_bands, S2_L1C, option="--s2-bands")
    modalities = [
        Modality(
            "s1",
            len(s1),
            kind="sar",
            unit="dB",
            product="Sentinel-1 GRD, sigma nought",
            bands=tuple(S1[i - 1] for i in s1),
            source=SourceFormat(bands=s1),
        ),
        Modality(
            "s2",
            len(s2),
            kind="optical",
            unit="reflectance",
            product="Sentinel-2 L1C, top of atmosphere",
            bands=tuple(S2_L1C[i - 1] for i in s2),
            source=SourceFormat(bands=s2, scale=REFLECTANCE),
        ),
    ]
    if options.dem:
        modalities.append(
            Modality("dem", 1, kind="height", unit="m", product="elevation", source=SourceFormat(bands=(1,)))
        )
    return DatasetSpec(
        name=options.name,
        modalities=tuple(modalities),
        dtypes=("float32",) * len(modalities),
        legend=table.legend,
        tile=(options.tile, options.tile),
        description=_DESCRIPTIONS[options.name].format(scheme=options.scheme, label=options.label),
        source=_SOURCES[options.name],
        licence="CC BY 4.0; contains modified Copernicus Sentinel data",
        ground_sampling_distance=10.0,
    )


_DESCRIPTIONS = {
    "sen12ms": (
        "SEN12MS patches: Sentinel-1 backscatter, Sentinel-2 L1C top-of-atmosphere reflectance, MODIS land cover "
        "(IGBP, about 500 m), classes: {scheme}."
    ),
    "dfc2020": (
        "Patches of the 2020 IEEE GRSS data fusion contest: Sentinel-1 backscatter, Sentinel-2 L1C top-of-atmosphere "
        "reflectance, {label} labels, classes: {scheme}."
    ),
}
_SOURCES = {
    "sen12ms": "mediatum.ub.tum.de/1474000 (Schmitt et al., ISPRS Annals 2019)",
    "dfc2020": "ieee-dataport.org/competitions/2020-ieee-grss-data-fusion-contest (Yokoya et al., 2020)",
}
