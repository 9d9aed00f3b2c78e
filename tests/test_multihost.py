"""Two real processes with four devices each do what one with eight does, and survive what can happen to one of them.

A small network stands in for DIS2 (``multihost_case``). The tests marked ``multihost`` are not in CI, they take
minutes: ``pytest -m multihost``.
"""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from multihost_case import Ended, Job
from test_loop import final_state, logged

from dis2_jax.training.environment import read_sessions

STEPS, HALF = 12, 6
OPTIONS = {
    "data.batch_size": 8,
    "model.students": "rgb,ndsm",
    "optimizer.name": "sgd",  # Adam blows rounding up where a gradient is zero but for rounding
    "optimizer.learning_rate": 0.1,
    "optimizer.ema": 0.9,
    "train.steps": STEPS,
    "train.eval_every": HALF,
    "train.checkpoint_every": 4,
    "train.log_every": 1,
    "train.keep": 5,
    "train.panels": 1,
}
BOUND = 3e-5
"""Relative difference of losses and of whole arrays (to their largest entry) after 12 steps in float32: sums over
eight devices in another order. Seen: 3e-6."""


class Runs:
    """Starts trainings of one config in folders of their own."""

    def __init__(self, dataset: Path, folder: Path) -> None:
        self.folder = folder
        plain = folder / "plain.py"
        plain.write_text("from dis2_jax.recipes import base\nget_config = base\n")
        options = {**OPTIONS, "data.dir": str(dataset)}
        self.start = ["--config", str(plain), *(f"--config.{k}={v}" for k, v in options.items())]

    def workdir(self, name: str) -> Path:
        return self.folder / name

    def train(self, name: str, *more: str, processes: int, **options: Any) -> Job:
        arguments = ["train", "--workdir", str(self.workdir(name)), *self.start, *more]
        return Job(arguments, processes=processes, logs=self.folder / "logs", **options)

    def lines(self, name: str, kind: str = "train") -> list[dict[str, Any]]:
        path = self.workdir(name) / "metrics.jsonl"
        return [x for x in logged(self.workdir(name)) if x["kind"] == kind] if path.is_file() else []

    def steps(self, name: str) -> int:
        return max((x["step"] for x in self.lines(name)), default=0)


