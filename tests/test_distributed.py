"""Start-up of several processes, from fake environments; what they agree on; the watchdog. No second process."""

from __future__ import annotations

import dataclasses
import errno
import json
import re
import time

import numpy as np
import pytest

from dis2_jax.cli.main import main
from dis2_jax.config import Config, DataConfig, TrainConfig
from dis2_jax.distributed import agreement, jointly
from dis2_jax.distributed.agreement import config_part, disagreement
from dis2_jax.distributed.choose import choose_place
from dis2_jax.distributed.exit_status import LOST
from dis2_jax.distributed.hosts import ssh_place
from dis2_jax.distributed.jointly import JointError, name_processes
from dis2_jax.distributed.place import Asked, Place
from dis2_jax.distributed.slurm import first_host
from dis2_jax.distributed.watchdog import Watchdog
from dis2_jax.schema import Dis2Error

SLURM = {
    "SLURM_JOB_ID": "812345",
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NODELIST": "gpu[007-008]",
    "SLURM_STEP_NUM_NODES": "2",
    "SLURM_NTASKS": "8",
    "SLURM_STEP_TASKS_PER_NODE": "4(x2)",
    "SLURM_PROCID": "5",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "1",
    "SLURM_GPUS_ON_NODE": "4",
    "CUDA_VISIBLE_DEVICES": "0,1,2,3",
}
JOBSET = {
    "JOBSET_NAME": "potsdam",
    "REPLICATED_JOB_NAME": "slice",
    "JOBS": "2",
    "PODS_PER_JOB": "4",
    "JOB_INDEX": "1",
    "JOB_COMPLETION_INDEX": "2",
}


def place(method: str, environment: dict[str, str] | None = None, **asked: object) -> Place | None:
    return choose_place(Asked(method, **asked), environment or {})  # type: ignore[arg-type]


def test_one_process_needs_nothing() -> None:
    assert place("none", SLURM) is None


def test_local_processes_by_flags_or_environment() -> None:
    environment = {"DIS2_COORDINATOR": "localhost:4000", "DIS2_PROCESSES": "3", "DIS2_PROCESS_ID": "2"}
    assert place("local", environment) == Place("localhost:4000", 3, 2)
    flags = {"processes": 2, "index": 0, "coordinator": "localhost:5000", "local_devices": (1,)}
    assert place("local", environment, **flags) == Place("localhost:5000", 2, 0, (1,))


def test_ssh_hosts_by_name_or_by_hand() -> None:
    asked = Asked("ssh", hosts=("a.lab", "b.lab", "c.lab"))
    assert ssh_place(asked, {}, host="b") == Place("a.lab:10217", 3, 1)
    assert ssh_place(Asked("ssh"), {"DIS2_HOSTS": "a b"}, host="b.lab") == Place("a:10217", 2, 1)
    assert place("ssh", coordinator="a:1", processes=2, index=1) == Place("a:1", 2, 1)
    assert ssh_place(Asked("ssh", hosts=("a.lab", "a.org")), {}, host="a.org") == Place("a.lab:10217", 2, 1)
    with pytest.raises(Dis2Error, match=r"this host, d, is not .* in --hosts a\.lab,b\.lab,c\.lab"):
        ssh_place(asked, {}, host="d")


def test_slurm_task_per_gpu() -> None:
    found = place("slurm-gpu", SLURM)
    assert found is not None
    assert (found.processes, found.index, found.local_devices, found.expected_devices) == (8, 5, (1,), 1)
    assert found.coordinator is not None
    assert re.fullmatch(r"gpu007:\d{5}", found.coordinator)
    assert found.coordinator == place("slurm-gpu", {**SLURM, "SLURM_PROCID": "0"}).coordinator  # type: ignore[union-attr]
    bound = {**SLURM, "CUDA_VISIBLE_DEVICES": "1"}  # srun --gpus-per-task=1
    assert place("slurm-gpu", bound).local_devices == (0,)  # type: ignore[union-attr]


