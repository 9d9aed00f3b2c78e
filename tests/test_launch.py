"""The launch scripts, with stand-ins for what they start: when they start again, and what they run."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
import yaml

from dis2_jax.cli.main import build_parser
from dis2_jax.distributed.choose import choose_place
from dis2_jax.distributed.place import Asked, Place

LAUNCH = Path(__file__).parents[1] / "launch"

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")


def script(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(f"#!/usr/bin/env bash\n{text}\n")
    path.chmod(0o755)
    return path


def run(name: str, *arguments: object, **variables: str) -> subprocess.CompletedProcess[str]:
    command = ["bash", str(LAUNCH / name), *map(str, arguments)]
    return subprocess.run(
        command, env={**os.environ, **variables}, capture_output=True, text=True, timeout=120, check=False
    )


def test_local_processes_start_again_until_done(tmp_path: Path) -> None:
    """The first time process 1 is killed, then it loses its peer, then both finish."""
    worker = script(
        tmp_path,
        "worker",
        f"""
echo "I am $DIS2_PROCESS_ID of $DIS2_PROCESSES at $DIS2_COORDINATOR with $JAX_NUM_CPU_DEVICES: $*"
[[ $DIS2_PROCESS_ID == 1 ]] || exit 0
echo >>{tmp_path}/starts
case $(wc -l <{tmp_path}/starts) in 1) kill -9 $$ ;; 2) exit 75 ;; esac
""",
    )
    done = run("local_multiprocess.sh", "-n", 2, "-d", 4, "-r", 5, "-p", 0, "--", worker, "train", "a b")
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert len([x for x in lines if x.startswith("[1] I am 1 of 2 at localhost:")]) == 3
    assert all(" with 4: train a b --distributed local" in x for x in lines if x.startswith("["))
    assert [x.split()[-4:] for x in lines if "restart" in x] == [
        ["restart", str(i), "of", "5"] for i in (1, 2)
    ]
    assert "Killed" not in done.stderr


@pytest.mark.parametrize(("status", "ends_with"), [(2, 2), (130, 130), (75, 75)])
def test_local_processes_do_not_start_for_ever(tmp_path: Path, status: int, ends_with: int) -> None:
    worker = script(tmp_path, "worker", f"(( DIS2_PROCESS_ID )) && exec sleep 60; exit {status}")
    done = run("local_multiprocess.sh", "-r", 1, "-p", 0, "-k", 0, "--", worker)
    assert done.returncode == ends_with
    assert done.stdout.count("killing what is left") == (2 if status == 75 else 1)
    assert ("no restarts left" in done.stdout) == (status == 75)


def test_local_processes_all_hear_a_sigterm(tmp_path: Path) -> None:
    worker = script(
        tmp_path,
        "worker",
        f"trap 'echo saved; exit 143' TERM; touch {tmp_path}/up$DIS2_PROCESS_ID; while :; do sleep 0.1; done",
    )
    command = ["bash", str(LAUNCH / "local_multiprocess.sh"), "--", str(worker)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        while len(list(tmp_path.glob("up*"))) < 2:
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=60)
    assert process.returncode == 143
    assert {"[0] saved", "[1] saved"} <= set(out.splitlines())


@pytest.mark.parametrize(("status", "starts"), [(0, 1), (2, 1), (130, 1), (75, 3)])
def test_restart_where_that_helps(tmp_path: Path, status: int, starts: int) -> None:
    script(tmp_path, "sleep", "exit 0")
    worker = script(tmp_path, "worker", f"echo >>{tmp_path}/starts; exit {status}")
    done = run("restart.sh", 2, worker, PATH=f"{tmp_path}:{os.environ['PATH']}")
    assert done.returncode == status
    assert len((tmp_path / "starts").read_text().splitlines()) == starts


def test_no_restart_after_a_sigterm_in_the_pause(tmp_path: Path) -> None:
    worker = script(tmp_path, "worker", f"echo >>{tmp_path}/starts; exit 75")
    command = ["bash", str(LAUNCH / "restart.sh"), "1", str(worker)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert "restart 1 of 1" in process.stderr.readline()
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    assert process.returncode == 75
    assert len((tmp_path / "starts").read_text().splitlines()) == 1


@pytest.mark.parametrize(("status", "requeued"), [(0, False), (2, False), (143, True), (75, True)])
def test_slurm_job_is_requeued_where_that_helps(tmp_path: Path, status: int, requeued: bool) -> None:
    script(tmp_path, "srun", 'while [[ $1 == --* ]]; do shift; done; exec "$@"')
    script(tmp_path, "scontrol", 'echo "scontrol $*"')
    dis2 = script(tmp_path, "dis2", f'echo "dis2 $*"; exit {status}')
    variables = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "DIS2": str(dis2), "SLURM_JOB_ID": "7"}
    done = run("slurm.sbatch", "--workdir", "w", **variables, LAYOUT="node")
    assert done.returncode == status
    assert "dis2 train --distributed slurm-node --workdir w" in done.stdout
    assert ("scontrol requeue 7" in done.stdout) == requeued
    last = run("slurm.sbatch", **variables, SLURM_RESTART_COUNT="50")
    assert "requeue" not in last.stdout


def test_tpu_dry_run_only_shows_commands(tmp_path: Path) -> None:
    script(tmp_path, "gcloud", f"touch {tmp_path}/called")
    shown = {}
    for action in ("create", "install", "run", "logs", "stop", "delete"):
        arguments = ["--config", "c.py", "--workdir", "/mnt/my runs"] if action == "run" else []
        done = run(
            "tpu_pod.sh",
            "--dry-run",
            "-z",
            "zone-a",
            action,
            "pod",
            *arguments,
            PATH=f"{tmp_path}:/usr/bin:/bin",
        )
        assert done.returncode == 0, done.stderr
        shown[action] = [shlex.split(line) for line in done.stdout.splitlines() if line.startswith("gcloud")]
    assert not (tmp_path / "called").exists()
    assert [len(shown[a]) for a in ("create", "install", "run", "logs", "stop", "delete")] == [
        1,
        2,
        1,
        1,
        1,
        1,
    ]
    remote = shown["run"][0][-1]
    assert shlex.split(remote.partition("dis2 train")[2].partition(">>")[0]) == [
        "--distributed", "tpu", "--config", "c.py", "--workdir", "/mnt/my runs"
    ]  # fmt: skip


def test_jobset_gives_every_pod_its_place() -> None:
    jobset = yaml.safe_load((LAUNCH / "gke_jobset.yaml").read_text())
    (group,) = jobset["spec"]["replicatedJobs"]
    job = group["template"]["spec"]
    (container,) = job["template"]["spec"]["containers"]
    arguments = build_parser().parse_known_args(container["args"])[0]
    assert arguments.distributed == "k8s"
    assert arguments.expect_devices == int(container["resources"]["limits"]["google.com/tpu"])
    labels = {
        "jobset.sigs.k8s.io/jobset-name": jobset["metadata"]["name"],
        "jobset.sigs.k8s.io/replicatedjob-name": group["name"],
        "jobset.sigs.k8s.io/job-index": "0",
    }
    environment = {}
    for entry in container["env"]:
        if "value" in entry:
            environment[entry["name"]] = entry["value"]
        else:
            path = entry["valueFrom"]["fieldRef"]["fieldPath"]
            environment[entry["name"]] = labels[path.removeprefix("metadata.labels['").removesuffix("']")]
    pods = job["completions"]
    assert job["parallelism"] == pods
    places = [
        choose_place(Asked("k8s"), {**environment, "JOB_COMPLETION_INDEX": str(i)}) for i in range(pods)
    ]
    assert places == [Place("dis2-slice-0-0.dis2:10217", pods, i) for i in range(pods)]
    assert container["ports"] == [{"containerPort": 10217}]
