"""Which bands of a modality make the picture that people look at."""

from __future__ import annotations

from dis2_jax.schema import Modality

_TRUE_COLOUR = (("red", "green", "blue"), ("r", "g", "b"), ("b04", "b03", "b02"), ("b4", "b3", "b2"))


def shown_bands(modality: Modality) -> tuple[int, ...]:
    """Positions of the bands that are drawn: red, green, blue where their names tell, or else the first."""
    if modality.kind == "sar" or modality.channels < 3:
        return (0,)
    names = [b.lower() for b in modality.bands]
    for wanted in _TRUE_COLOUR:
        if all(w in names for w in wanted):
            return tuple(names.index(w) for w in wanted)
    return (0, 1, 2)
