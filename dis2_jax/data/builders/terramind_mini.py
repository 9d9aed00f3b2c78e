"""``terramind_mini``: the five real example scenes of TerraMind, three modalities and a land-cover map each.

Source: github.com/IBM/terramind, ``examples/{S2L2A,S1RTC,DEM,LULC}/<scene>.tif``, 224 x 224 pixels at 10 m. Far too
few to learn from: a fixture for data of many modalities. The split is ours.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

from dis2_jax.data.builders.cutting import Rect, count_tiles, cut_tiles
from dis2_jax.data.builders.land_cover import CodeTable
from dis2_jax.data.builders.layers import Layer, LayeredScene, cut_scene
from dis2_jax.data.builders.scene_jobs import Dropped, Job, Noted
from dis2_jax.data.builders.sentinel_bands import REFLECTANCE, S1, S2_L2A, band_numbers
from dis2_jax.data.builders.tiles import DatasetSpec, Tile
from dis2_jax.data.rasters import check_same_grid, raster_info
from dis2_jax.schema import IGNORE, ClassLegend, Dis2Error, Modality, SourceFormat, nearest

LAND_COVER = CodeTable(
    ClassLegend(
        names=(
            "water",
            "trees",
            "flooded_vegetation",
            "crops",
            "built",
            "bare",
            "snow_ice",
            "clouds",
            "rangeland",
        ),
        colors=(
            *((49, 113, 173), (70, 156, 118), (131, 202, 112), (234, 225, 89), (192, 124, 184)),
            *((193, 147, 104), (111, 178, 228), (241, 241, 241), (198, 101, 38)),
        ),
        codes=tuple(range(1, 10)),
    ),
    ((0, IGNORE), *((code, code - 1) for code in range(1, 10))),
)
"""Codes of TerraMesh's land cover: those of the Esri / Impact Observatory map without its gaps; 0 is no data."""


@dataclasses.dataclass(frozen=True)
class TerramindOptions:
    """Scenes held out for ``validation`` and ``test``; ``tile`` in pixels."""

    source: Path
    validation: tuple[str, ...] = ("637U_59R_1_3",)
    test: tuple[str, ...] = ("38D_378R_2_3",)
    s2_bands: tuple[str, ...] = ()
    tile: int = 112


@dataclasses.dataclass(frozen=True)
class TerramindDataset:
    """The scenes by split: a ``SceneDataset``."""

    options: TerramindOptions
    spec: DatasetSpec
    scenes: tuple[tuple[str, LayeredScene], ...]
    remarks: tuple[str, ...] = ()

    @property
    def root(self) -> Path:
        """Folder that inputs are named relative to."""
        return self.options.source.absolute()

    def jobs(self) -> Sequence[Job]:
        """One job per scene, training first."""
        return [
            Job(scene.id, split, (*(x.path for x in scene.layers), scene.label), scene)
            for split, scene in self.scenes
        ]

    def tile_count(self, job: Job) -> int:
        """Tiles of a scene."""
        return count_tiles(Rect(0, 0, *job.detail.size), self.spec.tile)

    def tiles(self, job: Job) -> Iterator[Tile | Dropped | Noted]:
        """Cut a scene, row by row."""
        scene: LayeredScene = job.detail
        parts = cut_tiles(Rect(0, 0, *scene.size), self.spec.tile)
        yield from cut_scene(scene, parts, tile=self.spec.tile, read_label=LAND_COVER.read)

    def notes(self) -> Sequence[str]:
        """What was decided when the files were looked for."""
        return self.remarks


def find_terramind(options: TerramindOptions) -> TerramindDataset:
    """Find the scenes; ``Dis2Error`` names a folder, file, band or scene that is missing or does not fit."""
    folders = [options.source.absolute() / name for name in ("S2L2A", "S1RTC", "DEM", "LULC")]
    for folder in folders:
        if not folder.is_dir():
            raise Dis2Error(f"{folder} not found: --source is the folder with S2L2A, S1RTC, DEM and LULC")
    ids = sorted(p.stem for p in folders[-1].glob("*.tif"))
    for option, chosen in (("--validation", options.validation), ("--test", options.test)):
        for i in chosen:
            if i not in ids:
                raise Dis2Error(f"{option} {i}: no such scene{nearest(i, ids)}; there are {', '.join(ids)}")
    splits = {i: "train" for i in ids}
    splits |= {i: "test" for i in options.test} | {i: "validation" for i in options.validation}
    order = ("train", "validation", "test")
    s2 = band_numbers(options.s2_bands, S2_L2A, option="--s2-bands")
    scenes = [(split, _scene(folders, i, s2)) for split in order for i in ids if splits[i] == split]
    if {"train", "validation"} - {split for split, _ in scenes}:
        raise Dis2Error("--validation and --test must leave a scene to train and one to validate on")
    return TerramindDataset(
        options,
        _spec(options, s2),
        tuple(scenes),
        ("the split is ours: five scenes are a fixture, no benchmark",),
    )


def _scene(folders: Sequence[Path], scene: str, s2: tuple[int, ...]) -> LayeredScene:
    paths = [folder / f"{scene}.tif" for folder in folders]
    infos = [raster_info(path) for path in paths]
    for info, bands in zip(infos, (len(S2_L2A), len(S1), 1, 1), strict=True):
        if info.bands != bands:
            raise Dis2Error(f"{info.path} has {info.bands} bands, not {bands}")
        check_same_grid(infos[-1], info)
    layers = (
        Layer("s2", paths[0], "float32", bands=s2, scale=REFLECTANCE, gaps=True),
        Layer("s1", paths[1], "float32", bands=(1, 2), gaps=True),
        Layer("dem", paths[2], "float32", bands=(1,), gaps=True),
    )
    return LayeredScene(scene, infos[-1].size, layers, paths[3])


def _spec(options: TerramindOptions, s2: tuple[int, ...]) -> DatasetSpec:
    return DatasetSpec(
        name="terramind_mini",
        modalities=(
            Modality(
                "s2",
                len(s2),
                kind="optical",
                unit="reflectance",
                product="Sentinel-2 L2A, surface",
                bands=tuple(S2_L2A[i - 1] for i in s2),
                source=SourceFormat(bands=s2, scale=REFLECTANCE),
            ),
            Modality("s1", 2, kind="sar", unit="dB", bands=S1, product="Sentinel-1 RTC, gamma nought"),
            Modality("dem", 1, kind="height", unit="m", product="Copernicus DEM"),
        ),
        dtypes=("float32",) * 3,
        legend=LAND_COVER.legend,
        tile=(options.tile, options.tile),
        description=(
            "The five example scenes of TerraMind: Sentinel-2 L2A surface reflectance, Sentinel-1 radiometrically "
            "terrain-corrected backscatter, Copernicus elevation, land cover."
        ),
        source="github.com/IBM/terramind, examples (from TerraMesh, Blumenstiel et al., 2025)",
        licence="Apache-2.0; contains modified Copernicus Sentinel data",
        ground_sampling_distance=10.0,
    )
