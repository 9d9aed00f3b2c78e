"""Find a folder's scenes: match files to ids by glob patterns, check headers and labels, assign splits."""

from __future__ import annotations

import dataclasses
import fnmatch
import glob
import itertools
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from dis2_jax.data.builders.cutting import Rect, split_scene
from dis2_jax.data.builders.folder_card import SPLITS, FolderCard, FolderModality
from dis2_jax.data.builders.label_codes import LabelCoder
from dis2_jax.data.rasters import (
    FilePath,
    RasterInfo,
    RasterReader,
    check_same_grid,
    file_path,
    raster_info,
    stored_dtype,
)
from dis2_jax.schema import Dis2Error, nearest

_BAND_ROWS = 1024
_SIDECARS = (".aux.xml", ".ovr", ".msk")


@dataclasses.dataclass(frozen=True)
class FolderScene:
    """One scene: its label's header and the header of each modality that it has."""

    id: str
    label: RasterInfo
    images: dict[str, RasterInfo]


@dataclasses.dataclass(frozen=True)
class FolderScenes:
    """Everything known before a tile is cut.

    ``parts[split]`` lists (scene, rectangle); ``dtypes`` and ``channels`` are per modality, in the card's
    order.
    """

    parts: dict[str, tuple[tuple[FolderScene, Rect], ...]]
    dtypes: tuple[str, ...]
    channels: tuple[int, ...]
    notes: tuple[str, ...]


def find_scenes(card: FolderCard, source: Path, *, progress: bool = False) -> FolderScenes:
    """Match, check and split all scenes of ``source``.

    Raises ``Dis2Error`` naming the file and the way out: a pattern without files, a missing counterpart,
    sizes or georeferences that disagree, label codes outside the legend (all of them, with counts), an empty
    split.
    """
    if not source.is_dir():
        raise Dis2Error(f"--source {source} is not a folder")
    labels, files = scene_files(card, source)
    notes = [n for m in card.modalities if (n := unlabelled(m.name, files[m.name], labels))]
    scenes = [_scene(card, source, i, path, files) for i, path in labels.items()]
    parts, unused = split_parts(card, scenes)
    if unused:
        notes.append(f"{len(unused)} scenes are in no split: {some(unused)}")
    used = {s.id: s for own in parts.values() for s, _ in own}
    if odd := _odd_codes(card, list(used.values()), progress=progress):
        notes.append(f"ignored are label codes outside the legend: {odd}")
    formats = [stored_format(card, m, list(used.values())) for m in card.modalities]
    notes += [
        f"{m.name} is missing in {lacking} of {len(used)} scenes"
        for m in card.modalities
        if (lacking := sum(m.name not in s.images for s in used.values()))
    ]
    return FolderScenes(parts, tuple(d for d, _ in formats), tuple(c for _, c in formats), tuple(notes))


def scene_files(
    card: FolderCard, source: Path
) -> tuple[Mapping[str, FilePath], dict[str, Mapping[str, FilePath]]]:
    """Return the label of each scene, and per modality the file of each scene that has one, by scene id."""
    if not card.scenes:
        labels = match_files(source, card.label.files, f"{card.path}: [label] files")
        return labels, {m.name: _modality_files(card, source, m) for m in card.modalities}
    return {s.id: under(source, s.label) for s in card.scenes}, {
        m.name: {s.id: under(source, s.files[m.name]) for s in card.scenes if m.name in s.files}
        for m in card.modalities
    }


def under(source: Path, name: str) -> FilePath:
    """A listed path: relative to ``source``, absolute, or one that only GDAL knows (which stays text)."""
    path = file_path(name)
    return source / path if isinstance(path, Path) else path


def match_files(source: Path, pattern: str, key: str) -> dict[str, Path]:
    """Return id -> path of the files that match, by id: what each ``*`` stands for, joined by ``_``.

    Raises ``Dis2Error`` when nothing matches or two files have one id.
    """
    regex = _pattern_regex(pattern)
    found: dict[str, Path] = {}
    for name in sorted(glob.glob(pattern, root_dir=source, recursive=True)):
        match = regex.fullmatch(Path(name).as_posix())
        if not match or name.endswith(_SIDECARS) or not (source / name).is_file():
            continue
        scene = "_".join(match.groups())
        if scene in found:
            raise Dis2Error(
                f"{found[scene]} and {source / name} have the same scene id {scene!r}: narrow {key}"
            )
        found[scene] = source / name
    if not found:
        raise Dis2Error(f"{key} = {pattern!r} matches no file in {source}{_seen(source)}")
    return dict(sorted(found.items()))


