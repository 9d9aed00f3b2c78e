"""Every kind of degradation: its function, what its severity counts, and whom it befalls."""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Sequence

import numpy as np

from dis2_jax.evaluation.degrade.clouds import add_clouds
from dis2_jax.evaluation.degrade.geometry import move, remove_part
from dis2_jax.evaluation.degrade.height import age_height
from dis2_jax.evaluation.degrade.noise import add_noise
from dis2_jax.evaluation.degrade.sensor import Degradation, Sensor
from dis2_jax.schema import Dis2Error, Modality, nearest


@dataclasses.dataclass(frozen=True)
class Kind:
    """One kind. ``of`` lists the kinds of modality that it can befall; ``highest`` bounds the severity."""

    name: str
    apply: Degradation
    unit: str
    severities: tuple[float, ...]
    highest: float
    of: tuple[str, ...] = ("optical", "sar", "height", "other")


KINDS = (
    Kind("noise", add_noise, "standard deviations; radar: of the speckle", (0.25, 0.5, 1.0, 2.0), 100.0),
    Kind("partial", remove_part, "share of the tile missing", (0.1, 0.25, 0.5, 0.75, 1.0), 1.0),
    Kind("shift", move, "pixels", (1.0, 2.0, 4.0, 8.0), 1e4),
    Kind("stale", age_height, "share of objects changed", (0.25, 0.5, 0.75, 1.0), 1.0, ("height",)),
    Kind(
        "cloud", add_clouds, "share of the tile under cloud", (0.1, 0.25, 0.5, 0.75, 1.0), 1.0, ("optical",)
    ),
)
KIND_NAMES = tuple(k.name for k in KINDS)


@dataclasses.dataclass(frozen=True)
class Condition:
    """One modality degraded in one way, once."""

    kind: Kind
    modality: Modality
    severity: float


def plan_conditions(
    modalities: Sequence[Modality],
    *,
    kinds: Sequence[str] = (),
    only: Sequence[str] = (),
    severities: Sequence[float] = (),
) -> tuple[Condition, ...]:
    """List what to measure: kind by kind, modality by modality, by rising severity. Empty: all, the defaults.

    Raises:
        Dis2Error: an unknown name (the nearest is offered), a kind that befalls none of the modalities,
            severities for several kinds, whose units differ, or one that is not above 0 and in range.
    """
    chosen = [_kind(name) for name in kinds] or list(KINDS)
    names = [m.name for m in modalities]
    for name in only:
        if name not in names:
            raise Dis2Error(f"no modality {name!r}{nearest(name, names)}; the model has {', '.join(names)}")
    if severities and len(chosen) > 1:
        raise Dis2Error("--severity counts something else for every kind: give one --kind with it")
    conditions: list[Condition] = []
    for kind in dict.fromkeys(chosen):
        levels = sorted(set(severities)) or kind.severities
        _check_levels(kind, levels)
        able = [m for m in modalities if m.kind in kind.of and (m.name in only or not only)]
        if kinds and not able:
            told = ", ".join(f"{m.name} is {m.kind}" for m in modalities if m.name in only or not only)
            raise Dis2Error(f"{kind.name} befalls modalities of kind {' or '.join(kind.of)}: {told}")
        conditions += [Condition(kind, m, s) for m in able for s in levels]
    return tuple(conditions)


def degrade(x: np.ndarray, condition: Condition, sensor: Sensor, *, seed: int, tile: int) -> np.ndarray:
    """Spoil one tile's raster, float32 ``[H, W, C]`` in physical units.

    The randomness follows from (seed, kind, modality, severity, tile number) alone, so the result does not
    depend on batches or on what else is measured.
    """
    text = f"{condition.kind.name}/{condition.modality.name}/{condition.severity!r}"
    rng = np.random.default_rng([seed, tile, zlib.crc32(text.encode())])
    return condition.kind.apply(x, sensor, severity=condition.severity, rng=rng)


def _kind(name: str) -> Kind:
    for kind in KINDS:
        if kind.name == name:
            return kind
    raise Dis2Error(f"no kind {name!r}{nearest(name, KIND_NAMES)}; there are {', '.join(KIND_NAMES)}")


def _check_levels(kind: Kind, levels: Sequence[float]) -> None:
    for s in levels:
        if not 0 < s <= kind.highest:  # also refuses NaN; 0 is the clean row, always measured
            raise Dis2Error(
                f"--severity {s:g}: for {kind.name} ({kind.unit}) it lies above 0, at most {kind.highest:g}"
            )
