"""What lies beside a map. A map's ``.aux.xml`` lists the products made with it, so that a later map leaves none stale.

Only files that still hold the very bytes that were written for the map before are ever removed.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from pathlib import Path
from xml.etree import ElementTree

from dis2_jax.schema import Dis2Error

DOMAIN = "DIS2_BESIDE"
"""GDAL's metadata domain of the list; GDAL keeps it when it rewrites the file."""
SIDECARS = (".aux.xml", ".ovr")
"""What GDAL puts beside a raster; it goes where the raster goes."""


@dataclasses.dataclass(frozen=True)
class _Product:
    name: str
    path: Path
    size: int
    digest: str

    @property
    def unchanged(self) -> bool:
        """Whether the file is there as it was written."""
        return self.path.stat().st_size == self.size and _digest(self.path) == self.digest


def record(made: Mapping[str, Path], paths: Mapping[str, Path]) -> None:
    """Note in the finished map's ``.aux.xml`` what will lie beside it under its name: products ``made`` for ``paths``.

    Products that were given a name of their own are not taken for a later map's.
    """
    side = _side_file(made["map"])
    root = ElementTree.parse(side).getroot() if side.exists() else ElementTree.Element("PAMDataset")
    domain = ElementTree.SubElement(root, "Metadata", domain=DOMAIN)
    for name, path in paths.items():
        if name == "map" or not _named_after(paths["map"], path):
            continue
        entry = ElementTree.SubElement(domain, "MDI", key=name)
        entry.text = f"{path.name} {made[name].stat().st_size} {_digest(made[name])}"
    ElementTree.ElementTree(root).write(side, encoding="utf-8")


def check(paths: Mapping[str, Path]) -> None:
    """Raise ``Dis2Error`` for a product of an earlier map that would be stale and must not be removed.

    That is one changed since, or one whose map was moved away.
    """
    out = paths["map"]
    for product in _stale(paths):
        if not out.exists():
            what = f"belongs to a map that is no longer at {out}"
        elif not product.unchanged:
            what = f"was made with the {out.name} that is there and changed since, so it is not removed"
        else:
            continue
        raise Dis2Error(
            f"{product.path} {what}: move it away, make it anew with this map, or choose another --out"
        )


def remove_stale(paths: Mapping[str, Path]) -> list[str]:
    """Remove what the map before left and this run does not make; return a note on each. ``OSError`` as it comes."""
    notes = []
    for product in _stale(paths):
        if product.unchanged:
            for path in (product.path, *(_beside(product.path, ending) for ending in SIDECARS)):
                path.unlink(missing_ok=True)
            notes.append(f"removed {product.path}: it was of the map before")
        else:
            notes.append(f"{product.path} is of the map before: it was changed meanwhile and left alone")
    return notes


def _stale(paths: Mapping[str, Path]) -> list[_Product]:
    """Products listed by the map before that are still there and that this run does not replace."""
    kept = {path.absolute() for path in paths.values()}
    return [p for p in _listed(paths["map"]) if p.path.is_file() and p.path.absolute() not in kept]


def _listed(out: Path) -> list[_Product]:
    side = _side_file(out)
    if not side.is_file():
        return []
    try:
        entries = ElementTree.parse(side).findall(f"./Metadata[@domain='{DOMAIN}']/MDI")
        found = []
        for entry in entries:
            name, size, digest = (entry.text or "").rsplit(" ", 2)
            found.append(_Product(entry.get("key", ""), out.with_name(name), int(size), digest))
        return found
    except (ElementTree.ParseError, ValueError, OSError) as e:
        raise Dis2Error(f"{side} cannot be read ({e}): move it away or choose another --out") from e


def _named_after(out: Path, path: Path) -> bool:
    same_name = path.stem == out.stem or path.stem.startswith(f"{out.stem}_")
    return same_name and path.absolute().parent == out.absolute().parent


def _side_file(raster: Path) -> Path:
    return _beside(raster, ".aux.xml")


def _beside(path: Path, ending: str) -> Path:
    return path.with_name(path.name + ending)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
