"""What a prediction can write: name, pixel type, colours and class names of each raster."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import matplotlib
import numpy as np

from dis2_jax.inference.blend import Strip
from dis2_jax.inference.vector import check_suffix
from dis2_jax.schema import IGNORE, ClassLegend, Dis2Error, Scenario, nearest

RASTERS = ("map", "probabilities", "confidence", "entropy", "scenarios")
PRODUCTS = (*RASTERS, "quicklook", "vector")
_ENDINGS = {"quicklook": ".png", "vector": ".gpkg"}


@dataclasses.dataclass(frozen=True)
class Product:
    """One raster to write. ``bands`` are descriptions; ``categories`` name the values 0, 1, ... of a class raster."""

    name: str
    dtype: str
    nodata: float
    bands: tuple[str, ...]
    categories: tuple[str, ...] = ()
    colors: tuple[tuple[int, int, int], ...] = ()

    def tags(self) -> dict[str, str]:
        """What is said in the file itself."""
        tags = {"DIS2_PRODUCT": self.name}
        return tags | {f"CLASS_{i}": name for i, name in enumerate(self.categories)}


def product(name: str, legend: ClassLegend, scenarios: tuple[Scenario, ...]) -> Product:
    """Describe a raster of ``RASTERS``."""
    if name == "map":
        return Product("map", "uint8", IGNORE, ("class",), legend.names, legend.colors)
    if name == "scenarios":
        texts = tuple(str(s) for s in scenarios)
        return Product("scenarios", "uint8", IGNORE, ("scenario",), texts, scenario_colors(len(texts)))
    bands = {
        "probabilities": legend.names,
        "confidence": ("probability of the most probable class",),
        "entropy": ("entropy of the class probabilities, 0 certain .. 1 undecided",),
    }
    return Product(name, "float32", float("nan"), bands[name])


def values(strip: Strip, name: str) -> np.ndarray:
    """A product's pixels ``[n, w, bands]`` in its dtype."""
    if name == "probabilities":
        return strip.probabilities
    x = {"map": "classes", "scenarios": "scenario"}.get(name, name)
    return np.asarray(getattr(strip, x))[..., None]


def scenario_colors(count: int) -> tuple[tuple[int, int, int], ...]:
    """Evenly spread colours of a scale that colour-blind people can read."""
    rgb = matplotlib.colormaps["viridis"](np.linspace(0.05, 0.95, count))[:, :3]
    return tuple((int(r), int(g), int(b)) for r, g, b in (rgb * 255).round())


def output_paths(out: str | Path, also: Mapping[str, str | Path | None]) -> dict[str, Path]:
    """Where each product goes: the map to ``out``, others to the path given or beside it by name.

    ``map.tif`` gives ``map_confidence.tif``, ``map_scenarios.tif``, ``map_quicklook.png``, ``map.gpkg``. Raises
    ``Dis2Error`` for an unknown product, an ``out`` that is no ``.tif``, a vector file of unknown format, or two
    products in one file.
    """
    out = Path(out)
    if out.suffix.lower() not in (".tif", ".tiff"):
        raise Dis2Error(f"--out {out}: the map is a GeoTIFF, name it something.tif")
    paths = {"map": out}
    for name, path in also.items():
        if name not in PRODUCTS:
            raise Dis2Error(f"no product {name!r}{nearest(name, PRODUCTS)}; there are {', '.join(PRODUCTS)}")
        ending = _ENDINGS.get(name, out.suffix)
        beside = out.with_suffix(ending) if name == "vector" else out.with_name(f"{out.stem}_{name}{ending}")
        paths[name] = beside if path is None else Path(path)
    if "vector" in paths:
        check_suffix(paths["vector"])
    places = [p.absolute() for p in paths.values()]
    twice = [p for p in places if places.count(p) > 1]
    if twice:
        raise Dis2Error(f"{twice[0]} is named for two outputs")
    return paths