def _pattern_regex(pattern: str) -> re.Pattern[str]:
    """A glob as a regular expression with one group per single ``*``, save one in the file's extension."""
    stem, dot, extension = pattern.rpartition(".")
    if dot and "*" in extension and "/" not in extension:
        return re.compile(_pattern_regex(stem).pattern + r"\." + extension.replace("*", "[^/]*"))
    parts = re.split(r"(\*\*/|\*\*|\*|\?|\[[^]]+\])", pattern)
    special = {"**/": "(?:.*/)?", "**": ".*", "*": "([^/]*)", "?": "[^/]"}
    return re.compile(
        "".join(
            special.get(p) or (p.replace("[!", "[^") if p.startswith("[") else re.escape(p)) for p in parts
        )
    )


def _seen(source: Path) -> str:
    """Say what kinds of files there are, to help with a wrong pattern."""
    kinds: Counter[str] = Counter()
    for path, _ in zip(source.rglob("*"), range(5000), strict=False):
        if path.is_file():
            kinds[(path.parent.relative_to(source) / f"*{path.suffix}").as_posix()] += 1
    listed = ", ".join(f"{k} ({n})" for k, n in kinds.most_common(4))
    return f"; there are {listed}" if listed else "; the folder has no files"


def _modality_files(card: FolderCard, source: Path, m: FolderModality) -> Mapping[str, FilePath]:
    return match_files(source, m.files, f"{card.path}: [[modality]] {m.name!r} files")


def unlabelled(name: str, files: Mapping[str, FilePath], labels: Mapping[str, FilePath]) -> str:
    """Say which files of a modality have no label; empty: none."""
    extra = sorted(set(files) - set(labels))
    return f"{len(extra)} {name} files have no label and are not used: {some(extra)}" if extra else ""


def _scene(
    card: FolderCard,
    source: Path,
    scene: str,
    label: FilePath,
    files: Mapping[str, Mapping[str, FilePath]],
) -> FolderScene:
    own = check_scene_files(card, source, scene, label, files)
    info = raster_info(label)
    images = {m.name: _image_info(m, own[m.name]) for m in card.modalities if m.name in own}
    try:
        for a, b in itertools.combinations([info, *images.values()], 2):
            check_same_grid(a, b)
    except Dis2Error as e:
        raise Dis2Error(f"{e}; or let `dis2 data index` resample them while they are read") from e
    return FolderScene(scene, info, images)


def check_scene_files(
    card: FolderCard,
    source: Path,
    scene: str,
    label: FilePath,
    files: Mapping[str, Mapping[str, FilePath]],
) -> dict[str, FilePath]:
    """Return a scene's file per modality. ``Dis2Error`` when one is missing that is not optional, or all are."""
    own = {m.name: files[m.name][scene] for m in card.modalities if scene in files[m.name]}
    for m in card.modalities:
        if m.name in own or m.optional:
            continue
        wanted = source / m.files.replace("*", scene) if m.files.count("*") == 1 else source / m.files
        what = "the list names none" if card.scenes else f"{wanted} is missing"
        raise Dis2Error(
            f"scene {scene!r} ({label}) has no {m.name} file{nearest(scene, files[m.name])}: "
            f"{what}; add it or set `optional = true` for {m.name}"
        )
    if not own:
        raise Dis2Error(
            f"scene {scene!r} ({label}) has a label but no modality at all: add a file or remove the label"
        )
    return own


def _image_info(m: FolderModality, path: FilePath) -> RasterInfo:
    with RasterReader(path, bands=m.bands) as reader:
        return check_no_palette(m, reader.info)


def check_no_palette(m: FolderModality, info: RasterInfo) -> RasterInfo:
    """Return the header; ``Dis2Error`` for a palette image, whose numbers are no measurements."""
    if info.palette:
        raise Dis2Error(
            f"{info.path} is a palette image: convert {m.name} to grey or RGB (gdal_translate -expand rgb)"
        )
    return info


