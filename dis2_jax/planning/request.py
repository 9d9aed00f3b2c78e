"""What one row of a plan asks for, and what came of it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any, Literal

from dis2_jax.config import Config
from dis2_jax.planning.facts import Facts
from dis2_jax.planning.topology import Topology, parse_topology
from dis2_jax.schema import DatasetCard

Reason = Literal["does not fit", "refused", "crashed", "timeout"]


@dataclasses.dataclass(frozen=True)
class Request:
    """One compilation: this config (strategy and batch included) on that machine."""

    topology: str
    config: Config
    card: DatasetCard
    tile: tuple[int, int]

    @property
    def machine(self) -> Topology:
        """The topology, read."""
        return parse_topology(self.topology)

    @property
    def key(self) -> str:
        """Name of the row's file: what plans usually vary. Requests that differ in nothing of it share a name."""
        sharding, model = self.config.sharding, self.config.model
        parts = [
            self.topology.replace(":", "-").replace("*", "x"),
            sharding.strategy,
            *([sharding.axes.replace(":", "").replace(",", "-")] if sharding.axes else []),
            f"b{self.config.data.batch_size}",
            "x".join(str(n) for n in dict.fromkeys(self.tile)),
            model.dtype,
            *([f"remat-{sharding.remat}"] if sharding.remat != "none" else []),
        ]
        return "_".join(parts)

    def to_json(self) -> str:
        """Serialise; ``from_json`` is the exact inverse."""
        return json.dumps(
            {
                "topology": self.topology,
                "config": self.config.to_dict(),
                "card": json.loads(self.card.to_json()),
                "tile": self.tile,
            }
        )

    @classmethod
    def from_json(cls, text: str) -> Request:
        """Parse what ``to_json`` wrote."""
        values = json.loads(text)
        return cls(
            topology=values["topology"],
            config=Config.from_dict(values["config"]),
            card=DatasetCard.from_json(json.dumps(values["card"])),
            tile=(values["tile"][0], values["tile"][1]),
        )


@dataclasses.dataclass(frozen=True)
class Failure:
    """Why a row has no facts."""

    reason: Reason
    message: str
    needed: int | None = None
    """Bytes of memory that the compiler wanted, where it said so."""


@dataclasses.dataclass(frozen=True)
class Row:
    """A request and its outcome: facts or a failure."""

    request: Request
    facts: Facts | None
    failure: Failure | None
    seconds: float
    """Wall clock of the whole worker."""
    scaled_from: str = ""
    """Topology that was compiled, where it is not the request's own (see ``scaling``)."""

    @property
    def fits(self) -> bool:
        """Compiled, and within the chip's memory."""
        if self.facts is None:
            return False
        chip = self.request.machine.chip
        return self.facts.memory.peak <= chip.memory // chip.devices_per_chip

    def to_json(self) -> str:
        """Serialise; ``from_json`` is the exact inverse."""
        return json.dumps(
            {
                "request": json.loads(self.request.to_json()),
                "facts": None if self.facts is None else dataclasses.asdict(self.facts),
                "failure": None if self.failure is None else dataclasses.asdict(self.failure),
                "seconds": self.seconds,
                "scaled_from": self.scaled_from,
            },
            indent=1,
        )

    @classmethod
    def from_json(cls, text: str) -> Row:
        """Parse what ``to_json`` wrote; ``KeyError`` or ``ValueError`` when it is something else."""
        values: Mapping[str, Any] = json.loads(text)
        return cls(
            request=Request.from_json(json.dumps(values["request"])),
            facts=None if values["facts"] is None else Facts.from_dict(values["facts"]),
            failure=None if values["failure"] is None else Failure(**values["failure"]),
            seconds=values["seconds"],
            scaled_from=values["scaled_from"],
        )
