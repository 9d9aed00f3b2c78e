"""``dis2 data index``: look at the scenes that a card describes and write what streaming needs to know.

Of every file the header is read, of every scene 32 x 32 points, and whole windows only for the statistics.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections import Counter
from pathlib import Path

import numpy as np
from tqdm import tqdm

from dis2_jax.data.builders.card_parser import load_card
from dis2_jax.data.builders.cutting import Rect, cut_tiles
from dis2_jax.data.builders.folder import Folder
from dis2_jax.data.builders.folder_card import FolderCard
from dis2_jax.data.builders.folder_scenes import (
    FolderScene,
    FolderScenes,
    check_no_palette,
    check_scene_files,
    scene_files,
    some,
    split_parts,
    stored_format,
    unlabelled,
)
from dis2_jax.data.builders.spec_card import spec_card
from dis2_jax.data.builders.statistics import ChannelMoments
from dis2_jax.data.builders.tiles import DatasetSpec
from dis2_jax.data.prepare import Prepared, check_out
from dis2_jax.data.rasters import FilePath
from dis2_jax.data.scenes.area import ValidArea, WindowSampler, grid_size
from dis2_jax.data.scenes.index import INDEX_FILE, IndexedFile, IndexedScene, Part, SceneIndex
from dis2_jax.data.scenes.opened import OpenScene, Reading, SceneFiles
from dis2_jax.data.scenes.pool import ScenePool
from dis2_jax.files import whole_folder, write_whole
from dis2_jax.schema import CARD_FILE, IGNORE, Dis2Error

SAMPLES = 256
"""Training windows that the statistics are taken from."""


def index_scenes(
    source: str | Path,
    card_file: str | Path,
    out: str | Path,
    *,
    samples: int = SAMPLES,
    overwrite: bool = False,
    progress: bool = False,
) -> Prepared:
    """Write a dataset folder that reads the scenes of a TOML card where they lie.

    Mean and standard deviation come from ``samples`` training windows, all tiles where there are no more. Raises
    ``Dis2Error`` naming the file or key: see ``find_scenes``; files that share no ground or lack the coordinate
    reference system needed to resample them; a split without data; an ``out`` in use.
    """
    if samples < 1:
        raise Dis2Error(f"--samples {samples}: it must be at least 1")
    check_out(Path(out), overwrite=overwrite)
    card = load_card(card_file, source=source)
    root = Path(source).absolute()
    if not root.is_dir():
        raise Dis2Error(f"--source {source} is not a folder")
    found = _look_at_files(card, root, progress=progress)
    index, spec = _split(card, root, found, progress=progress)
    moments = _measure(index, spec, samples=samples, progress=progress)
    written = spec_card(spec, moments, {split: index.count(split) for split in index.parts})
    with whole_folder(Path(out).absolute()) as folder:
        write_whole(folder / CARD_FILE, written.to_json())
        write_whole(folder / INDEX_FILE, index.to_json())
    return Prepared(written, tuple(found.notes))


@dataclasses.dataclass
class _Found:
    """What opening every scene once told. A ``FolderScene`` here has its reference grid as the label's header."""

    scenes: list[FolderScene]
    indexed: dict[str, IndexedScene]
    notes: list[str]


def _look_at_files(card: FolderCard, root: Path, *, progress: bool) -> _Found:
    labels, files = scene_files(card, root)
    found = _Found([], {}, [n for m in card.modalities if (n := unlabelled(m.name, files[m.name], labels))])
    resampled: Counter[str] = Counter()
    for scene, label in tqdm(labels.items(), desc="    scenes", unit="scene", disable=not progress):
        own = check_scene_files(card, root, scene, label, files)
        with contextlib.closing(OpenScene(_reading(card), SceneFiles(scene, label, own))) as opened:
            headers = opened.headers
            resampled.update(opened.resampled)
            grid = opened.grid
        for m in card.modalities:
            if m.name in headers:
                check_no_palette(m, headers[m.name])
        indexed = {name: IndexedFile.of(info, _inside(root, info.path)) for name, info in headers.items()}
        found.indexed[scene] = IndexedScene(scene, indexed)
        found.scenes.append(FolderScene(scene, grid, {name: headers[name] for name in own}))
    found.notes += [
        f"{name} is resampled to the grid of {card.reference} in {n} scenes" for name, n in resampled.items()
    ]
    return found


