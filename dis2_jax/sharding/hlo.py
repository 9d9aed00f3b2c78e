"""Read compiled HLO text: computations, instructions, shapes and their bytes, loops."""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections.abc import Iterator, Mapping

from dis2_jax.schema import Dis2Error

_BITS = {"pred": 8, "token": 0, "opaque": 0, "c64": 64, "c128": 128}
_DTYPE = re.compile(r"(?:bf|f|s|u)(\d+)(?:e\w+)?")
_ARRAY = re.compile(r"([a-z]\w*)\[([\d,<=?]*)\](?:\{([^{}]*)\})?")
_HEADER = re.compile(r"(ENTRY )?%?([\w.~-]+) \(.*\) -> .* \{")
_INSTRUCTION = re.compile(r"\s+(?:ROOT )?%?([\w.~-]+) = (.*)")
_CALLS = frozenset(("while", "call", "conditional"))
_WRAPS = frozenset(("fusion", "async-start"))
_CALLEES = re.compile(
    r"(?:body|to_apply|calls|true_computation|false_computation)=%?([\w.~-]+)|branch_computations=\{([^}]*)\}"
)
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')


@dataclasses.dataclass(frozen=True)
class Array:
    """One array type with its layout, as HLO prints it."""

    dtype: str
    dims: tuple[int, ...]
    layout: str = ""

    @property
    def bits(self) -> int:
        """Of one element."""
        match = _DTYPE.fullmatch(self.dtype)
        if not match and self.dtype not in _BITS:
            raise Dis2Error(f"HLO text: unknown element type {self.dtype!r}")
        return int(match[1]) if match else _BITS[self.dtype]

    @property
    def size(self) -> int:
        """Bytes of the elements alone."""
        return math.prod(self.dims) * self.bits // 8

    @property
    def in_memory(self) -> bool:
        """Whether it lies in the device's main memory: TPU layouts name another with ``S(1)`` and so on."""
        return "S(" not in self.layout

    @property
    def padded(self) -> int:
        """Bytes that it takes: a TPU pads the last two dimensions in memory to tiles such as ``T(8,128)``."""
        order, _, rest = self.layout.partition(":")
        tile = re.match(r"T\(([\d,]+)\)", rest)
        if not tile or not self.dims:
            return self.size
        minor = [int(i) for i in order.split(",") if i]
        physical = [self.dims[i] for i in reversed(minor)]
        sides = [int(n) for n in tile[1].split(",")][-len(physical) :]
        for i, side in zip(range(len(physical) - len(sides), len(physical)), sides, strict=True):
            physical[i] = -(-physical[i] // side) * side
        return math.prod(physical) * self.bits // 8


@dataclasses.dataclass(frozen=True)
class Instruction:
    """``name = type opcode(operands), attributes``; a tuple type has several arrays."""

    name: str
    arrays: tuple[Array, ...]
    opcode: str
    operands: tuple[str, ...]
    arguments: str
    """What stands between the parentheses: operands, a parameter's number, a constant's value."""
    attributes: str


@dataclasses.dataclass(frozen=True)
class Module:
    """Computations by name."""

    entry: str
    computations: Mapping[str, tuple[Instruction, ...]]

    @functools.cached_property
    def shapes(self) -> dict[str, tuple[Array, ...]]:
        """Type of every instruction; names are unique in a compiled module."""
        return {i.name: i.arrays for body in self.computations.values() for i in body}

    def executed(self, *, inside: bool = False) -> Iterator[tuple[Instruction, int]]:
        """Every instruction that a step executes and how often: loops unrolled, fusions left whole.

        ``inside``: also what fusions and asynchronous starts are made of. Of a conditional's branches all are counted.
        A loop whose length the text does not tell counts once.
        """
        yield from self._executed(self.entry, 1, _CALLS | _WRAPS if inside else _CALLS)

    def _executed(self, name: str, times: int, through: frozenset[str]) -> Iterator[tuple[Instruction, int]]:
        for instruction in self.computations[name]:
            yield instruction, times
            if instruction.opcode in through:
                inner = times * (self.trip_count(instruction) if instruction.opcode == "while" else 1)
                for callee in _callees(instruction):
                    yield from self._executed(callee, inner, through)

    def trip_count(self, loop: Instruction) -> int:
        """Passes of a ``while``: what XLA noted, else the one constant of its condition, else 1."""
        if known := _TRIPS.search(loop.attributes):
            return int(known[1])
        condition = re.search(r"condition=%?([\w.~-]+)", loop.attributes)
        constants = [
            int(i.arguments)
            for i in self.computations.get(condition[1] if condition else "", ())
            if i.opcode == "constant" and i.arguments.isdigit()
        ]
        return constants[0] if len(constants) == 1 else 1


def parse_module(text: str) -> Module:
    """Read ``compiled.as_text()``; ``Dis2Error`` when it is no HLO module."""
    computations: dict[str, tuple[Instruction, ...]] = {}
    entry, name, body = "", "", list[Instruction]()
    for line in text.splitlines():
        if header := _HEADER.match(line):
            name, body = header[2], []
            entry = name if header[1] else entry
        elif line.startswith("}") and name:
            computations[name], name = tuple(body), ""
        elif name and (match := _INSTRUCTION.match(line)):
            body.append(_instruction(match[1], match[2]))
    if not entry:
        raise Dis2Error("HLO text: no ENTRY computation in it")
    return Module(entry, computations)


def parse_arrays(text: str) -> tuple[Array, ...]:
    """Read a type: one array, or the arrays of a tuple."""
    return tuple(
        Array(dtype, tuple(int(d.lstrip("<=")) for d in dims.split(",") if d), layout)
        for dtype, dims, layout in _ARRAY.findall(text)
    )


def _instruction(name: str, text: str) -> Instruction:
    end = _closing(text, 0) if text.startswith("(") else text.index(" ")
    kind, rest = text[:end], text[end:].lstrip()
    opcode, _, _ = rest.partition("(")
    start = len(opcode)
    stop = _closing(rest, start)
    arguments = rest[start + 1 : stop - 1]
    return Instruction(
        name=name,
        arrays=parse_arrays(kind),
        opcode=opcode,
        operands=tuple(re.findall(r"%([\w.~-]+)", arguments)),
        arguments=arguments,
        attributes=rest[stop:],
    )


def _closing(text: str, start: int) -> int:
    """Index after the parenthesis that closes the one at ``start``."""
    depth = 0
    for match in re.compile(r"[()]").finditer(text, start):
        depth += 1 if match[0] == "(" else -1
        if depth == 0:
            return match.end()
    return len(text)


def _callees(instruction: Instruction) -> Iterator[str]:
    for one, several in _CALLEES.findall(instruction.attributes):
        yield from [one] if one else [n.strip().lstrip("%") for n in several.split(",")]