def test_slurm_task_per_node() -> None:
    node = {**SLURM, "SLURM_NTASKS": "2", "SLURM_STEP_TASKS_PER_NODE": "1(x2)", "SLURM_PROCID": "1"}
    found = place("slurm-node", node)
    assert found is not None
    assert (found.processes, found.index, found.local_devices, found.expected_devices) == (2, 1, (), 4)
    some = place("slurm-node", node, local_devices=(0, 2))
    assert some is not None
    assert (some.local_devices, some.expected_devices) == ((0, 2), 2)
    assert place("slurm-node", {**node, "CUDA_VISIBLE_DEVICES": ""}).expected_devices is None  # type: ignore[union-attr]


def test_jobset_pods_of_several_jobs() -> None:
    assert place("k8s", JOBSET) == Place("potsdam-slice-0-0.potsdam:10217", 8, 6)
    one = {k: v for k, v in JOBSET.items() if k not in ("JOBS", "JOB_INDEX")}
    assert place("k8s", one) == Place("potsdam-slice-0-0.potsdam:10217", 4, 2)


def test_tpu_finds_out_by_itself() -> None:
    assert place("tpu", expected_devices=4) == Place(expected_devices=4)


@pytest.mark.parametrize(
    ("method", "environment", "asked", "told"),
    [
        ("local", {}, {}, r"DIS2_PROCESSES is not set: give --processes N"),
        ("local", {}, {"processes": 2, "index": 2}, r"process 2 of 2: numbers run from 0"),
        ("local", {}, {"processes": 2, "index": 0, "coordinator": "here"}, r"'here': write host:port"),
        ("local", {}, {"hosts": ("a",)}, r"--hosts does not go with --distributed local, only with ssh"),
        ("none", {}, {"processes": 2}, r"--processes does not go with --distributed none"),
        ("ssh", {}, {}, r"give --hosts a,b,c, or --coordinator"),
        ("ssh", {}, {"hosts": ("a", "a")}, r"a host is named twice"),
        ("ssh", {}, {"hosts": ("a", "b"), "processes": 3}, r"--processes 3 with 2 hosts"),
        ("slurm-gpu", {}, {}, r"SLURM_NTASKS is not set: it is set by srun"),
        ("slurm-gpu", {**SLURM, "SLURM_GPUS_ON_NODE": "8"}, {}, r"4 tasks for the 8 GPUs of this node"),
        (
            "slurm-gpu",
            {**SLURM, "SLURM_STEP_TASKS_PER_NODE": "", "SLURM_LOCALID": "4"},
            {},
            r"task 4 of this node sees 4 GPUs and has none",
        ),
        ("slurm-node", SLURM, {}, r"8 tasks on 2 nodes; one task per node is wanted"),
        ("k8s", {}, {}, r"PODS_PER_JOB is not set: the pod's env must set it"),
        ("k8s", {**JOBSET, "JOB_COMPLETION_INDEX": "4"}, {}, r"the job has more pods than told"),
        ("k8s", {**JOBSET, "JOBSET_NAME": ""}, {}, r"JOBSET_NAME is not set"),
    ],
)
def test_what_does_not_fit_is_told(
    method: str, environment: dict[str, str], asked: dict[str, object], told: str
) -> None:
    with pytest.raises(Dis2Error, match=told):
        place(method, environment, **asked)


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("node7", "node7"),
        ("node7,node8", "node7"),
        ("gpu[003-005,9],b1", "gpu003"),
        ("r[1,4]-ib", "r1-ib"),
        ("a-b-[10-12]", "a-b-10"),
    ],
)
def test_first_host_of_a_node_list(nodes: str, first: str) -> None:
    assert first_host(nodes) == first


