"""``folder``: bring your own PNG or GeoTIFF files, described by a TOML card.

How values get in. Numbers stay as they are where uint8, int16, uint16 or float32 can hold them; ``scale`` and
``offset`` make float32. A pixel is nodata when every band (8-bit images) or any band (all other types) holds
the nodata value. Where a tile is nodata all over, the modality is absent in it; elsewhere nodata takes the
tile's mean and the label is ignored. Tiles at the edge of a scene are padded: images by mirroring, labels
with ignore. Padding and nodata stay out of the statistics. Tiles in which every label is ignored, or no
modality is left, are dropped and counted.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from dis2_jax.data.builders.card_parser import load_card
from dis2_jax.data.builders.cutting import Rect, count_tiles, cut_bands, cut_tiles
from dis2_jax.data.builders.folder_card import FolderCard, FolderModality
from dis2_jax.data.builders.folder_scenes import FolderScene, FolderScenes, find_scenes
from dis2_jax.data.builders.label_codes import LabelCoder
from dis2_jax.data.builders.scene_jobs import Dropped, Job
from dis2_jax.data.builders.tiles import DatasetSpec, Tile
from dis2_jax.data.places import Place
from dis2_jax.data.rasters import RasterReader, check_finite, nodata_mask, to_stored
from dis2_jax.schema import IGNORE, Modality, SourceFormat


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
        with _open_scene(self.card, self.scenes.dtypes, job.detail.scene) as cutter:
            for part in cut_tiles(job.detail.rect, self.card.tile, overlap=_overlap(self.card, job.split)):
                tile = cutter.cut(part)
                if not tile.images:
                    yield Dropped("no modality has data there")
                elif (tile.label == IGNORE).all():
                    yield Dropped("every label in them is ignored")
                else:
                    yield tile

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


@dataclasses.dataclass(frozen=True)
class _SceneCutter:
    """A scene with its files open."""

    scene: FolderScene
    tile: tuple[int, int]
    coder: LabelCoder
    label: RasterReader
    images: dict[str, tuple[FolderModality, str, RasterReader]]

    def cut(self, part: Rect) -> Tile:
        label = self.coder.encode(self.coder.read(self.label, part.window))
        images: dict[str, np.ndarray] = {}
        valid: dict[str, np.ndarray] = {}
        for name, (m, dtype, reader) in self.images.items():
            x, good = read_window(reader, m, dtype, part)
            if not good.any():
                continue
            label = np.where(good, label, IGNORE).astype(np.uint8)
            images[name] = _pad(x, self.tile)
            valid[name] = _pad_with(good, self.tile, False)
        tile_id = f"{self.scene.id}_y{part.row:05d}_x{part.col:05d}"
        place = Place(self.scene.id, *part.window)
        return Tile(tile_id, images, _pad_with(label, self.tile, IGNORE), valid, place)


@contextlib.contextmanager
def _open_scene(card: FolderCard, dtypes: Sequence[str], scene: FolderScene) -> Iterator[_SceneCutter]:
    with contextlib.ExitStack() as stack:
        images = {
            m.name: (m, dtype, stack.enter_context(RasterReader(scene.images[m.name].path, bands=m.bands)))
            for m, dtype in zip(card.modalities, dtypes, strict=True)
            if m.name in scene.images
        }
        label = stack.enter_context(RasterReader(scene.label.path))
        yield _SceneCutter(scene, card.tile, LabelCoder.of(card.label), label, images)


def read_window(
    reader: RasterReader, m: FolderModality, dtype: str, part: Rect
) -> tuple[np.ndarray, np.ndarray]:
    """Return a modality's window ``[h, w, C]`` as stored, nodata filled, and its valid mask ``[h, w]``."""
    raw = reader.read(part.window)
    good = ~nodata_mask(raw, reader.info.nodata if m.nodata is None else m.nodata)
    check_finite(raw, reader.path, valid=good, origin=(part.row, part.col))
    if m.rescaled:
        raw = raw.astype(np.float64) * m.scale + m.offset
    if good.any() and not good.all():
        mean = raw[good].mean(0, dtype=np.float64)
        raw = raw.copy()
        raw[~good] = mean if raw.dtype.kind == "f" else np.rint(mean).astype(raw.dtype)
    return (to_stored(raw, dtype, reader.path) if good.any() else np.zeros(raw.shape, dtype)), good


def _pad(x: np.ndarray, tile: tuple[int, int]) -> np.ndarray:
    """Mirror an image ``[h, w, C]`` at its lower and right edge up to the tile's size."""
    if x.shape[:2] == tile:
        return x
    return np.pad(x, [(0, tile[0] - x.shape[0]), (0, tile[1] - x.shape[1]), (0, 0)], mode="symmetric")


def _pad_with(x: np.ndarray, tile: tuple[int, int], value: int | bool) -> np.ndarray:
    if x.shape == tile:
        return x
    return np.pad(x, [(0, tile[0] - x.shape[0]), (0, tile[1] - x.shape[1])], constant_values=value)
