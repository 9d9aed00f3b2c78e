"""Collectives of a compiled program: kind, bytes, and which devices talk to each other."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence

import numpy as np

from dis2_jax.schema import Dis2Error
from dis2_jax.sharding.hlo import Instruction, Module, parse_module

KINDS = (
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "all-to-all",
    "collective-permute",
    "collective-broadcast",
)
Groups = tuple[tuple[int, ...], ...]

_GROUPS = re.compile(
    r"replica_groups=("
    r"\{\{[^=]*?\}\}|\{\}"
    r"|\[[\d,]+\]<=\[[\d,]+\](?:T\([\d,]+\))?"
    r"|mesh\[[^\]]*\].*?\}(?=,|$|\s))"
)
_PAIRS = re.compile(r"source_target_pairs=\{(\{.*?\})\}")
_IOTA = re.compile(r"\[([\d,]+)\](?:<=\[([\d,]+)\])?(?:T\(([\d,]+)\))?")
_TRANSFER = re.compile(r'_xla_megascale_transfer_type="(\w+)"')
_CHANNEL = re.compile(r"channel_id=(\d+)")
_OP_NAME = re.compile(r'op_name="([^"]*)"')


@dataclasses.dataclass(frozen=True)
class Collective:
    """One collective instruction of the program that every device runs.

    ``size``: bytes of the whole buffer on one device: what an all-gather ends with, a reduce-scatter starts
    with, and what the others move. ``groups``: positions in the mesh (``mesh.devices.flat``); pairs (from, to) of a
    permute; one empty group: all devices.
    """

    kind: str
    size: int
    groups: Groups
    count: int
    """How often a step executes it."""
    op_name: str = ""
    """The JAX operation that it came from."""
    slices: int = 1
    """More: this is the part between so many TPU slices, over the data-centre network; ``groups`` is empty."""


def parse_collectives(text: str) -> list[Collective]:
    """Read a compiled program's text. An asynchronous pair counts once, one in a loop as often as it runs."""
    return collectives(parse_module(text))


def collectives(module: Module) -> list[Collective]:
    """Collectives in the order of the program."""
    found = []
    whole = {instruction.name for instruction, _ in module.executed()}
    channels = set[str]()
    scattered = _cut_sums(module)
    for instruction, count in module.executed(inside=True):
        if kind := _kind(instruction):
            kind = "reduce-scatter" if instruction.name in scattered else kind
            # A TPU spreads one over several fusions that go on beside it; they share its channel. Outside of fusions
            # a channel says nothing: JAX gives all collectives of a shard_map the same.
            channel = _CHANNEL.search(instruction.attributes)
            if channel and instruction.name not in whole:
                if channel[1] in channels:
                    continue
                channels.add(channel[1])
            found.append(_collective(module, instruction, kind, count))
        elif instruction.opcode == "send" and (transfer := _TRANSFER.search(instruction.attributes)):
            found.append(_between_slices(instruction, transfer[1], count))
    return found


def _cut_sums(module: Module) -> set[str]:
    """All-reduces of which a TPU's fusion keeps each device's part only: it is a reduce-scatter, named so."""
    return {
        instruction.name
        for computation, body in module.computations.items()
        if computation.startswith("all-reduce-scatter")
        for instruction in body
    }


def _between_slices(instruction: Instruction, transfer: str, count: int) -> Collective:
    """XLA hands what crosses TPU slices to its run time: a send with the name of a collective."""
    target = re.search(r'_xla_megascale_target="\{([\d,]+)\}', instruction.attributes)
    kind = transfer.lower().replace("_", "-")
    return Collective(
        kind=kind if kind in KINDS else "collective-permute",
        size=instruction.arrays[0].size,
        groups=(),
        count=count,
        slices=len(_numbers(target[1])) if target else 2,
    )


def _kind(instruction: Instruction) -> str | None:
    opcode = instruction.opcode.removesuffix("-start").replace("ragged-all-to-all", "all-to-all")
    return opcode if opcode in KINDS else None