def _split(card: FolderCard, root: Path, found: _Found, *, progress: bool) -> tuple[SceneIndex, DatasetSpec]:
    parts, unused = split_parts(card, found.scenes)
    if unused:
        found.notes.append(f"{len(unused)} scenes are in no split: {some(unused)}")
    used = {s.id: s for own in parts.values() for s, _ in own}
    formats = [stored_format(card, m, list(used.values())) for m in card.modalities]
    dtypes, channels = tuple(d for d, _ in formats), tuple(c for _, c in formats)
    number = {scene: i for i, scene in enumerate(used)}
    index = SceneIndex(
        root=str(root),
        reading=_reading(card),
        dtypes=dtypes,
        overlaps={"train": card.overlap, "test": card.test_overlap},
        scenes=tuple(found.indexed[i] for i in used),
        parts={
            split: tuple(Part(number[s.id], rect, ValidArea(1, 1)) for s, rect in own)
            for split, own in parts.items()
        },
    )
    return _with_areas(index, progress=progress), Folder(
        card, root, FolderScenes({}, dtypes, channels, ())
    ).spec


def _with_areas(index: SceneIndex, *, progress: bool) -> SceneIndex:
    """Look where each part of a scene holds data."""
    total = sum(map(len, index.parts.values()))
    parts: dict[str, list[Part]] = {split: [] for split in index.parts}
    with tqdm(total=total, desc="     areas", unit="part", disable=not progress) as bar:
        for split, own in index.parts.items():
            for part in own:
                with contextlib.closing(OpenScene(index.reading, index.files(part.scene))) as opened:
                    cells = opened.valid_points(part.rect.window, size=grid_size(part.rect))
                parts[split].append(dataclasses.replace(part, area=ValidArea.of(cells)))
                bar.update()
    for split, looked_at in parts.items():
        if not any(p.area.share for p in looked_at):
            raise Dis2Error(f"split {split!r}: no scene holds data where it is labelled")
    return dataclasses.replace(index, parts={split: tuple(own) for split, own in parts.items()})


def _measure(
    index: SceneIndex, spec: DatasetSpec, *, samples: int, progress: bool
) -> dict[str, ChannelMoments]:
    """Take the statistics of training windows, as preparing would of all tiles."""
    moments = {m.name: ChannelMoments(m.channels) for m in spec.modalities}
    dtypes = dict(zip(moments, spec.dtypes, strict=True))
    pool = ScenePool(lambda scene: OpenScene(index.reading, index.files(scene)))
    windows = _windows(index, samples=samples)
    for part, window in tqdm(windows, desc="statistics", unit="window", disable=not progress):
        with pool.borrow(part.scene) as opened:
            tile = opened.tile(window, dtypes)
        if (tile.label != IGNORE).any():
            for name, x in tile.images.items():
                moments[name].add(x[tile.valid[name]])
    unseen = [name for name, m in moments.items() if m.count == 0]
    if unseen:
        raise Dis2Error(
            f"{unseen[0]}: no valid pixel in {len(windows)} training windows; is it in the files, and has it data"
            " where there are labels? (--samples N looks at more)"
        )
    return moments


def _windows(index: SceneIndex, *, samples: int) -> list[tuple[Part, Rect]]:
    """All training tiles, or ``samples`` windows spread evenly over the valid area."""
    parts, overlap = index.parts["train"], index.overlaps["train"]
    if index.count("train") <= samples:
        return [(p, r) for p in parts for r in cut_tiles(p.rect, index.reading.tile, overlap=overlap)]
    sampler = WindowSampler([(p.rect, p.area) for p in parts], index.reading.tile)
    rng = np.random.default_rng(0)
    shares = (np.arange(samples) + rng.random(samples)) / samples
    drawn = [sampler.at(float(share), rng) for share in shares]
    return [(parts[k], window) for k, window in drawn]


def _reading(card: FolderCard) -> Reading:
    return Reading(card.modalities, card.label, card.reference, card.tile)


def _inside(root: Path, path: FilePath) -> str:
    """Relative to ``root`` where it lies below it, so that both can move together."""
    inside = isinstance(path, Path) and path.is_relative_to(root)
    return path.relative_to(root).as_posix() if inside and isinstance(path, Path) else str(path)