@pytest.fixture(scope="module")
def runs(mini_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return Runs(mini_dataset, tmp_path_factory.mktemp("multihost"))


def assert_done(ended: list[Ended], status: int = 0) -> None:
    assert [e.status for e in ended] == [status] * len(ended), "\n\n".join(e.text[-3000:] for e in ended)


def assert_close_runs(runs: Runs, name: str, reference: str) -> None:
    """Losses of every step, validation scores and the whole final state, within ``BOUND``."""
    for kind, keys in (("train", ("loss", "norm/gradients")), ("validation", ("mean_miou",))):
        found, wanted = runs.lines(name, kind), runs.lines(reference, kind)
        assert [x["step"] for x in found] == [x["step"] for x in wanted]
        for key in keys:
            bound = (
                BOUND if kind == "train" else 2e-3
            )  # a pixel on the edge of two classes may fall either way
            np.testing.assert_allclose([x[key] for x in found], [x[key] for x in wanted], rtol=bound)

    def close(x: Any, y: Any) -> None:
        np.testing.assert_allclose(x, y, rtol=0, atol=BOUND * max(float(np.abs(y).max()), 1.0))

    jax.tree.map(close, final_state(runs.workdir(name)), final_state(runs.workdir(reference)))


@pytest.fixture(scope="module")
def reference(runs: Runs) -> str:
    """One process, never stopped."""
    assert_done(runs.train("reference", processes=1).wait())
    return "reference"


@pytest.mark.parametrize("strategy", ["dp", pytest.param("fsdp", marks=pytest.mark.multihost)])
def test_two_processes_stop_together_and_one_goes_on(runs: Runs, strategy: str) -> None:
    """SIGTERM to one of two: both save the same step and say so; one process with eight devices finishes the run.

    And two go on from what one had saved. The one process always runs ``dp``.
    """
    by_two = f"--config.sharding.strategy={strategy}"
    stopped_run, half_run, reference = (f"{strategy}-{name}" for name in ("stopped", "half", "reference"))
    alone = runs.train(reference, processes=1)  # beside the others, to save time
    job = runs.train(stopped_run, by_two, processes=2, variables={"DIS2_STEP_SECONDS": "0.5"})
    job.wait_until(lambda: runs.steps(stopped_run) >= 2)
    job.processes[1].send_signal(signal.SIGTERM)
    ended = job.wait()
    assert_done(ended, 143)
    assert "stopped and saved at step" in ended[0].text
    assert "Traceback" not in ended[0].text + ended[1].text
    (session,) = read_sessions(runs.workdir(stopped_run))
    stopped = session.last_step
    assert 2 <= stopped < STEPS
    assert session.processes == 2
    newest = max(int(p.name) for p in (runs.workdir(stopped_run) / "checkpoints").iterdir())
    assert newest == stopped
    meta = json.loads((runs.workdir(stopped_run) / f"checkpoints/{newest}/meta/metadata").read_text())
    assert (meta["step"], meta["position"]) == (stopped, stopped)
    assert_done(alone.wait())

    half = runs.workdir(half_run)
    shutil.copytree(runs.workdir(reference), half)
    for p in (half / "checkpoints").iterdir():
        if int(p.name) > HALF:
            shutil.rmtree(p)
    two = runs.train(half_run, by_two, processes=2)
    assert_done(runs.train(stopped_run, processes=1).wait())
    assert_done(two.wait())
    assert [(s.first_step, s.processes) for s in read_sessions(half)] == [(0, 1), (HALF, 2)]
    assert_close_runs(runs, stopped_run, reference)
    assert_close_runs(runs, half_run, reference)


WAITS = ("--heartbeat-seconds", "15", "--hang-seconds", "60", "--start-seconds", "120")
SLOW = {"DIS2_STEP_SECONDS": "0.5"}


@pytest.mark.multihost
def test_evaluation_in_two_processes_counts_every_tile_once(runs: Runs, reference: str) -> None:
    workdir = runs.workdir(reference)
    command = ["evaluate", "--workdir", str(workdir), "--split", "train", "--batch-size", "4"]
    found = []
    for processes in (1, 2):
        assert_done(Job(command, processes=processes, logs=runs.folder / "logs").wait())
        texts = {p.name: p.read_text() for p in (workdir / "evaluation").glob("*-train.*")}
        assert set(texts) >= {"evaluation-train.json", "tiles-train.csv"}
        found.append(texts)
        shutil.rmtree(workdir / "evaluation")
    assert found[0] == found[1]


@pytest.mark.multihost
def test_sigterm_to_all_in_a_validation(runs: Runs, reference: str) -> None:
    """It is not waited for its end, and made up for by the next start."""
    name = "cut-validation"
    job = runs.train(name, processes=2, variables={"DIS2_BATCH_SECONDS": "3"})
    job.wait_until(lambda: "validated" in job.text(0) and "validated" in job.text(1))
    for p in job.processes:
        p.send_signal(signal.SIGTERM)
    assert_done(job.wait(), 143)
    assert runs.steps(name) == HALF
    assert not runs.lines(name, "validation")
    assert_done(runs.train(name, processes=2).wait())
    assert_close_runs(runs, name, reference)


@pytest.mark.multihost
@pytest.mark.parametrize("victim", [0, 1])
def test_killed_process_ends_the_other_with_a_message(runs: Runs, victim: int) -> None:
    name = f"killed-{victim}"
    job = runs.train(name, *WAITS, processes=2, variables=SLOW)
    job.wait_until(lambda: runs.steps(name) >= 2)
    job.processes[victim].kill()
    ended = job.wait(seconds=300)
    other = ended[1 - victim]
    assert other.status in (75, -signal.SIGABRT), other.text[-3000:]
    assert "another process is gone" in other.text or "another task died" in other.text


@pytest.mark.multihost
def test_stopped_process_is_missed_after_the_heartbeat_limit(runs: Runs) -> None:
    job = runs.train("frozen", *WAITS, processes=2, variables=SLOW)
    job.wait_until(lambda: runs.steps("frozen") >= 2)
    job.processes[1].send_signal(signal.SIGSTOP)
    first = job.processes[0].wait(300)
    text = job.text(0)
    job.kill()
    job.wait()
    assert first in (75, -signal.SIGABRT), text[-3000:]
    assert "stopped sending heartbeats" in text or "no progress" in text


@pytest.mark.multihost
def test_stuck_process_ends_itself_and_the_other(runs: Runs) -> None:
    job = runs.train("stuck", *WAITS, processes=2, variables={**SLOW, "DIS2_STUCK": "1:9"})
    ended = job.wait()
    assert all(e.status in (75, -signal.SIGABRT) for e in ended), [e.text[-2000:] for e in ended]
    told = [e.text for e in ended if "no progress for 60 s in step" in e.text]
    assert told
    assert "Where it stood" in told[0]


@pytest.mark.multihost
def test_disagreement_is_told_by_every_process(runs: Runs, mini_dataset: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(mini_dataset, other)
    card = json.loads((other / "dataset_card.json").read_text())
    card["modalities"][0]["mean"][0] = 1.5
    (other / "dataset_card.json").write_text(json.dumps(card))
    cases: list[tuple[str, dict[str, Any], str]] = [
        ("config", {"own": [(), ("--config.train.seed=7",)]}, "config: train.seed is "),
        ("code", {"variables": {"DIS2_OTHER_CODE": "1"}}, 'code: jax is "0.0.1" on process 1'),
        ("card", {"own": [(), (f"--config.data.dir={other}",)]}, "data card: modalities.0.mean is "),
        ("data", {"own": [(), ("--config.data.dir=/nowhere",)]}, "process 1: "),
        (
            "folder",
            {"own": [(), ("--workdir", str(tmp_path / "elsewhere"))]},
            "not the folder that process 0",
        ),
    ]
    jobs = [(runs.train(f"differs-{name}", processes=2, **options), told) for name, options, told in cases]
    for job, told in jobs:
        ended = job.wait()
        assert_done(ended, 2)
        for e in ended:
            assert told in e.text, e.text[-2000:]
            assert "Traceback" not in e.text


@pytest.mark.multihost
def test_process_that_nobody_meets_gives_up(runs: Runs) -> None:
    arguments = ("--distributed", "local", "--processes", "2", "--process-id", "0", "--start-seconds", "5")
    (ended,) = runs.train("lonely", *arguments, processes=1).wait()
    assert ended.status in (75, -signal.SIGABRT), ended.text[-2000:]
    assert "process 0 of 2 meets the others at localhost:10217, within 5 s" in ended.text
