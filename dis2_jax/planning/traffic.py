"""Bytes through main memory and the compiler's cycle estimates, read off a compiled program's text."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence

from dis2_jax.sharding.hlo import Array, Instruction, Module

_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_SENTINEL = 2**62
"""Cycle counts from here on mean: not estimated."""
_FREE = frozenset(
    (
        *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "domain"),
        *("partition-id", "replica-id", "iota", "while", "call", "conditional", "opt-barrier"),
    )
)
_PARTIAL = frozenset(("slice", "dynamic-slice", "gather", "slice-start", "dynamic-slice-start"))
"""They read no more of an operand than they return."""


@dataclasses.dataclass(frozen=True)
class Traffic:
    """Of one step on one device."""

    bytes: int
    """Read and written by all instructions, elements only."""
    padded_bytes: int
    """The same with the padding of the layouts: what crosses the memory bus."""
    cycles: int | None
    """Sum of the compiler's estimates; None where it gives none."""
    estimated: int
    """Instructions with an estimate."""
    instructions: int
    """That move bytes."""


def measure_traffic(module: Module) -> Traffic:
    """Count what the program's top-level instructions move: a fusion reads its operands and writes its results once.

    Arrays that a TPU keeps on the chip (layouts with ``S(1)``) cost nothing; copies to and from there count once.
    """
    plain = padded = cycles = estimated = instructions = 0
    for instruction, times in module.executed():
        if found := _CYCLES.search(instruction.attributes):
            value = int(found[1])
            if value < _SENTINEL:
                cycles += times * value
                estimated += times
        if instruction.opcode in _FREE:
            continue
        moved = _moved(module, instruction)
        if moved:
            instructions += times
            plain += times * sum(a.size for a in moved)
            padded += times * sum(a.padded for a in moved)
    return Traffic(plain, padded, cycles if estimated else None, estimated, instructions)


def _moved(module: Module, instruction: Instruction) -> list[Array]:
    """Arrays in main memory that the instruction reads or writes."""
    operands = [a for name in instruction.operands for a in module.shapes.get(name, ())]
    opcode = instruction.opcode
    if opcode.endswith("-done"):
        return []
    if opcode.endswith("-start"):
        return _asynchronous(instruction, operands)
    results = list(instruction.arrays)
    if opcode in _PARTIAL:
        operands = results if any(a.in_memory for a in operands[:1]) else []
    if opcode == "dynamic-update-slice":  # in place: the update is read and written
        operands, results = operands[1:2], operands[1:2]
    return [a for a in (*operands, *results) if a.in_memory]


def _asynchronous(instruction: Instruction, operands: Sequence[Array]) -> list[Array]:
    """A start moves its operand and its result; its type names both, and a counter."""
    arrays = instruction.arrays
    if not operands:
        return []
    if instruction.opcode == "copy-start":  # (result, operand, counter)
        return [a for a in arrays[:2] if a.in_memory]
    if instruction.opcode in _PARTIAL:  # ((operand), result, counter)
        result = arrays[len(operands)] if len(arrays) > len(operands) else arrays[-1]
        read = [dataclasses.replace(result, layout="")] if operands[0].in_memory else []
        return read + ([result] if result.in_memory else [])
    if instruction.opcode == "all-reduce-start":  # its type is the result alone
        arrays = (*operands, *arrays)
    return [a for a in arrays if a.in_memory]
