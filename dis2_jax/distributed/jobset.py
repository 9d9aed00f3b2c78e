"""A pod of a Kubernetes JobSet, as ``launch/gke_jobset.yaml`` sets it up. No JAX.

JAX's own detection asks the Kubernetes API, for which a pod needs a package and rights. What it would learn there
the JobSet can put into the environment: names through the downward API, the pod's number by Kubernetes itself.
"""

from __future__ import annotations

from collections.abc import Mapping

from dis2_jax.distributed.hosts import COORDINATOR
from dis2_jax.distributed.place import PORT, Asked, Place, check_address, number
from dis2_jax.schema import Dis2Error

_WHY = "the pod's env must set it, see launch/gke_jobset.yaml"


def jobset_place(asked: Asked, environment: Mapping[str, str]) -> Place:
    """Place of a pod: ``JOB_INDEX`` * ``PODS_PER_JOB`` + ``JOB_COMPLETION_INDEX``, of ``JOBS`` * ``PODS_PER_JOB``.

    Process 0 is reached by the name that JobSet gives the first pod. ``JOB_INDEX`` and ``JOBS`` may be left out
    where there is one job.
    """
    pods = number(environment, "PODS_PER_JOB", why=_WHY)
    pod = number(
        environment, "JOB_COMPLETION_INDEX", why="Kubernetes sets it where completionMode is Indexed"
    )
    jobs = number(environment, "JOBS", why=_WHY) if "JOBS" in environment else 1
    job = number(environment, "JOB_INDEX", why=_WHY) if jobs > 1 else 0
    if pod >= pods:
        raise Dis2Error(
            f"JOB_COMPLETION_INDEX {pod} with PODS_PER_JOB {pods}: the job has more pods than told"
        )
    return Place(
        coordinator=asked.coordinator or environment.get(COORDINATOR) or _first_pod(environment),
        processes=jobs * pods,
        index=job * pods + pod,
        local_devices=asked.local_devices,
        expected_devices=asked.expected_devices,
    )


def _first_pod(environment: Mapping[str, str]) -> str:
    names = {}
    for name in ("JOBSET_NAME", "REPLICATED_JOB_NAME"):
        names[name] = environment.get(name, "")
        if not names[name]:
            raise Dis2Error(f"environment variable {name} is not set: {_WHY}")
    jobset, job = names["JOBSET_NAME"], names["REPLICATED_JOB_NAME"]
    address = f"{jobset}-{job}-0-0.{jobset}:{PORT}"
    check_address(address)
    return address
