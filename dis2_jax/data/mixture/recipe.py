"""What ``mixture.json`` beside the joint dataset card holds: the members and how they are brought together."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path

from dis2_jax.schema import CARD_FILE, Dis2Error

MIXTURE_FILE = "mixture.json"
_FORMAT = 1


@dataclasses.dataclass(frozen=True)
class Member:
    """One dataset of a mixture.

    ``dir``: its folder, relative to the mixture's. ``weight``: its share of a training batch, over the sum of all.
    ``modalities``: name in the mixture -> name there. ``classes``: for each of its classes the number in the
    joint legend, or 255 (ignored). ``card``: SHA-256 of its dataset card.
    """

    name: str
    dir: str
    weight: float
    modalities: dict[str, str]
    classes: tuple[int, ...]
    card: str


@dataclasses.dataclass(frozen=True)
class Mixture:
    """The members, in the order of their records."""

    members: tuple[Member, ...]

    def to_json(self) -> str:
        """Serialise."""
        members = [dataclasses.asdict(m) for m in self.members]
        return json.dumps({"format": _FORMAT, "members": members}, indent=1)

    @classmethod
    def load(cls, folder: str | Path) -> Mixture:
        """Read ``<folder>/mixture.json``. Raises ``Dis2Error`` when it cannot be read."""
        path = Path(folder) / MIXTURE_FILE
        again = "run `dis2 data mix` again"
        try:
            values = json.loads(path.read_text())
            if values["format"] != _FORMAT:
                raise Dis2Error(f"{path} is of format {values['format']}, not {_FORMAT}: {again}")
            members = [Member(**m | {"classes": tuple(m["classes"])}) for m in values["members"]]
        except (OSError, ValueError, KeyError, TypeError) as e:
            raise Dis2Error(f"{path} cannot be read ({type(e).__name__}: {e}): {again}") from e
        return cls(tuple(members))


def member_split(split: str, member: str) -> str:
    """Name of the split of a mixture that holds one member's tiles alone."""
    return f"{split}-{member}"


def card_digest(folder: Path) -> str:
    """SHA-256 of a dataset's card. ``Dis2Error`` when there is none."""
    try:
        return hashlib.sha256((folder / CARD_FILE).read_bytes()).hexdigest()
    except OSError as e:
        raise Dis2Error(
            f"{folder / CARD_FILE} cannot be read ({e.strerror}): is the member where it was mixed?"
        ) from e
