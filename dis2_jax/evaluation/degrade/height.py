"""Height of another time: raised objects that are gone, or stand elsewhere."""

from __future__ import annotations

import dataclasses

import numpy as np
from scipy import ndimage

from dis2_jax.evaluation.degrade.sensor import Sensor

RAISED_METRES = 2.0
SMALLEST = 12
"""Pixels of the smallest object."""
_MARGIN = 2
"""Pixels around an object in which its wall fades out."""
_RING = 3
"""Pixels around that in which the ground is looked at."""
_EVERY_WAY = np.ones((3, 3), bool)


@dataclasses.dataclass(frozen=True, eq=False)
class _Object:
    mask: np.ndarray
    """bool ``[H, W]``, with the margin."""
    relief: np.ndarray
    """float32 ``[h, w]`` height above its ground inside the mask's bounding box, 0 outside the object."""


def age_height(x: np.ndarray, sensor: Sensor, *, severity: float, rng: np.random.Generator) -> np.ndarray:
    """Take away the share ``severity`` of the raised objects; half of them come back at another place.

    Objects are 8-connected pixels more than 2 m above the ground (for other units, half a standard
    deviation), at least 12 of them: buildings and trees alike, found from the raster alone. The ground is the
    raster's grey opening over half a tile, so height above ground and surface models both work. Where an
    object was, values of the ground around it are drawn. ``severity`` is 0..1; a share that is not a whole
    number of objects is rounded up or down at random so that it holds on average, and each comes back with
    probability 1/2. Several channels move together; the first one tells where the objects are.
    """
    if severity == 0:
        return x.copy()
    objects, raised = find_objects(x, sensor)
    exact = severity * len(objects)
    count = int(exact) + int(rng.random() < exact - int(exact))
    chosen = [objects[i] for i in rng.permutation(len(objects))[:count]]
    out = x.copy()
    bare = ~ndimage.binary_dilation(raised, _EVERY_WAY, iterations=_MARGIN)
    for one in chosen:
        out[one.mask] = _ground_around(x, one.mask, bare, rng=rng)
    for one in chosen:
        if rng.random() < 0.5:
            _put_down(out, one, rng=rng)
    return sensor.measured(out)


def find_objects(x: np.ndarray, sensor: Sensor) -> tuple[list[_Object], np.ndarray]:
    """Return the raised objects of a raster ``[H, W, C]`` and all raised pixels (bool ``[H, W]``)."""
    surface = x[..., 0].astype(np.float64)
    metres = sensor.modality.unit.strip().lower() in ("m", "metre", "metres", "meter", "meters")
    least = RAISED_METRES if metres else 0.5 * float(sensor.std[0])
    size = tuple(max(3, side // 2) for side in surface.shape)
    ground = ndimage.grey_opening(surface, size=size)
    raised = surface - ground > least
    labels, _ = ndimage.label(raised, structure=_EVERY_WAY)
    objects = []
    for k, box in enumerate(ndimage.find_objects(labels), start=1):
        if (labels[box] == k).sum() < SMALLEST:
            continue
        mask = ndimage.binary_dilation(labels == k, _EVERY_WAY, iterations=_MARGIN)
        mask &= ~(raised & (labels != k))  # the margin spares what stands beside it
        (window,) = ndimage.find_objects(mask.astype(np.int8))
        relief = np.where(mask[window][..., None], x[window] - ground[window][..., None], 0)
        objects.append(_Object(mask, relief.astype(np.float32)))
    return objects, raised


def _ground_around(
    x: np.ndarray, mask: np.ndarray, bare: np.ndarray, *, rng: np.random.Generator
) -> np.ndarray:
    """Draw values for the pixels of ``mask`` from bare ones beside it, further away if need be: ``[n, C]``."""
    reach = _RING
    near = ndimage.binary_dilation(mask, _EVERY_WAY, iterations=reach) & bare
    while near.sum() < SMALLEST and reach < max(mask.shape):
        reach *= 2
        near = ndimage.binary_dilation(mask, _EVERY_WAY, iterations=reach) & bare
    pool = x[near] if near.any() else x[mask].min(0, keepdims=True)  # a tile that is one roof
    return pool[rng.integers(len(pool), size=int(mask.sum()))]


def _put_down(out: np.ndarray, one: _Object, *, rng: np.random.Generator) -> None:
    """Add an object's relief at a random place; it hides what is lower there. In place."""
    height, width = one.relief.shape[:2]
    top = int(rng.integers(out.shape[0] - height + 1))
    left = int(rng.integers(out.shape[1] - width + 1))
    here = out[top : top + height, left : left + width]
    level = np.median(here.reshape(-1, here.shape[-1]), axis=0)
    np.maximum(here, level + one.relief, out=here, where=one.relief > 0)