def stored_format(card: FolderCard, m: FolderModality, scenes: Iterable[FolderScene]) -> tuple[str, int]:
    """Return the stored dtype that holds all of a modality's files, and its number of channels."""
    infos = [s.images[m.name] for s in scenes if m.name in s.images]
    if not infos:
        raise Dis2Error(f"{card.path}: no scene of any split has a {m.name} file")
    channels = len(m.bands) or infos[0].bands
    for info in infos:
        if not m.bands and info.bands != channels:
            raise Dis2Error(
                f"{infos[0].path} has {channels} bands but {info.path} has {info.bands}: "
                "choose with `bands = [...]`"
            )
    if m.band_names and len(m.band_names) != channels:
        raise Dis2Error(f"{card.path}: {m.name} has {channels} bands but {len(m.band_names)} band_names")
    if m.rescaled:
        return "float32", channels
    common = np.result_type(*(stored_dtype(i.dtype, i.path) for i in infos))
    return stored_dtype(common, infos[0].path), channels


def split_parts(
    card: FolderCard, scenes: list[FolderScene]
) -> tuple[dict[str, tuple[tuple[FolderScene, Rect], ...]], list[str]]:
    """Return the parts of each split and the ids that no split takes; a scene has the size of its ``label``."""
    if card.split.by == "region":
        cut = [(s, split_scene(s.label.size, card.split.boxes)) for s in scenes]
        wanted = [s for s in SPLITS if s == "train" or s in card.split.boxes]
        parts = {split: tuple((s, r) for s, rects in cut for r in rects[split]) for split in wanted}
        unused: list[str] = []
    else:
        chosen = _by_list(card, scenes) if card.split.by == "list" else _by_pattern(card, scenes)
        parts = {
            split: tuple((s, Rect(0, 0, *s.label.size)) for s in scenes if chosen.get(s.id) == split)
            for split in SPLITS
            if split in card.split.ids
        }
        unused = [s.id for s in scenes if s.id not in chosen]
    for split, own in parts.items():
        if not own:
            raise Dis2Error(
                f"{card.path}: [split.{card.split.by}] leaves split {split!r} empty; the scenes are "
                f"{some([s.id for s in scenes])}"
            )
    return parts, unused


def _by_list(card: FolderCard, scenes: list[FolderScene]) -> dict[str, str]:
    known = [s.id for s in scenes]
    chosen: dict[str, str] = {}
    for split, ids in card.split.ids.items():
        for i in ids:
            if i not in known:
                raise Dis2Error(
                    f"{card.path}: [split.list] {split} names scene {i!r}{nearest(i, known)}, "
                    f"which has no label; scenes are {some(known)}"
                )
            if i in chosen:
                raise Dis2Error(f"{card.path}: [split.list] scene {i!r} is in {chosen[i]} and in {split}")
            chosen[i] = split
    return chosen


def _by_pattern(card: FolderCard, scenes: list[FolderScene]) -> dict[str, str]:
    chosen: dict[str, str] = {}
    for split in ("train", "test", "validation"):  # the later one wins
        for pattern in card.split.ids.get(split, ()):
            chosen |= {s.id: split for s in scenes if fnmatch.fnmatchcase(s.id, pattern)}
    return chosen


def _odd_codes(card: FolderCard, scenes: list[FolderScene], *, progress: bool) -> str:
    """Read every label once before anything is written; refuse, or list, all codes outside the legend."""
    from tqdm import tqdm

    coder = LabelCoder.of(card.label)
    odd: Counter[int] = Counter()
    where: dict[int, str] = {}
    for s in tqdm(scenes, desc="    labels", unit="scene", disable=not progress):
        with RasterReader(s.label.path) as reader:
            for row in range(0, s.label.height, _BAND_ROWS):
                height = min(_BAND_ROWS, s.label.height - row)
                counts = coder.unknown(
                    coder.read(reader, (row, 0, height, s.label.width)), nodata=s.label.nodata
                )
                odd.update(counts)
                for code in counts:
                    where.setdefault(code, str(s.label.path))
    if not odd:
        return ""
    if card.label.unknown == "refuse":
        first = where[odd.most_common(1)[0][0]]
        raise Dis2Error(
            f"{card.path}: labels hold codes outside the legend: {coder.listing(odd)}, such as in {first}; "
            'give them a [[class]], list them in [label] ignore, or set unknown = "ignore"'
        )
    return coder.listing(odd)


def some(names: Iterable[str], *, shown: int = 8) -> str:
    """List the first names, and how many more there are."""
    names = list(names)
    return ", ".join(names[:shown]) + (f" and {len(names) - shown} more" if len(names) > shown else "")