def test_disagreement_names_part_key_process_and_values() -> None:
    config = Config()
    odd = dataclasses.replace(config, train=TrainConfig(seed=7))
    texts = [json.dumps(config_part(c)) for c in (config, config, odd, config)]
    assert disagreement("config", texts) == (
        "the processes do not agree on the config: train.seed is 7 on process 2, 0 on the others"
    )
    cards = [{"name": "a", "modalities": [{"mean": m}]} for m in (1.0, 2.0, 2.0)]
    assert "modalities.0.mean is 1.0 on process 0, 2.0 on the others" in disagreement(
        "data card", [json.dumps(c) for c in cards]
    )


def test_every_part_is_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three calls stand for three processes, of which the last has another seed."""
    digests: list[np.ndarray] = []
    monkeypatch.setattr(agreement, "several", lambda: True)
    monkeypatch.setattr(
        agreement.multihost_utils, "process_allgather", lambda x: digests.append(x) or np.stack(digests)
    )
    monkeypatch.setattr(agreement, "gather_texts", lambda text: ('{"seed": 0}', '{"seed": 0}', text))
    parts = {"code": {"jax": "1"}, "config": {"seed": 0}, "card": ["a"]}
    agreement.check_agreement(parts)
    agreement.check_agreement(parts)
    with pytest.raises(JointError, match="on the config: seed is 7 on process 2, 0 on the others"):
        agreement.check_agreement({**parts, "config": {"seed": 7}})


def test_hosts_may_keep_their_data_where_they_like() -> None:
    a, b = (Config(data=DataConfig(dir=d, workers=w)) for d, w in (("/a", 1), ("/b", 2)))
    assert config_part(a) == config_part(b)


def test_processes_are_named_in_runs() -> None:
    assert name_processes([4]) == "process 4"
    assert name_processes([0, 1, 2, 5]) == "processes 0-2, 5"


def test_watchdog_ends_a_process_that_stands_still(capfd: pytest.CaptureFixture) -> None:
    ended: list[int] = []
    with Watchdog(1, who="process 1 of 2", end=ended.append) as watchdog:
        watchdog.expect("starting")
        watchdog.expect("step 4")
        while not ended:
            time.sleep(0.05)
    assert ended == [LOST]
    told = capfd.readouterr().err
    assert "process 1 of 2: no progress for 1 s in step 4: it is stuck" in told
    assert "test_watchdog_ends_a_process" in told  # where it stood


def test_watchdog_gives_more_time_where_that_is_normal() -> None:
    ended: list[int] = []
    with Watchdog(0.2, end=ended.append) as watchdog:
        since = time.monotonic()
        watchdog.expect("compiling", long=True)
        while not ended:
            time.sleep(0.05)
        assert time.monotonic() - since >= 6 * 0.2


def test_flags_are_checked_before_anything_starts(capsys: pytest.CaptureFixture) -> None:
    for arguments, told in (
        (["--processes", "2"], "--processes does not go with --distributed none"),
        (["--heartbeat-seconds", "0"], "--heartbeat-seconds 0: it must be at least 1"),
        (["--local-devices", "gpu0"], "--local-devices 'gpu0': write numbers, such as 0,1"),
    ):
        assert main(["train", "--workdir", "nowhere", *arguments]) == 2
        assert told in capsys.readouterr().err


def test_full_disk_of_one_process_is_told_by_all(monkeypatch):
    monkeypatch.setattr(jointly, "several", lambda: True)
    monkeypatch.setattr(jointly, "gather_texts", lambda text: ("", text))
    with pytest.raises(JointError, match=r"^process 1: /runs/a: the disk is full"), jointly.jointly():
        raise OSError(errno.ENOSPC, "No space left on device", "/runs/a")
    monkeypatch.setattr(jointly, "gather_texts", lambda text: pytest.fail("the others wait in vain"))
    with pytest.raises(PermissionError), jointly.jointly():
        raise PermissionError(errno.EACCES, "Permission denied", "/runs/a")
