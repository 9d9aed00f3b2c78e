"""Find the patches of SEN12MS and of the 2020 data fusion contest by their published file names.

``ROIs1158_spring/s1_1/ROIs1158_spring_s1_1_p30.tif`` and its counterparts under ``s2``, ``lc`` (SEN12MS), ``dfc``
(contest; the scene is ``0``, in the public release a city's name), and ``dem`` where somebody added one.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import re
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path

from dis2_jax.data.builders.published import PublishedFile, kinds, list_published, natural
from dis2_jax.schema import Dis2Error

_NAME = re.compile(r"(ROIs\d{4}_[a-z]+)_(s1|s2|lc|dfc|dem)_([A-Za-z0-9]+)_p(\d+)\.tif")
SENSORS = ("s1", "s2", "dem")


@dataclasses.dataclass(frozen=True)
class Patch:
    """Files of one patch; an image that is not there is None. ``scene`` is such as ``ROIs1158_spring_1``."""

    scene: str
    number: int
    label: Path
    s1: Path | None = None
    s2: Path | None = None
    dem: Path | None = None
    inputs: tuple[Path, ...] = ()

    @property
    def id(self) -> str:
        """Unique name."""
        return f"{self.scene}_p{self.number}"


def find_patches(source: Path, *, label: str, only: tuple[str, ...] = ()) -> list[Patch]:
    """Return the labelled patches of all scenes, or of those that match a pattern of ``only``, in order.

    Raises ``Dis2Error`` when there is none, when a patch comes twice, and for packed ``.tar.gz`` archives.
    """
    files = list_published(source)
    found: dict[tuple[str, int], dict[str, PublishedFile]] = {}
    others: set[str] = set()
    for file in files:
        match = _NAME.fullmatch(file.name)
        if not match:
            continue
        scene = f"{match[1]}_{match[3]}"
        if only and not any(fnmatch.fnmatchcase(scene, p) for p in only):
            others.add(scene)
            continue
        own = found.setdefault((scene, int(match[4])), {})
        other = own.get(match[2])
        if other is not None and other.packed == file.packed:
            raise Dis2Error(f"{other.path} and {file.path} are the same file of a patch: remove one")
        if other is None or other.packed:
            own[match[2]] = file
    ordered = sorted(found.items(), key=lambda item: (natural(item[0][0]), item[0][1]))
    patches = [_patch(scene, number, own, label) for (scene, number), own in ordered if label in own]
    if not patches and others and not found:
        raise Dis2Error(f"--only {','.join(only)}: no such scene; there are {_some(others)}")
    if not patches:
        raise Dis2Error(_nothing(source, files, label))
    return patches


def lacking(patches: Iterable[Patch]) -> dict[str, int]:
    """Count the patches without Sentinel-1 and without Sentinel-2."""
    patches = list(patches)
    return {kind: n for kind in ("s1", "s2") if (n := sum(getattr(p, kind) is None for p in patches))}


def split_patches(
    patches: Iterable[Patch], *, validation: tuple[str, ...], test: tuple[str, ...], holdout: int
) -> dict[str, list[Patch]]:
    """Assign patches to splits: scenes that match a pattern of ``test`` or ``validation``, the others to train.

    Without patterns for validation, ``holdout`` training patches with the smallest CRC-32 of their id are held
    out. Raises ``Dis2Error`` for a pattern without a scene, and for a split that stays empty.
    """
    patches = list(patches)
    scenes = {p.scene for p in patches}
    for option, patterns in (("--validation", validation), ("--test", test)):
        for pattern in patterns:
            if not fnmatch.filter(scenes, pattern):
                raise Dis2Error(f"{option} {pattern}: no such scene; there are {_some(scenes)}")
    where = {s: _split(s, validation=validation, test=test) for s in scenes}
    splits: dict[str, list[Patch]] = {"train": [], "validation": [], "test": []}
    for p in patches:
        splits[where[p.scene]].append(p)
    if not validation:
        by_hash = sorted(splits["train"], key=lambda p: (zlib.crc32(p.id.encode()), p.id))
        held = {p.id for p in by_hash[:holdout]}
        splits["validation"] = [p for p in splits["train"] if p.id in held]
        splits["train"] = [p for p in splits["train"] if p.id not in held]
    for split in ("train", "validation"):
        if not splits[split]:
            raise Dis2Error(f"the {split} split is empty: choose other scenes with --validation and --test")
    return {split: own for split, own in splits.items() if own}


def listed_patches(patches: Iterable[Patch], lists: Mapping[str, Path]) -> dict[str, list[Patch]]:
    """Assign patches to splits by published lists: a text file per split with a patch's file name per line.

    Raises ``Dis2Error`` naming the list for a line that is no such name, and for a list none of whose patches is
    there; patches in no list are left out.
    """
    by_id = {p.id: p for p in patches}
    splits = {}
    for split, path in lists.items():
        ids = _read_list(path)
        own = [by_id[i] for i in ids if i in by_id]
        if not own:
            raise Dis2Error(f"{path}: none of its {len(ids)} patches is in --source")
        splits[split] = sorted(own, key=lambda p: (natural(p.scene), p.number))
    return splits


def _read_list(path: Path) -> list[str]:
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as e:
        raise Dis2Error(
            f"{path} cannot be read ({e}): a text file with a file name per line is wanted"
        ) from e
    ids = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        match = _NAME.fullmatch(line.strip())
        if not match:
            raise Dis2Error(f"{path} line {number}: {line.strip()[:60]!r} is no patch's file name")
        ids.append(f"{match[1]}_{match[3]}_p{int(match[4])}")
    return list(dict.fromkeys(ids))


def _patch(scene: str, number: int, own: Mapping[str, PublishedFile], label: str) -> Patch:
    used = [own[k] for k in (label, *SENSORS) if k in own]
    images = {k: own[k].path for k in SENSORS if k in own}
    containers = tuple(dict.fromkeys(f.container for f in used))
    return Patch(scene, number, own[label].path, inputs=containers, **images)


def _split(scene: str, *, validation: tuple[str, ...], test: tuple[str, ...]) -> str:
    for split, patterns in (("test", test), ("validation", validation)):
        if any(fnmatch.fnmatchcase(scene, p) for p in patterns):
            return split
    return "train"


def _nothing(source: Path, files: tuple[PublishedFile, ...], label: str) -> str:
    packed = sorted(source.rglob("*.tar.gz")) if source.is_dir() else []
    if packed:
        return f"{packed[0]} is packed: unpack it (tar xzf) beside the other seasons and sensors"
    return f"{source} holds no labelled patch (names like ROIs1158_spring_{label}_1_p30.tif); it holds {kinds(files)}"


def _some(names: Iterable[str], *, shown: int = 8) -> str:
    names = sorted(names, key=natural)
    return ", ".join(names[:shown]) + (f" and {len(names) - shown} more" if len(names) > shown else "")
