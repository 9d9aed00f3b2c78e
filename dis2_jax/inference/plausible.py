"""Does a scene look like what the model was trained on? One line for each thing that does not.

Judged from a sample of pixels against the card's means and standard deviations, with room for scenes that are darker,
flatter or higher than the average: a note is for values that no ordinary scene would have. Where mean and deviation
leave it open, the file's type of number may tell: 8 bits cannot hold 16-bit data, and heights above ground in whole
metres are rare. Decimetres with fractions of a low quarter stay untold: they are the numbers of a high quarter in
metres, and slopes, which would tell, differ as much between a forest and a field.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from dis2_jax.data.normalize import statistics
from dis2_jax.data.rasters import RasterInfo, to_world
from dis2_jax.schema import DatasetCard, Modality

if TYPE_CHECKING:
    from dis2_jax.inference.inputs import Scene

SIZE_RATIO = 1.5
"""Pixels this many times larger or smaller than the training data's are said."""
_PER_SIDE, _WINDOW = 8, 32
"""Windows per side that are looked at, and their pixels."""
_FEWEST = 64
_FAR = {"optical": 10.0, "height": 6.0, "sar": 6.0, "other": 6.0}
"""Distance of the means, in standard deviations, that is out of the ordinary (snow in a green city: 6)."""
_WIDE, _NARROW = 8.0, 1 / 50
"""Ratio of the deviations that is."""
_COARSE = 15.0
"""Deviation of heights in metres below which whole metres are rare (above ground, not above the sea)."""
_LOW = 1 / 5
"""Ratio that is out of the ordinary for heights with fractions where the training data had none."""
_ALIKE = 0.2
"""Readings whose badness differs by less are told apart by their order."""
_DEGREES_EQUAL_AREA = "EPSG:6933"

_FACTORS = {
    "optical": (255.0, 65535 / 255, 100.0, 1000.0, 10_000.0),
    "height": (10.0, 100.0, 1000.0),
    "sar": (10.0, 100.0),
    "other": (10.0, 100.0, 255.0, 1000.0, 10_000.0),
}
"""Between usual units of a kind of modality; of two alike the first when multiplying, the last when dividing."""


@dataclasses.dataclass(frozen=True)
class _Distance:
    """Of a sample to the card, median over channels."""

    shift: float
    """Difference of the means in the card's standard deviations."""
    spread: float
    """Ratio of the standard deviations."""

    @property
    def fits(self) -> bool:
        return abs(self.shift) <= 3 and 1 / 4 <= self.spread <= 4

    def far(self, kind: str) -> bool:
        return abs(self.shift) > _FAR[kind] or self.spread > _WIDE

    @property
    def badness(self) -> float:
        return abs(self.shift) + abs(float(np.log(self.spread)))


def doubts(scene: Scene, card: DatasetCard, *, reference: str) -> list[str]:
    """Return a line per doubt: the pixel size of the map's grid, then the values of each modality.

    ``reference`` names the modality whose grid the map has. Raises ``Dis2Error`` for a file that is damaged where
    the sample is taken.
    """
    found = [_size_doubt(scene.grid, card, reference)]
    samples = _sample(scene)
    for name, source in scene.sources.items():
        x = samples[name]
        if len(source.modality.mean) == len(source.modality.std) == source.modality.channels:
            found.append(value_doubt(x, source.modality, dtype=np.dtype(source.reader.info.dtype)))
    return [text for text in found if text]


def pixel_metres(grid: RasterInfo) -> float | None:
    """Side of a square as large as a pixel in the middle of a grid; None without a coordinate reference system."""
    from rasterio.warp import transform

    if grid.crs is None or grid.transform is None:
        return None
    column, row = grid.width / 2, grid.height / 2
    x, y = to_world(grid.transform, np.array([0, 1, 0]) + column, np.array([0, 0, 1]) + row)
    metres = 1.0
    if grid.crs.is_projected:
        metres = float(grid.crs.linear_units_factor[1])
    else:
        x, y = (np.asarray(v) for v in transform(grid.crs, _DEGREES_EQUAL_AREA, x, y))
    area = (x[1] - x[0]) * (y[2] - y[0]) - (x[2] - x[0]) * (y[1] - y[0])
    return float(np.sqrt(abs(area))) * metres


def _size_doubt(grid: RasterInfo, card: DatasetCard, reference: str) -> str:
    here, trained = pixel_metres(grid), card.ground_sampling_distance
    if not here or not trained or max(here / trained, trained / here) <= SIZE_RATIO:
        return ""
    return (
        f"{reference}: pixels of {here:.3g} m ({grid.path}) where the training data have {trained:.3g} m: things have"
        f" another size than the model learned; resample (gdalwarp -tr {trained:g} {trained:g}) if the map is poor"
    )


