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
from collections.abc import Iterator

import numpy as np

from dis2_jax.data.builders.cutting import Rect, count_tiles, cut_tiles
from dis2_jax.data.builders.folder_card import FolderCard, FolderModality
from dis2_jax.data.builders.folder_scenes import FolderScene, FolderScenes
from dis2_jax.data.builders.label_codes import LabelCoder
from dis2_jax.data.builders.tiles import DatasetSpec, Tile
from dis2_jax.data.builders.windows import pad_flat, pad_image, read_window
from dis2_jax.data.places import Place
from dis2_jax.data.rasters import RasterReader
from dis2_jax.schema import IGNORE, Modality, SourceFormat


@dataclasses.dataclass
class Dropped:
    """Tiles that were cut but not kept, counted while they stream by."""

    ignored: int = 0
    empty: int = 0


def folder_spec(card: FolderCard, scenes: FolderScenes) -> DatasetSpec:
    """Describe the dataset. Raises ``Dis2Error`` for names or sizes that cannot be."""
    return DatasetSpec(
        name=card.name,
        modalities=tuple(
            Modality(m.name, channels, kind=m.kind, unit=m.unit, bands=m.band_names, source=source_format(m))
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


def source_format(m: FolderModality) -> SourceFormat:
    """How a modality's files are read, for prediction to do the same."""
    nodata = None if m.nodata is None or np.isnan(m.nodata) else m.nodata
    return SourceFormat(bands=tuple(m.bands), scale=m.scale, offset=m.offset, nodata=nodata)


def tile_count(card: FolderCard, scenes: FolderScenes, split: str) -> int:
    """Return how many tiles are cut in a split, before any is dropped."""
    return sum(count_tiles(rect, card.tile, overlap=_overlap(card, split)) for _, rect in scenes.parts[split])


def folder_tiles(card: FolderCard, scenes: FolderScenes, split: str, dropped: Dropped) -> Iterator[Tile]:
    """Yield one split's tiles, scene by scene, row by row, reading a window at a time.

    Training tiles share ``overlap`` pixels, test tiles ``test_overlap``; in validation every pixel counts once.
    Raises ``Dis2Error`` naming a file that is damaged or holds NaN or inf outside its nodata.
    """
    for scene, rect in scenes.parts[split]:
        with _open_scene(card, scenes, scene) as cutter:
            for part in cut_tiles(rect, card.tile, overlap=_overlap(card, split)):
                tile = cutter.cut(part)
                if not tile.images:
                    dropped.empty += 1
                elif (tile.label == IGNORE).all():
                    dropped.ignored += 1
                else:
                    yield tile


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
            images[name] = pad_image(x, self.tile)
            valid[name] = pad_flat(good, self.tile, False)
        tile_id = f"{self.scene.id}_y{part.row:05d}_x{part.col:05d}"
        place = Place(self.scene.id, *part.window)
        return Tile(tile_id, images, pad_flat(label, self.tile, IGNORE), valid, place)


@contextlib.contextmanager
def _open_scene(card: FolderCard, scenes: FolderScenes, scene: FolderScene) -> Iterator[_SceneCutter]:
    with contextlib.ExitStack() as stack:
        images = {
            m.name: (m, dtype, stack.enter_context(RasterReader(scene.images[m.name].path, bands=m.bands)))
            for m, dtype in zip(card.modalities, scenes.dtypes, strict=True)
            if m.name in scene.images
        }
        label = stack.enter_context(RasterReader(scene.label.path))
        yield _SceneCutter(scene, card.tile, LabelCoder.of(card.label), label, images)