def _collective(module: Module, instruction: Instruction, kind: str, count: int) -> Collective:
    inputs = sum(a.size for name in instruction.operands for a in module.shapes.get(name, ()))
    outputs = sum(a.size for a in instruction.arrays)
    if instruction.opcode.endswith("-start"):
        # The pair's type repeats the operands in front of the results (an all-reduce has results only).
        outputs = outputs if kind == "all-reduce" else max(outputs - inputs, 0)
    if kind == "collective-permute":
        outputs = inputs  # its start also carries two counters
    name = _OP_NAME.search(instruction.attributes)
    return Collective(
        kind=kind,
        size=inputs if kind in ("reduce-scatter", "all-to-all") else outputs,
        groups=parse_groups(instruction.attributes),
        count=count,
        op_name=name[1] if name else "",
    )


def parse_groups(attributes: str) -> Groups:
    """Read ``replica_groups=`` in any of XLA's forms, or a permute's ``source_target_pairs=``.

    ``{{0,1},{2,3}}``; ``[8,32]<=[256]``, also with a transpose ``T(1,0)``; ``mesh['a'=2,'b'=4] {'b'}``, also with
    ``device_ids=(...)`` and parts of axes ``'b':(1)2``. Raises ``Dis2Error`` for another one.
    """
    if pairs := _PAIRS.search(attributes):
        return _explicit(pairs[1])
    found = _GROUPS.search(attributes)
    if not found:
        raise Dis2Error(f"HLO text: no replica groups in {attributes[:200]!r}")
    text = found[1]
    if text.startswith("mesh"):
        return _from_mesh(text)
    if text.startswith("["):
        return _tuples(_iota(text))
    return _explicit(text[1:-1])


def _explicit(text: str) -> Groups:
    groups = re.findall(r"\{([\d,\s]*)\}", text)
    return tuple(tuple(int(n) for n in g.split(",") if n.strip()) for g in groups) or ((),)


def _iota(text: str) -> np.ndarray:
    """``[2,8]<=[16]T(0)``: 0.. shaped by the second brackets, transposed, then shaped by the first."""
    match = _IOTA.fullmatch(text)
    if not match:
        raise Dis2Error(f"HLO text: device list {text!r} is not understood")
    shape = _numbers(match[1])
    source = _numbers(match[2]) if match[2] else shape
    array = np.arange(int(np.prod(source))).reshape(source)
    if match[3]:
        array = array.transpose(_numbers(match[3]))
    return array.reshape(shape) if match[2] else array


def _from_mesh(text: str) -> Groups:
    """Devices along the named axes are together."""
    axes = re.match(r"mesh\[([^\]]*)\]", text)
    chosen = re.search(r"\{([^{}]*)\}$", text)
    if not axes or not chosen:
        raise Dis2Error(f"HLO text: replica groups {text[:200]!r} are not understood")
    sizes = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", axes[1])}
    listed = re.search(r"device_ids=\((.*?)\)(?=\s|$)", text)
    ids = _device_ids(listed[1]) if listed else np.arange(int(np.prod([*sizes.values()])))
    parts = re.findall(r"'([^']+)'(?::\((\d+)\)(\d+))?", chosen[1])
    # Split every axis that is used in part: (before, part, after).
    shape: list[int] = []
    together: list[int] = []
    for name, size in sizes.items():
        for axis, before, part in parts:
            if axis == name:
                pre, length = (int(before), int(part)) if part else (1, size)
                together.append(len(shape) + 1)
                shape += [pre, length, size // (pre * length)]
                break
        else:
            shape.append(size)
    array = ids.reshape(shape)
    apart = [i for i in range(len(shape)) if i not in together]
    n = int(np.prod([shape[i] for i in together])) if together else 1
    return _tuples(array.transpose(*apart, *together).reshape(-1, n))


def _device_ids(text: str) -> np.ndarray:
    return _iota(text).ravel() if text.startswith("[") else np.array(_numbers(text))


def _numbers(text: str) -> list[int]:
    return [int(n) for n in text.split(",") if n.strip()]


def _tuples(array: np.ndarray) -> Groups:
    rows: Sequence[Sequence[int]] = array.reshape(-1, array.shape[-1]).tolist()
    return tuple(tuple(row) for row in rows)
