"""Procedural city scenes: RGB and height drawn with numpy so that neither modality is enough alone.

Colour alone: flat grey roofs share the greys of streets and yards, trees share the greens of lawns, red roofs
the browns of bare soil, boxes on roofs look like parked cars. Height alone: streets, lawns, soil and cars all
lie near zero under the noise of the height model, and dense trees rise like houses. Shadows are cast from the
height. One pixel is half a metre.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from dis2_jax.schema import ClassLegend, Modality

PIXEL_METRES = 0.5
ROAD, BUILDING, LOW_VEGETATION, TREE, CAR, CLUTTER = range(6)

LEGEND = ClassLegend(
    names=("road", "building", "low_vegetation", "tree", "car", "clutter"),
    colors=((255, 255, 255), (0, 0, 255), (0, 255, 255), (0, 255, 0), (255, 255, 0), (255, 0, 0)),
    codes=(0, 1, 2, 3, 4, 5),
)
"""The six ISPRS classes and colours; ``road`` is every sealed surface."""

MODALITIES = (
    Modality("rgb", 3, kind="optical", unit="digital number", bands=("red", "green", "blue")),
    Modality("ndsm", 1, kind="height", unit="m", bands=("height above ground",)),
)


@dataclasses.dataclass(frozen=True)
class Scene:
    """``rgb`` uint8 ``[N, N, 3]``, ``ndsm`` float32 ``[N, N, 1]`` in metres, ``label`` uint8 ``[N, N]``."""

    rgb: np.ndarray
    ndsm: np.ndarray
    label: np.ndarray


def draw_scene(*, seed: int, split: str, index: int, size: int) -> Scene:
    """Draw one ``size`` x ``size`` scene; the same arguments give the same scene, whatever came before."""
    rng = np.random.default_rng([seed, *split.encode(), index])
    canvas = _Canvas(rng, size)
    _draw_blocks(canvas, rng)
    _scatter_trees(canvas, rng)
    _park_cars(canvas, rng)
    return _render(canvas, rng)


class _Canvas:
    """The scene under construction: true height, colour, label, and the direction of its streets."""

    def __init__(self, rng: np.random.Generator, size: int) -> None:
        self.size = size
        self.asphalt = rng.uniform(82, 118)
        self.label = np.full((size, size), ROAD, np.uint8)
        self.height = np.zeros((size, size))
        self.color = np.empty((size, size, 3))
        self.color[:] = _grey(rng, self.asphalt)
        self.angle = rng.uniform(0, math.pi / 2)
        self.spots: list[tuple[float, float, float]] = []
        """Parking places: row, column, angle."""

    def rectangle(
        self, row: float, col: float, half_u: float, half_v: float, angle: float
    ) -> tuple[tuple[slice, slice], np.ndarray, np.ndarray, np.ndarray]:
        """Return (window, inside, u, v) of a turned rectangle; outside the scene the window is empty."""
        reach = math.hypot(half_u, half_v) + 1
        window = (self._span(row, reach), self._span(col, reach))
        y, x = np.mgrid[window]
        dy, dx = y - row, x - col
        u = dx * math.cos(angle) + dy * math.sin(angle)
        v = -dx * math.sin(angle) + dy * math.cos(angle)
        return window, (np.abs(u) <= half_u) & (np.abs(v) <= half_v), u, v

    def _span(self, centre: float, reach: float) -> slice:
        low = min(max(math.floor(centre - reach), 0), self.size)
        return slice(low, max(low, min(math.ceil(centre + reach) + 1, self.size)))

    def paint(
        self,
        window: tuple[slice, slice],
        inside: np.ndarray,
        *,
        label: int,
        color: np.ndarray,
        height: np.ndarray | float,
    ) -> None:
        self.label[window][inside] = label
        self.color[window][inside] = np.broadcast_to(color, (*inside.shape, 3))[inside]
        self.height[window][inside] = np.broadcast_to(height, inside.shape)[inside]

    def to_pixel(self, u: float, v: float) -> tuple[float, float]:
        """Street-grid coordinates (from the scene's centre) to row, column."""
        c, s = math.cos(self.angle), math.sin(self.angle)
        return self.size / 2 + u * s + v * c, self.size / 2 + u * c - v * s


def _grey(rng: np.random.Generator, level: float) -> np.ndarray:
    return level + rng.normal(0, 3, 3)


def _axis_blocks(rng: np.random.Generator, reach: float) -> list[tuple[float, float]]:
    """Cut a street-grid axis into blocks (start, end) with streets between, from -reach to reach."""
    blocks, at = [], -reach - rng.uniform(0, 60)
    while at < reach:
        length = rng.uniform(56, 104)
        blocks.append((at, at + length))
        at += length + rng.uniform(13, 21)
    return blocks


def _draw_blocks(canvas: _Canvas, rng: np.random.Generator) -> None:
    reach = canvas.size * 0.72
    for v0, v1 in _axis_blocks(rng, reach):
        for u0, u1 in _axis_blocks(rng, reach):
            kind = rng.choice(4, p=(0.48, 0.33, 0.12, 0.07))
            _draw_block(canvas, rng, (u0, u1, v0, v1), kind)
            _kerb_spots(canvas, rng, (u0, u1, v0, v1))


def _draw_block(
    canvas: _Canvas, rng: np.random.Generator, box: tuple[float, float, float, float], kind: int
) -> None:
    """Fill a block: 0 houses on lawns, 1 flat-roofed halls on sealed yards, 2 park, 3 building site."""
    u0, u1, v0, v1 = box
    row, col = canvas.to_pixel((u0 + u1) / 2, (v0 + v1) / 2)
    half = ((u1 - u0) / 2, (v1 - v0) / 2)
    window, inside, _, _ = canvas.rectangle(row, col, half[0], half[1], canvas.angle)
    if kind in (0, 2):
        canvas.paint(window, inside, label=LOW_VEGETATION, color=_green(rng), height=rng.uniform(0, 0.25))
    elif kind == 3:
        _paint_site(canvas, rng, window, inside)
    else:
        canvas.paint(
            window, inside, label=ROAD, color=_grey(rng, canvas.asphalt + rng.normal(0, 8)), height=0.0
        )
    if kind == 2:
        return
    lot = rng.uniform(27, 38) if kind == 0 else rng.uniform(42, 58)
    for cu in _lots(u0, u1, lot):
        for cv in _lots(v0, v1, lot):
            if rng.random() < (0.3 if kind == 3 else 0.88):
                _draw_lot(canvas, rng, cu, cv, lot, kind)
            elif kind == 1:
                _parking_row(canvas, rng, cu, cv, lot)


def _paint_site(
    canvas: _Canvas, rng: np.random.Generator, window: tuple[slice, slice], inside: np.ndarray
) -> None:
    """Lawn with islands of dug-up soil."""
    canvas.paint(window, inside, label=LOW_VEGETATION, color=_green(rng), height=0.1)
    dug = _smooth_noise(rng, canvas.size, 20)[window] > 0
    canvas.paint(window, inside & dug, label=CLUTTER, color=_soil(rng), height=rng.uniform(0, 0.5))


def _lots(start: float, end: float, lot: float) -> np.ndarray:
    n = max(1, int((end - start) // lot))
    return start + (np.arange(n) + 0.5) * (end - start) / n


def _green(rng: np.random.Generator) -> np.ndarray:
    """Lawns and crowns draw from this same range of greens."""
    dry = rng.uniform(0, 1)
    return np.array([74, 98, 56]) * (1 - dry) + np.array([112, 116, 74]) * dry + rng.normal(0, 4, 3)


def _soil(rng: np.random.Generator) -> np.ndarray:
    return np.array([140, 98, 76]) + rng.normal(0, 9, 3)


def _draw_lot(canvas: _Canvas, rng: np.random.Generator, u: float, v: float, lot: float, kind: int) -> None:
    row, col = canvas.to_pixel(u + rng.normal(0, 2), v + rng.normal(0, 2))
    if kind == 0:
        sides = rng.uniform(0.24, 0.38, 2) * lot
        _draw_gabled(canvas, rng, row, col, sides) if rng.random() < 0.6 else _draw_flat(
            canvas, rng, row, col, sides
        )
        if rng.random() < 0.5:
            _draw_drive(canvas, rng, row, col, lot)
        if rng.random() < 0.45:
            _draw_heap(canvas, rng, u, v, lot)
    elif kind == 1:
        _draw_flat(canvas, rng, row, col, rng.uniform(0.32, 0.44, 2) * lot)
    else:
        _draw_flat(canvas, rng, row, col, rng.uniform(0.1, 0.2, 2) * lot)


def _draw_flat(canvas: _Canvas, rng: np.random.Generator, row: float, col: float, sides: np.ndarray) -> None:
    """Flat roof in the street's greys, often with boxes that look like cars from above."""
    floor = rng.uniform(3, 15)
    window, inside, _, _ = canvas.rectangle(row, col, float(sides[0]), float(sides[1]), canvas.angle)
    color = _grey(rng, canvas.asphalt + rng.normal(0, 9))
    canvas.paint(window, inside, label=BUILDING, color=color, height=floor)
    for _ in range(rng.integers(0, 5)):
        du, dv = rng.uniform(-0.7, 0.7, 2) * sides
        c, s = math.cos(canvas.angle), math.sin(canvas.angle)
        at = (row + du * s + dv * c, col + du * c - dv * s)
        window, inside, _, _ = canvas.rectangle(*at, rng.uniform(3, 5), rng.uniform(1.7, 2.3), canvas.angle)
        inside &= canvas.label[window] == BUILDING
        canvas.paint(
            window, inside, label=BUILDING, color=_car_color(rng), height=floor + rng.uniform(0.4, 1.5)
        )


def _draw_gabled(
    canvas: _Canvas, rng: np.random.Generator, row: float, col: float, sides: np.ndarray
) -> None:
    """Gabled roof in tile red; one side lies in the sun."""
    half_u, half_v = max(sides), min(sides)
    angle = canvas.angle + (math.pi / 2) * rng.integers(0, 2)
    window, inside, _, v = canvas.rectangle(row, col, half_u, half_v, angle)
    eaves, slope = rng.uniform(3, 6), rng.uniform(0.4, 0.7)
    height = eaves + slope * PIXEL_METRES * (half_v - np.abs(v))
    base = np.array([146, 86, 70]) + rng.normal(0, 10, 3)
    color = base * (1 + rng.uniform(0.06, 0.14) * np.sign(v))[..., None]
    canvas.paint(window, inside, label=BUILDING, color=color, height=height)


def _draw_drive(canvas: _Canvas, rng: np.random.Generator, row: float, col: float, lot: float) -> None:
    """A sealed patch beside a house, with room for a car."""
    turn = canvas.angle + (math.pi / 2) * rng.integers(0, 4)
    at = (row + 0.42 * lot * math.sin(turn), col + 0.42 * lot * math.cos(turn))
    window, inside, _, _ = canvas.rectangle(*at, 0.16 * lot + 3, 4.5, turn)
    inside &= canvas.label[window] == LOW_VEGETATION
    canvas.paint(window, inside, label=ROAD, color=_grey(rng, canvas.asphalt + rng.normal(0, 8)), height=0.0)
    canvas.spots.append((*at, turn))


def _draw_heap(canvas: _Canvas, rng: np.random.Generator, u: float, v: float, lot: float) -> None:
    """Bare soil, a shed's leftovers: clutter, low."""
    row, col = canvas.to_pixel(u + rng.uniform(-0.5, 0.5) * lot, v + rng.uniform(-0.5, 0.5) * lot)
    window, inside, _, _ = canvas.rectangle(
        row, col, rng.uniform(4, 10), rng.uniform(4, 8), rng.uniform(0, math.pi)
    )
    inside &= canvas.label[window] != BUILDING
    canvas.paint(window, inside, label=CLUTTER, color=_soil(rng), height=rng.uniform(0, 0.8))


def _parking_row(canvas: _Canvas, rng: np.random.Generator, u: float, v: float, lot: float) -> None:
    for du in np.arange(-0.4 * lot, 0.4 * lot, 6.5):
        for dv in (-8.0, 8.0):
            canvas.spots.append((*canvas.to_pixel(u + du, v + dv), canvas.angle + math.pi / 2))


def _kerb_spots(canvas: _Canvas, rng: np.random.Generator, box: tuple[float, float, float, float]) -> None:
    u0, u1, v0, v1 = box
    canvas.spots += [(*canvas.to_pixel(u, v1 + 3.5), canvas.angle) for u in np.arange(u0 + 6, u1 - 6, 13)]
    canvas.spots += [
        (*canvas.to_pixel(u1 + 3.5, v), canvas.angle + math.pi / 2) for v in np.arange(v0 + 6, v1 - 6, 13)
    ]


def _scatter_trees(canvas: _Canvas, rng: np.random.Generator) -> None:
    """Clumps of crowns on vegetation (and a few along streets), domes of 3 to 14 m with a rough surface."""
    for _ in range(int(canvas.size**2 / 900)):
        row, col = rng.uniform(0, canvas.size, 2)
        here = canvas.label[int(row), int(col)]
        if here not in (LOW_VEGETATION, TREE) and not (here == ROAD and rng.random() < 0.12):
            continue
        for _ in range(rng.integers(1, 5)):
            _draw_crown(canvas, rng, row + rng.normal(0, 6), col + rng.normal(0, 6))


def _draw_crown(canvas: _Canvas, rng: np.random.Generator, row: float, col: float) -> None:
    radius = rng.uniform(4, 10)
    window, _, u, v = canvas.rectangle(row, col, radius, radius, rng.uniform(0, math.pi))
    if u.size == 0:
        return
    ragged = np.hypot(u, v) + rng.normal(0, 0.7, u.shape)
    inside = (ragged <= radius) & (canvas.label[window] != BUILDING)
    top = rng.uniform(0.7, 1.3) * radius
    dome = top * (0.45 + 0.55 * np.sqrt(np.clip(1 - (ragged / radius) ** 2, 0, 1)))
    taller = inside & (dome > canvas.height[window])
    canvas.paint(window, taller, label=TREE, color=_green(rng), height=dome + rng.normal(0, 0.35, u.shape))


def _car_color(rng: np.random.Generator) -> np.ndarray:
    palette = np.array(
        [(205, 205, 208), (158, 160, 165), (52, 54, 60), (150, 44, 40), (48, 70, 128), (112, 112, 114)]
    )
    return palette[rng.integers(len(palette))] + rng.normal(0, 8, 3)


def _park_cars(canvas: _Canvas, rng: np.random.Generator) -> None:
    for row, col, angle in canvas.spots:
        if rng.random() > 0.5:
            continue
        turned = angle + rng.normal(0, 0.05)
        window, inside, u, _ = canvas.rectangle(row, col, rng.uniform(4, 5.2), rng.uniform(1.8, 2.3), turned)
        if not inside.any() or (canvas.label[window][inside] != ROAD).any():
            continue
        shade = np.where(np.abs(u - 1) < 1.2, 0.72, 1.0)[..., None]  # the windscreen
        canvas.paint(window, inside, label=CAR, color=_car_color(rng) * shade, height=rng.uniform(0.2, 0.7))


def _render(canvas: _Canvas, rng: np.random.Generator) -> Scene:
    """Light the scene, blur it like a lens, add noise; blur and disturb the height like a matched model."""
    n = canvas.size
    shadow = _cast_shadow(
        canvas.height, azimuth=rng.uniform(0, 2 * math.pi), elevation=rng.uniform(0.75, 1.15)
    )
    light = (1 - 0.5 * shadow) * rng.uniform(0.92, 1.08) * (1 + 0.05 * _smooth_noise(rng, n, 48))
    texture = 1 + 0.05 * _smooth_noise(rng, n, 5)
    green = np.isin(canvas.label, (LOW_VEGETATION, TREE))
    texture = np.where(green, texture + 0.09 * rng.normal(0, 1, (n, n)), texture)
    rgb = _blur(canvas.color * (light * texture)[..., None]) + rng.normal(0, 4, (n, n, 3))
    ndsm = _blur(_blur(canvas.height)) + 0.3 * _smooth_noise(rng, n, 24) + rng.normal(0, 0.12, (n, n))
    return Scene(
        rgb=np.clip(np.rint(rgb), 0, 255).astype(np.uint8),
        ndsm=ndsm.astype(np.float32)[..., None],
        label=canvas.label.copy(),
    )


def _cast_shadow(height: np.ndarray, *, azimuth: float, elevation: float) -> np.ndarray:
    """March from every pixel towards the sun; 1.0 where something stands in the light's way, ``[N, N]``."""
    n = height.shape[0]
    rise = math.tan(elevation) * PIXEL_METRES
    shadow = np.zeros_like(height)
    for step in range(1, min(math.ceil(height.max() / rise) + 1, n)):
        dr, dc = round(step * math.sin(azimuth)), round(step * math.cos(azimuth))
        here = (slice(max(0, -dr), n - max(0, dr)), slice(max(0, -dc), n - max(0, dc)))
        there = (slice(max(0, dr), n - max(0, -dr)), slice(max(0, dc), n - max(0, -dc)))
        shadow[here] = np.maximum(shadow[here], height[there] - step * rise > height[here] + 0.3)
    return _blur(shadow)


def _smooth_noise(rng: np.random.Generator, size: int, scale: int) -> np.ndarray:
    """Standard-normal values on a grid ``scale`` pixels apart, interpolated bilinearly: ``[size, size]``."""
    cells = size // scale + 2
    grid = rng.normal(0, 1, (cells, cells))
    at = np.arange(size) / scale
    low = at.astype(int)
    part = at - low
    rows = grid[low] * (1 - part)[:, None] + grid[low + 1] * part[:, None]
    return rows[:, low] * (1 - part) + rows[:, low + 1] * part


def _blur(x: np.ndarray) -> np.ndarray:
    """Binomial 3 x 3 filter with reflected borders, ``[N, N]`` or ``[N, N, C]``."""
    for axis in (0, 1):
        pad = [(1, 1) if a == axis else (0, 0) for a in range(x.ndim)]
        p = np.pad(x, pad, mode="reflect")
        lo, mid, hi = (np.take(p, np.arange(k, k + x.shape[axis]), axis) for k in range(3))
        x = 0.25 * lo + 0.5 * mid + 0.25 * hi
    return x
