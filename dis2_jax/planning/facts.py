"""What one compilation tells: plain dataclasses that go to JSON and back."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes on one device, by XLA's buffer assignment."""

    arguments: int
    outputs: int
    aliased: int
    """Outputs that take the place of arguments (the donated state)."""
    temporaries: int
    code: int

    @property
    def peak(self) -> int:
        """All that is alive at once: TPUs keep the program in HBM too."""
        return self.arguments + self.outputs - self.aliased + self.temporaries + self.code


@dataclasses.dataclass(frozen=True)
class Exchange:
    """Collectives of one kind over equal groups, of one step."""

    kind: str
    count: int
    """How many are executed."""
    bytes: int
    """Their buffers together, on one device (see ``sharding.collectives.Collective.size``)."""
    devices: int
    """In a group."""
    extents: tuple[int, ...] = ()
    """Chips of a group along each dimension of a slice's torus; (chips per host,) without one."""
    islands: int = 1
    """Slices or hosts that a group reaches over: between them runs the slower network."""


@dataclasses.dataclass(frozen=True)
class Facts:
    """Of the compiled step, per device where nothing else is said."""

    devices: int
    memory: Memory
    model_flops: float
    """Matrix products and convolutions of the step without rematerialisation, counted before XLA, over the devices."""
    flops: float
    """The same of the compiled step, with what is recomputed or done twice."""
    flops_source: str
    """Who counted ``flops``."""
    bytes_accessed: int
    padded_bytes: int
    cycles: int | None
    """Sum of the TPU compiler's estimates, without collectives."""
    instructions: int
    exchanges: tuple[Exchange, ...]
    parameters: int
    lower_seconds: float
    """Tracing and lowering."""
    compile_seconds: float
    versions: Mapping[str, str]

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Facts:
        """Read what ``dataclasses.asdict`` and JSON made of one."""
        return cls(
            **{
                **values,
                "memory": Memory(**values["memory"]),
                "exchanges": tuple(
                    Exchange(**{**e, "extents": tuple(e["extents"])}) for e in values["exchanges"]
                ),
            }
        )
