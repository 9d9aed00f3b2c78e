"""``folder``: bring your own PNG or GeoTIFF files, described by a TOML card.

How values get in is told in ``layers``. A pixel is nodata when every band (8-bit images) or any band (all other types)
holds the nodata value. Tiles in which every label is ignored, or no modality is left, are dropped and counted.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from dis2_jax.data.builders.card_parser import load_card
from dis2_jax.data.builders.cutting import Rect, count_tiles, cut_bands, cut_tiles
from dis2_jax.data.builders.folder_card import FolderCard, FolderModality
from dis2_jax.data.builders.folder_scenes import FolderScene, FolderScenes, find_scenes
from dis2_jax.data.builders.label_codes import LabelCoder
from dis2_jax.data.builders.layers import Layer, LayeredScene, cut_scene
from dis2_jax.data.builders.scene_jobs import Dropped, Job
from dis2_jax.data.builders.tiles import DatasetSpec, Tile
from dis2_jax.schema import Modality, SourceFormat


@dataclasses.dataclass(frozen=True)
class Folder:
    """The dataset, a ``SceneDataset``: one job per scene, several for a large one."""

    card: FolderCard
    root: Path
    scenes: FolderScenes

    @property
    def options(self) -> FolderCard:
        """Return the card: with a job's scene and rectangle it decides the tiles."""
        return self.card

    @property
    def spec(self) -> DatasetSpec:
        """Describe the dataset. Raises ``Dis2Error`` for names or sizes that cannot be."""
        card, scenes = self.card, self.scenes
        return DatasetSpec(
            name=card.name,
            modalities=tuple(
                Modality(
                    m.name, channels, kind=m.kind, unit=m.unit, bands=m.band_names, source=_source_format(m)
                )
                for m, channels in zip(card.modalities, scenes.channels, strict=True)
            ),
            dtypes=scenes.dtypes,
            legend=card.legend,
            tile=card.tile,
            description=card.description,
            source=card.source,
            licence=card.licence,
            ground_sampling_distance=card.ground_sampling_distance,
        )

    def jobs(self) -> list[Job]:
        """List the scenes' parts in bands of tiles; ``detail`` is a ``_Part``."""
        return [
            Job(
                id=f"{scene.id}_y{band.row:05d}_x{band.col:05d}",
                split=split,
                inputs=(scene.label.path, *(info.path for info in scene.images.values())),
                detail=_Part(scene, band),
            )
            for split, parts in self.scenes.parts.items()
            for scene, rect in parts
            for band in cut_bands(rect, self.card.tile, overlap=_overlap(self.card, split))
        ]

    def tile_count(self, job: Job) -> int:
        """Return how many tiles the job's band is cut into."""
        return count_tiles(job.detail.rect, self.card.tile, overlap=_overlap(self.card, job.split))

    def tiles(self, job: Job) -> Iterator[Tile | Dropped]:
        """Yield the band's tiles row by row, reading a window at a time.

        Training tiles share ``overlap`` pixels, test tiles ``test_overlap``; in validation every pixel counts once.
        Raises ``Dis2Error`` naming a file that is damaged or holds NaN or inf outside its nodata.
        """
        coder = LabelCoder.of(self.card.label)
        scene = _layered(self.card, self.scenes.dtypes, job.detail.scene)
        parts = cut_tiles(job.detail.rect, self.card.tile, overlap=_overlap(self.card, job.split))
        yield from cut_scene(scene, parts, tile=self.card.tile, read_label=coder.read_classes)

    def notes(self) -> tuple[str, ...]:
        """Return what was found while matching files."""
        return self.scenes.notes


@dataclasses.dataclass(frozen=True)
class _Part:
    """A rectangle of a scene."""

    scene: FolderScene
    rect: Rect


def find_folder(source: str | Path, card_file: str | Path, *, progress: bool = False) -> Folder:
    """Read a TOML card and check all files that it names. ``Dis2Error`` names the faulty file or key."""
    card = load_card(card_file, source=source)
    return Folder(card, Path(source), find_scenes(card, Path(source), progress=progress))


def _source_format(m: FolderModality) -> SourceFormat:
    nodata = None if m.nodata is None or np.isnan(m.nodata) else m.nodata
    return SourceFormat(bands=tuple(m.bands), scale=m.scale, offset=m.offset, nodata=nodata)


def _overlap(card: FolderCard, split: str) -> int:
    return {"train": card.overlap, "test": card.test_overlap}.get(split, 0)


def _layered(card: FolderCard, dtypes: Sequence[str], scene: FolderScene) -> LayeredScene:
    layers = tuple(
        Layer(
            m.name,
            scene.images[m.name].path,
            dtype,
            bands=m.bands,
            scale=m.scale,
            offset=m.offset,
            nodata=m.nodata,
        )
        for m, dtype in zip(card.modalities, dtypes, strict=True)
        if m.name in scene.images
    )
    return LayeredScene(scene.id, scene.label.size, layers, scene.label.path)
