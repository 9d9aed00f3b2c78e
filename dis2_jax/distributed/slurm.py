"""A process that ``srun`` started. No JAX.

JAX detects SLURM too, but takes one device per process for granted; here the layout is chosen and checked.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal

from dis2_jax.distributed.place import Asked, Place, number
from dis2_jax.schema import Dis2Error

_WHY = "it is set by srun; start with `srun dis2 train ...`"


def slurm_place(asked: Asked, environment: Mapping[str, str], *, layout: Literal["gpu", "node"]) -> Place:
    """Place of a task: ``gpu``: one task per GPU; ``node``: one task per node, which uses all of its GPUs.

    Raises ``Dis2Error`` when the tasks of the step do not fit the layout.
    """
    processes = number(environment, "SLURM_NTASKS", why=_WHY)
    index = number(environment, "SLURM_PROCID", why=_WHY)
    on_node = _GpusOnNode.read(environment)
    if layout == "node":
        nodes = _number_of_nodes(environment)
        if processes != nodes:
            raise Dis2Error(
                f"--distributed slurm-node: {processes} tasks on {nodes} nodes; one task per node is wanted:"
                " srun --ntasks-per-node=1, or --distributed slurm-gpu"
            )
        devices, expected = asked.local_devices, len(asked.local_devices) or on_node.visible or None
    else:
        devices, expected = _own_gpu(environment, on_node), 1
    return Place(
        coordinator=asked.coordinator or _coordinator(environment),
        processes=processes,
        index=index,
        local_devices=devices,
        expected_devices=asked.expected_devices or expected,
    )


def first_host(nodes: str) -> str:
    """First name of a SLURM node list: ``a[003-5,7],b`` -> ``a003``. Raises ``Dis2Error`` if it is none."""
    match = re.match(r"([^\[,]+)(?:\[([0-9]+)[^\]]*\]([^,\[]*))?", nodes)
    if not match:
        raise Dis2Error(f"SLURM_STEP_NODELIST {nodes!r} is no list of nodes: give --coordinator host:port")
    prefix, first, suffix = match.groups()
    return f"{prefix}{first or ''}{suffix or ''}"


class _GpusOnNode:
    """GPUs of this node, as SLURM and CUDA tell; None: they do not."""

    def __init__(self, *, allotted: int | None, visible: int | None) -> None:
        self.allotted, self.visible = allotted, visible

    @classmethod
    def read(cls, environment: Mapping[str, str]) -> _GpusOnNode:
        text = environment.get("SLURM_GPUS_ON_NODE", "")
        allotted = int(text) if text.isdecimal() else None
        listed = environment.get("CUDA_VISIBLE_DEVICES")
        visible = len([g for g in listed.split(",") if g.strip()]) if listed is not None else allotted
        return cls(allotted=allotted, visible=visible)


def _own_gpu(environment: Mapping[str, str], on_node: _GpusOnNode) -> tuple[int, ...]:
    """Number of this task's GPU among those that it sees."""
    local = number(environment, "SLURM_LOCALID", why=_WHY)
    tasks = _tasks_here(environment)
    if on_node.allotted is not None and tasks is not None and tasks != on_node.allotted:
        raise Dis2Error(
            f"--distributed slurm-gpu: {tasks} tasks for the {on_node.allotted} GPUs of this node; one each is"
            " wanted: srun --ntasks-per-node=<GPUs per node>, or --distributed slurm-node"
        )
    if on_node.visible == 1:  # srun --gpus-per-task=1 and such show each task its own only
        return (0,)
    if on_node.visible is not None and local >= on_node.visible:
        raise Dis2Error(
            f"--distributed slurm-gpu: task {local} of this node sees {on_node.visible} GPUs and has none of its"
            " own: ask for as many GPUs as tasks (sbatch --gpus-per-node)"
        )
    return (local,)


def _tasks_here(environment: Mapping[str, str]) -> int | None:
    """Read this node's entry of ``SLURM_STEP_TASKS_PER_NODE``, such as ``4(x2),3``."""
    counts: list[int] = []
    for count, times in re.findall(r"(\d+)(?:\(x(\d+)\))?", environment.get("SLURM_STEP_TASKS_PER_NODE", "")):
        counts += [int(count)] * int(times or 1)
    node = environment.get("SLURM_NODEID", "")
    return counts[int(node)] if node.isdecimal() and int(node) < len(counts) else None


def _number_of_nodes(environment: Mapping[str, str]) -> int:
    name = "SLURM_STEP_NUM_NODES" if "SLURM_STEP_NUM_NODES" in environment else "SLURM_NNODES"
    return number(environment, name, why=_WHY)


def _coordinator(environment: Mapping[str, str]) -> str:
    """Task 0's node; a port that two steps on one node hardly share, from the job's and the step's number."""
    nodes = environment.get("SLURM_STEP_NODELIST") or environment.get("SLURM_NODELIST", "")
    if not nodes:
        raise Dis2Error(f"environment variable SLURM_STEP_NODELIST is not set: {_WHY}")
    job = number(environment, "SLURM_JOB_ID", why=_WHY)
    step = environment.get("SLURM_STEP_ID", "0")
    return f"{first_host(nodes)}:{10240 + (31 * job + int(step or 0)) % 20000}"
