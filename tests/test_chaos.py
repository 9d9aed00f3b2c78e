"""A training whose processes are killed again and again ends as if nothing had happened, bit for bit.

Marked ``chaos`` and not in CI: it takes several minutes. ``pytest -m chaos -s`` shows every kill.
"""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import multihost_case
import psutil
import pytest
from multihost_case import environment
from test_loop import assert_same_run, logged

KILLS = int(os.environ.get("DIS2_CHAOS_KILLS", "24"))
STEPS = 2 * KILLS
MOMENTS = ("start", "start", "step", "save", "save")
"""When to kill: any time after the start, some time after the first new step, while a checkpoint is being written."""

pytestmark = pytest.mark.chaos


class Launched:
    """``launch/local_multiprocess.sh`` with two processes of two devices."""

    def __init__(self, folder: Path, name: str, arguments: list[str], *, pause: str = "0") -> None:
        self.workdir = folder / name
        self._log = folder / f"{name}.log"
        script = Path(__file__).parents[1] / "launch/local_multiprocess.sh"
        launcher = ["bash", str(script), "-n", "2", "-d", "2", "-r", "1000", "-p", "0", "-k", "8"]
        program = [sys.executable, multihost_case.__file__, "train", "--workdir", str(self.workdir)]
        waits = ["--heartbeat-seconds", "20", "--hang-seconds", "60", "--start-seconds", "120"]
        cache = folder / "cache"
        cache.mkdir(exist_ok=True)
        variables = {**environment(devices=2, cache=cache), "DIS2_STEP_SECONDS": pause}
        with self._log.open("w") as log:
            command = [*launcher, "--", *program, *arguments, *waits]
            self.process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=variables)

    def text(self) -> str:
        return self._log.read_text(errors="replace")

    def workers(self) -> list[psutil.Process]:
        """The two training processes, if both are there."""
        found = []
        with contextlib.suppress(psutil.Error):
            for p in psutil.Process(self.process.pid).children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    if p.cmdline()[:2] == [sys.executable, multihost_case.__file__]:
                        found.append(p)
        return found

    def step(self) -> int:
        path = self.workdir / "metrics.jsonl"
        return max((x["step"] for x in logged(self.workdir)), default=0) if path.is_file() else 0

    def saving(self) -> bool:
        return any((self.workdir / "checkpoints").glob("*.orbax-checkpoint-tmp*"))


@pytest.fixture
def started() -> Iterator[list[Launched]]:
    """Whatever happens, no process is left behind."""
    launched: list[Launched] = []
    yield launched
    for run in launched:
        workers = run.workers()
        run.process.kill()
        for p in workers:
            with contextlib.suppress(psutil.Error):
                p.kill()


def kill_one(run: Launched, moment: str, dice: random.Random) -> tuple[str, bool] | None:
    """Wait for the moment, kill one process, wait until both are gone.

    Returns what was killed and whether a checkpoint was being written; None when both ended before the moment.
    """

    def until(happened: Callable[[], bool]) -> bool:
        while not happened():
            if run.process.poll() is not None or len(run.workers()) < 2:
                return False
            for _ in range(20):  # the list of processes costs more than the question
                if happened():
                    return True
                time.sleep(0.01)
        return True

    at = run.step()
    if moment == "start":
        time.sleep(dice.uniform(0, 10))
    # A new step means that what an earlier save left behind is cleared away.
    elif not until(lambda: run.step() > at):
        return None
    if moment == "step":
        time.sleep(dice.uniform(0, 2))
    if moment == "save":
        if not until(run.saving):
            return None
        time.sleep(dice.uniform(0, 0.1))
    workers = run.workers()
    if len(workers) < 2:
        return None
    victim, saving = dice.choice(workers), moment != "start" and run.saving()
    name = f"process {victim.environ()['DIS2_PROCESS_ID']}"
    victim.kill()
    psutil.wait_procs(workers, timeout=180)
    return name, saving


def test_killed_again_and_again_the_run_ends_as_if_never_stopped(
    mini_dataset: Path, tmp_path: Path, started: list[Launched]
) -> None:
    from test_multihost import Runs

    more = {
        "model.students": "rgb",
        "train.steps": STEPS,
        "train.eval_every": STEPS // 2,
        "train.checkpoint_every": 2,
        "train.panels": 0,
    }
    start = [*Runs(mini_dataset, tmp_path).start, *(f"--config.{k}={v}" for k, v in more.items())]
    whole = Launched(tmp_path, "whole", start)
    started.append(whole)
    seed = int(os.environ.get("DIS2_CHAOS_SEED", "0"))
    dice = random.Random(seed)
    run = Launched(tmp_path, "chaos", start, pause="0.3")
    started.append(run)
    killed, in_save, since = 0, 0, time.monotonic()
    while killed < KILLS:
        assert run.process.poll() is None, f"it ended after {killed} kills\n{run.text()[-3000:]}"
        if len(run.workers()) < 2:
            time.sleep(0.2)
            continue
        # Not faster than the kills, else the run would be done before them.
        ahead = run.step() > STEPS * (killed + 1) / KILLS
        moment = "start" if ahead else dice.choice(MOMENTS)
        hit = kill_one(run, moment, dice)
        if hit is None:
            continue
        killed += 1
        in_save += hit[1]
        writing = ", a checkpoint was being written" if hit[1] else ""
        print(
            f"{time.monotonic() - since:6.1f} s  kill {killed:2}: {hit[0]} at step {run.step()} ({moment}{writing})",
            flush=True,
        )
    assert run.process.wait(900) == 0, run.text()[-3000:]
    print(f"{killed} kills, {in_save} of them while a checkpoint was being written, seed {seed}")
    assert in_save >= KILLS // 5
    assert whole.process.wait(900) == 0, whole.text()[-3000:]
    assert_same_run(run.workdir, whole.workdir)
