"""What a job leaves: its records back to back in a part file, and a summary that says all about them."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dis2_jax.data.builders.statistics import ChannelMoments
from dis2_jax.data.places import Place
from dis2_jax.data.preparing.inputs import InputFile


@dataclasses.dataclass(frozen=True)
class RecordNote:
    """A record of a part: its tile, bytes, digest, and where in a scene it lies if it does."""

    tile_id: str
    size: int
    digest: str
    place: Place | None


@dataclasses.dataclass(frozen=True)
class JobSummary:
    """What a finished job made. Read back from JSON it is exactly what was written, to the last bit.

    ``class_pixels`` has K + 1 numbers, ignored pixels last; ``moments`` are of training jobs only; ``inputs`` are
    named as in ``Job.inputs``; ``dropped`` and ``noted`` count by text.
    """

    records: tuple[RecordNote, ...]
    class_pixels: tuple[int, ...]
    moments: Mapping[str, ChannelMoments]
    inputs: Mapping[str, InputFile]
    dropped: Mapping[str, int]
    noted: Mapping[str, int]

    @property
    def size(self) -> int:
        """Bytes of the part."""
        return sum(r.size for r in self.records)

    def to_json(self) -> str:
        """Serialise."""
        return json.dumps(
            {
                "records": [
                    [r.tile_id, r.size, r.digest, r.place and dataclasses.astuple(r.place)]
                    for r in self.records
                ],
                "class_pixels": self.class_pixels,
                "moments": {name: m.to_list() for name, m in self.moments.items()},
                "inputs": {path: dataclasses.astuple(f) for path, f in self.inputs.items()},
                "dropped": dict(self.dropped),
                "noted": dict(self.noted),
            },
            separators=(",", ":"),
        )

    @classmethod
    def load(cls, path: Path) -> JobSummary:
        """Read a summary. Raises ``OSError`` and ``ValueError``."""
        try:
            d: dict[str, Any] = json.loads(path.read_text())
            return cls(
                records=tuple(RecordNote(i, n, h, p and Place(*p)) for i, n, h, p in d["records"]),
                class_pixels=tuple(d["class_pixels"]),
                moments={name: ChannelMoments.of_list(m) for name, m in d["moments"].items()},
                inputs={name: InputFile(*f) for name, f in d["inputs"].items()},
                dropped=d["dropped"],
                noted=d["noted"],
            )
        except (KeyError, TypeError) as e:
            raise ValueError(f"{path}: {e}") from e


def digest(record: bytes) -> str:
    """Tell a record from every other."""
    return hashlib.blake2b(record, digest_size=12).hexdigest()
