"""The index of a folder of scenes, ``scene_index.json``: which files there are, how they are read and split."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

from dis2_jax.data.builders.cutting import Rect, count_tiles
from dis2_jax.data.builders.folder_card import FolderLabel, FolderModality
from dis2_jax.data.rasters import FilePath, RasterInfo, file_path
from dis2_jax.data.scenes.area import ValidArea
from dis2_jax.data.scenes.opened import LABEL, Reading, SceneFiles
from dis2_jax.schema import Dis2Error

INDEX_FILE = "scene_index.json"
_FORMAT = 1
_PLACES, _PROBE = 16, 4096


@dataclasses.dataclass(frozen=True)
class IndexedFile:
    """A file as it was when the index was made.

    ``transform``: (a, b, c, d, e, f), empty where it has none. ``sample``: see ``sample_digest``.
    """

    path: str
    height: int
    width: int
    bands: int
    dtype: str
    transform: tuple[float, ...] = ()
    sample: str = ""

    @classmethod
    def of(cls, info: RasterInfo, path: str) -> IndexedFile:
        """Note what a header says, and of a file on this machine also what some of its bytes are."""
        here = isinstance(info.path, Path) and info.path.is_file()
        sample = sample_digest(Path(info.path)) if here else ""
        return cls(path, info.height, info.width, info.bands, info.dtype, info.transform or (), sample)

    def differs(self, info: RasterInfo) -> bool:
        """Whether the file is another one by now. Indexes of earlier versions have no sample to compare."""
        found = IndexedFile.of(info, self.path)
        return found != (self if self.sample else dataclasses.replace(self, sample=found.sample))


def sample_digest(path: Path) -> str:
    """Digest of a file's size and of its bytes at 16 even places: not all of it, but cheap each time it is opened.

    In compressed files the header's table of blocks is another one as soon as any block is.
    """
    size = path.stat().st_size
    digest = hashlib.blake2b(str(size).encode(), digest_size=8)
    with path.open("rb") as f:
        for i in range(_PLACES):
            f.seek(max(0, size - _PROBE) * i // (_PLACES - 1))
            digest.update(f.read(_PROBE))
    return digest.hexdigest()


@dataclasses.dataclass(frozen=True)
class IndexedScene:
    """A scene; ``files`` by modality, and ``label``."""

    id: str
    files: dict[str, IndexedFile]


@dataclasses.dataclass(frozen=True)
class Part:
    """A rectangle of a scene (its number in the index) that belongs to a split."""

    scene: int
    rect: Rect
    area: ValidArea


@dataclasses.dataclass(frozen=True)
class SceneIndex:
    """Everything that reading needs beside the dataset card.

    ``root``: folder that relative paths start from. ``dtypes``: per modality, in order. ``overlaps``: pixels that
    neighbouring evaluation tiles share, per split.
    """

    root: str
    reading: Reading
    dtypes: tuple[str, ...]
    overlaps: dict[str, int]
    scenes: tuple[IndexedScene, ...]
    parts: dict[str, tuple[Part, ...]]

    def files(self, scene: int) -> SceneFiles:
        """Paths of a scene, to open."""
        found = self.scenes[scene]
        paths = {name: self._path(f.path) for name, f in found.files.items()}
        return SceneFiles(found.id, paths.pop(LABEL), paths)

    def count(self, split: str) -> int:
        """Return how many tiles cover a split."""
        overlap = self.overlaps.get(split, 0)
        return sum(count_tiles(p.rect, self.reading.tile, overlap=overlap) for p in self.parts[split])

    def _path(self, name: str) -> FilePath:
        path = file_path(name)
        return Path(self.root) / path if isinstance(path, Path) else path

    def to_json(self) -> str:
        """Serialise; one scene and one part a line."""
        head = dataclasses.asdict(dataclasses.replace(self, scenes=(), parts={}))
        lines = [f'"format": {_FORMAT}']
        lines += [
            f"{json.dumps(k)}: {json.dumps(v)}" for k, v in head.items() if k not in ("scenes", "parts")
        ]
        scenes = ",\n".join(json.dumps(dataclasses.asdict(s)) for s in self.scenes)
        parts = ",\n".join(
            f"{json.dumps(split)}: [\n" + ",\n".join(json.dumps(dataclasses.asdict(p)) for p in own) + "\n]"
            for split, own in self.parts.items()
        )
        return (
            "{\n" + ",\n".join([*lines, f'"scenes": [\n{scenes}\n]', f'"parts": {{\n{parts}\n}}']) + "\n}\n"
        )

    @classmethod
    def load(cls, folder: str | Path) -> SceneIndex:
        """Read ``<folder>/scene_index.json``. Raises ``Dis2Error`` when it cannot be read."""
        path = Path(folder) / INDEX_FILE
        try:
            d: dict[str, Any] = json.loads(path.read_text())
            if d["format"] != _FORMAT:
                raise Dis2Error(
                    f"{path} is of format {d['format']}, not {_FORMAT}: run `dis2 data index` again"
                )
            return cls(
                root=d["root"],
                reading=_reading(d["reading"]),
                dtypes=tuple(d["dtypes"]),
                overlaps=d["overlaps"],
                scenes=tuple(_scene(s) for s in d["scenes"]),
                parts={split: tuple(_part(p) for p in own) for split, own in d["parts"].items()},
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as e:
            raise Dis2Error(
                f"{path} cannot be read ({type(e).__name__}: {e}): run `dis2 data index` again"
            ) from e


def _reading(d: dict[str, Any]) -> Reading:
    return Reading(
        modalities=tuple(FolderModality(**_frozen(m)) for m in d["modalities"]),
        label=FolderLabel(**_frozen(d["label"])),
        reference=d["reference"],
        tile=(int(d["tile"][0]), int(d["tile"][1])),
    )


def _scene(d: dict[str, Any]) -> IndexedScene:
    return IndexedScene(d["id"], {name: IndexedFile(**_frozen(f)) for name, f in d["files"].items()})


def _part(d: dict[str, Any]) -> Part:
    return Part(int(d["scene"]), Rect(**d["rect"]), ValidArea(**d["area"]))


def _frozen(value: Any) -> Any:
    """JSON's lists as tuples, however deep."""
    if isinstance(value, list):
        return tuple(_frozen(v) for v in value)
    return {k: _frozen(v) for k, v in value.items()} if isinstance(value, dict) else value