def value_doubt(x: np.ndarray, modality: Modality, *, dtype: np.dtype) -> str:
    """Say in a line what is odd about a sample ``[n, C]`` in physical units; '' if nothing is.

    ``dtype`` is the file's: whole numbers fit no scale of 0..1.
    """
    if modality.kind == "optical":
        if _too_few_bits(modality, dtype):
            return _bits_doubt(modality, dtype)
        x = x[(x != 0).any(-1)]  # black borders
    if len(x) < _FEWEST:
        return ""
    x = x.astype(np.float64)
    mean, std = (v.astype(np.float64) for v in statistics(modality))
    now = _distance(x, mean, std)
    decibels = modality.kind == "sar" and _other_scale(x, mean)
    far = now.far(modality.kind)
    steps = _other_steps(x, modality, now)
    if not (far or now.spread < _NARROW or decibels or steps):
        return ""
    unit = f" {modality.unit}" if modality.unit else ""
    head = (
        f"{modality.name}: values around {np.median(x.mean(0)):.3g} ± {np.median(x.std(0)):.3g} where the training"
        f" data have {np.median(mean):.3g} ± {np.median(std):.3g}{unit}: "
    )
    fill = _undeclared_nodata(x, modality, mean, std) if far else None
    if fill is not None:
        return f"{head}{fill:.10g} looks like nodata; if it is, give --nodata {modality.name}={fill:.10g}"
    better = [
        (d.badness, how)
        for how, y in _readings(x, modality, whole=np.issubdtype(dtype, np.integer))
        if (d := _distance(y, mean, std)).fits
    ]
    if better:
        near = min(better)[0] + _ALIKE
        how = next(how for badness, how in better if badness <= near)
        return f"{head}they would fit {how}, so the unit may be another; convert the file if it is"
    if far or decibels:
        more = ", and whether it is above ground or above sea level" if modality.kind == "height" else ""
        return f"{head}check the unit{more}"
    return ""  # a uniform scene


def _sample(scene: Scene) -> dict[str, np.ndarray]:
    """Valid pixels ``[n, C]`` of every modality, in physical units, from windows spread over the scene."""
    from dis2_jax.inference.inputs import physical

    found: dict[str, list[np.ndarray]] = {name: [] for name in scene.sources}
    height, width = scene.grid.size
    for top in _starts(height):
        for left in _starts(width):
            rows, columns = (top, min(top + _WINDOW, height)), (left, min(left + _WINDOW, width))
            for name, pixels in scene.read(rows, columns).items():
                values = physical(pixels.values[pixels.valid], scene.sources[name].modality)
                found[name].append(values.astype(np.float32))
    return {name: np.concatenate(parts) for name, parts in found.items()}


def _starts(size: int) -> list[int]:
    return sorted({int(i) for i in np.linspace(0, max(0, size - _WINDOW), _PER_SIDE)})


def _distance(x: np.ndarray, mean: np.ndarray, std: np.ndarray) -> _Distance:
    shift = float(np.median((x.mean(0) - mean) / std))
    return _Distance(shift, max(float(np.median(x.std(0) / std)), 1e-12))


def _too_few_bits(modality: Modality, dtype: np.dtype) -> bool:
    """Whether numbers of the file's type cannot be what the training data were.

    Numbers from a to b with mean m have a variance of at most (m - a) (b - m) (Bhatia and Davis, 2000).
    """
    if not np.issubdtype(dtype, np.integer):
        return False
    mean, std = (v.astype(np.float64) for v in statistics(modality))
    limits, source = np.iinfo(dtype), modality.source
    a, b = sorted((limits.min * source.scale + source.offset, limits.max * source.scale + source.offset))
    return bool((std**2 > (mean - a) * (b - mean)).any())


def _bits_doubt(modality: Modality, dtype: np.dtype) -> str:
    mean, std = statistics(modality)
    unit = f" {modality.unit}" if modality.unit else ""
    return (
        f"{modality.name}: a file of {8 * dtype.itemsize} bits where the training data ({np.median(mean):.3g} ±"
        f" {np.median(std):.3g}{unit}) need more, so it was scaled in some other way; give the original numbers"
    )


def _other_steps(x: np.ndarray, modality: Modality, now: _Distance) -> bool:
    """Whether rather large heights are whole numbers, where whole metres would be coarse for the training data.

    The other way round: rather small heights with fractions, where the training data were scaled from whole numbers.
    """
    if modality.kind != "height":
        return False
    source = modality.source
    if source.rescaled:
        stored = (x - source.offset) / source.scale
        return now.spread < _LOW and _whole_share(stored) < 0.8
    return max(modality.std) < _COARSE and (now.shift > 3 or now.spread > 4) and _whole_share(x) == 1


def _whole_share(x: np.ndarray) -> float:
    return float((np.abs(x - np.rint(x)) < 0.01).mean())


def _other_scale(x: np.ndarray, mean: np.ndarray) -> bool:
    """Whether radar is in decibels here and linear in the card, or the other way round, by the signs."""
    negative = float((x < 0).mean())
    return negative < 0.01 if np.median(mean) < 0 else negative > 0.5


def _readings(x: np.ndarray, modality: Modality, *, whole: bool) -> Iterator[tuple[str, np.ndarray]]:
    """Ways in which the numbers may be meant."""
    factors = _FACTORS[modality.kind]
    if not (whole and modality.kind == "optical"):
        yield from ((f"multiplied by {factor:g}", x * factor) for factor in factors)
    yield from ((f"divided by {factor:g}", x / factor) for factor in reversed(factors))
    if modality.kind != "sar":
        return
    to_decibels: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "as decibels of linear power": lambda v: 10 * np.log10(v),
        "as decibels of amplitude": lambda v: 20 * np.log10(v),
    }
    positive = x[(x > 0).all(-1)]
    if len(positive) >= _FEWEST:
        for how, convert in to_decibels.items():
            yield how, convert(positive)
    if x.max() < 300:  # no radar has so many decibels, and the square of a power is still a float
        yield "as linear power of decibels", 10 ** (x / 10)


def _undeclared_nodata(x: np.ndarray, modality: Modality, mean: np.ndarray, std: np.ndarray) -> float | None:
    """A far value that many pixels share exactly, without which the rest is ordinary."""
    for value in (x.min(), x.max()):
        hit = (x == value).any(-1)
        if hit.mean() < 0.002 or hit.sum() < 16 or len(x) - hit.sum() < _FEWEST:
            continue
        lonely = np.abs((value - mean) / std).min() > 20
        if lonely and not _distance(x[~hit], mean, std).far(modality.kind):
            return float(value)
    return None
