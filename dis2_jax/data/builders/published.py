"""Find published files by their names, in folders and in zip archives, which are read without being unpacked."""

from __future__ import annotations

import dataclasses
import os
import re
import zipfile
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

from dis2_jax.schema import Dis2Error

_RASTERS = (".tif", ".tiff", ".jpg", ".png")


@dataclasses.dataclass(frozen=True)
class PublishedFile:
    """A raster of a publication. ``path``: what GDAL opens; ``container``: the file on the disk that holds it.

    ``folders`` are the folders and archives around it below the source, archives without their ``.zip``.
    """

    path: Path
    container: Path
    folders: tuple[str, ...]

    @property
    def name(self) -> str:
        """File name."""
        return self.path.name

    @property
    def packed(self) -> bool:
        """Whether it lies in an archive."""
        return self.path != self.container


@dataclasses.dataclass(frozen=True)
class Product:
    """A kind of published file: how its names look, and in which folder (or archive of that name) they lie.

    ``pattern`` has one group per part of the scene's id, ``example`` is for messages. ``folders``, best first,
    decide between files of one id; ``strict``: files elsewhere are something else. ``not_in``: folders that hold
    other files of the same names.
    """

    title: str
    pattern: str
    example: str
    folders: tuple[str, ...] = ()
    strict: bool = False
    not_in: tuple[str, ...] = ()

    def scene_id(self, name: str) -> str | None:
        """Return the id that a file name holds, numbers without leading zeros; None: not such a file."""
        match = re.fullmatch(self.pattern, name)
        if not match:
            return None
        return "_".join(str(int(g)) if g.isdigit() else g for g in match.groups())

    def rank(self, file: PublishedFile) -> int | None:
        """Return how good a place the file is in, smaller is better; None: it is something else."""
        if any(f in self.not_in for f in file.folders):
            return None
        ranks = [i for i, folder in enumerate(self.folders) if folder in file.folders]
        return min(ranks, default=None if self.strict else len(self.folders))


def list_published(source: Path) -> tuple[PublishedFile, ...]:
    """List the rasters below ``source``, a folder or a zip archive, also those in zips in it (and zips in those).

    Raises ``Dis2Error`` for a source that is not there, an archive that is damaged, and an archive that is itself
    compressed in another one (GDAL would unpack all of it for every window).
    """
    source = source.absolute()
    if source.is_file() and source.suffix.lower() == ".zip":
        return tuple(_in_archive(source))
    if not source.is_dir():
        raise Dis2Error(f"--source {source} is neither a folder nor a .zip file")
    found: list[PublishedFile] = []
    for folder, subfolders, names in os.walk(source, followlinks=True):
        subfolders.sort()
        inside = Path(folder).relative_to(source).parts
        for name in sorted(n for n in names if not n.startswith(".")):
            path = Path(folder) / name
            if name.lower().endswith(_RASTERS):
                found.append(PublishedFile(path, path, inside))
            elif name.lower().endswith(".zip"):
                found += _in_archive(path, inside)
    return tuple(found)


def pick(files: Iterable[PublishedFile], product: Product) -> dict[str, PublishedFile]:
    """Return id -> file of a product. Unpacked files win over packed ones in the same sort of folder.

    Raises ``Dis2Error`` when two files are equally good.
    """
    best: dict[str, tuple[tuple[int, bool], PublishedFile]] = {}
    for file in files:
        scene, rank = product.scene_id(file.name), product.rank(file)
        if scene is None or rank is None:
            continue
        standing = (rank, file.packed)
        if scene in best and best[scene][0] == standing:
            raise Dis2Error(
                f"{best[scene][1].path} and {file.path} are both the {product.title} of {scene}: remove one"
            )
        if scene not in best or standing < best[scene][0]:
            best[scene] = (standing, file)
    return {scene: best[scene][1] for scene in sorted(best, key=natural)}


def natural(scene: str) -> tuple[tuple[int, str], ...]:
    """Sort key that takes numbers in ids as numbers: 2_9 before 2_10."""
    return tuple((int(p), "") if p.isdigit() else (-1, p) for p in re.split(r"(\d+)", scene))


def kinds(files: Sequence[PublishedFile]) -> str:
    """Say in a few words what was found, for messages: ``38 files in 2_Ortho_RGB, 1 in top``."""
    counts = Counter("/".join(f.folders[-2:]) or "the folder itself" for f in files)
    return ", ".join(f"{n} in {folder}" for folder, n in counts.most_common(6)) or "no raster at all"


def _in_archive(
    archive: Path,
    around: tuple[str, ...] = (),
    *,
    opened: zipfile.ZipFile | None = None,
    gdal: str = "",
    container: Path | None = None,
) -> list[PublishedFile]:
    """List an archive's rasters; ``gdal`` and ``container`` are given for an archive in an archive."""
    gdal, container = gdal or f"/vsizip/{{{archive}}}", container or archive
    folders = (*around, archive.stem)
    found: list[PublishedFile] = []
    try:
        with opened or zipfile.ZipFile(archive) as z:
            for item in sorted(z.infolist(), key=lambda i: i.filename):
                inside = PurePosixPath(item.filename)
                if item.is_dir() or inside.name.startswith(".") or "__MACOSX" in inside.parts:
                    continue
                place = (*folders, *inside.parts[:-1])
                if inside.suffix.lower() in _RASTERS:
                    found.append(PublishedFile(Path(f"{gdal}/{inside}"), container, place))
                elif inside.suffix.lower() == ".zip":
                    if item.compress_type != zipfile.ZIP_STORED:
                        raise Dis2Error(
                            f"{archive} holds {inside} compressed: unzip {archive.name} first "
                            "(the archives in it can stay packed) and give the folder as --source"
                        )
                    with z.open(item) as f:
                        found += _in_archive(
                            Path(inside.name),
                            place,
                            opened=zipfile.ZipFile(f),
                            gdal=f"/vsizip/{{{gdal}/{inside}}}",
                            container=container,
                        )
    except (zipfile.BadZipFile, OSError) as e:
        raise Dis2Error(f"{archive} cannot be read as a zip archive ({e}): copy it again") from e
    return found
