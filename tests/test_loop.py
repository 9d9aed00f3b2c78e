"""The training loop on a miniature dataset: stop, resume, kill, abort, refuse - and end as if nothing happened."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from dis2_jax import config_file
from dis2_jax.cli.main import main
from dis2_jax.config import Config, DataConfig, ModelConfig, OptimizerConfig, TrainConfig
from dis2_jax.data.stream import TrainStream
from dis2_jax.evaluation.validate import SplitValidator
from dis2_jax.schema import DatasetCard, Dis2Error
from dis2_jax.training import loop
from dis2_jax.training.checkpoint import load_eval_variables
from dis2_jax.training.environment import read_sessions
from dis2_jax.training.loop import Outcome, Validation, absolute_data, train
from dis2_jax.training.signals import StopRequest
from dis2_jax.training.workdir import claim

STEPS = 6
CONFIG = Config(
    data=DataConfig(batch_size=2, scale=(0.9, 1.1), photometric=0.1),
    # Both students by turns and an accumulation that steps 1, 3 and 5 leave half done: all that a resume can miss.
    model=ModelConfig(width=8, depth=1, feed_forward=16, students="rgb,ndsm"),
    optimizer=OptimizerConfig(schedule="constant", ema=0.9, accumulate=2),
    train=TrainConfig(steps=STEPS, log_every=1, eval_every=3, checkpoint_every=2, panels=0, keep=3),
)


def overrides(config: Config) -> list[str]:
    """Write a config as command-line overrides of the defaults."""
    return [f"--config.{d.key}={d.new}" for d in config_file.differences(Config(), config)]


def but(config: Config, **sections: dict[str, Any]) -> Config:
    """Change single keys: ``but(c, train={"steps": 3})``."""
    changed = {s: dataclasses.replace(getattr(config, s), **keys) for s, keys in sections.items()}
    return dataclasses.replace(config, **changed)


@dataclasses.dataclass
class FakeValidator:
    """Scores without a model; ``meanwhile`` happens in the first validation."""

    meanwhile: Callable[[], None] | None = None

    def __call__(
        self, model: Any, variables: Mapping[str, Any], *, mesh: Any, on_batch: Callable[[int, int], None]
    ) -> Validation:
        if self.meanwhile is not None:
            meanwhile, self.meanwhile = self.meanwhile, None
            meanwhile()
        on_batch(1, 2)
        score = float(sum(jnp.abs(p).sum() for p in jax.tree.leaves(variables["params"])))
        return Validation(metric=-score, scalars={"mean_miou": -score}, summary="fake")


@functools.cache
def _make_train_step(model: Any, config: Config, steps_per_epoch: int) -> Any:
    from dis2_jax.training.optimizer import make_optimizer
    from dis2_jax.training.step import make_train_step

    optimizer = make_optimizer(config.optimizer, steps=config.train.steps)
    return make_train_step(model, optimizer, config, steps_per_epoch=steps_per_epoch)


@pytest.fixture(autouse=True)
def shared_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trace the step once for all tests here: of ``train`` and ``data`` only the seed enters it."""

    def make(model: Any, optimizer: Any, config: Config, *, steps_per_epoch: int, augment: None) -> Any:
        used = dataclasses.replace(config, data=DataConfig(), train=TrainConfig(seed=config.train.seed))
        return _make_train_step(model, used, steps_per_epoch)

    monkeypatch.setattr(loop, "make_train_step", make)


@pytest.fixture(scope="module")
def config(mini_dataset: Path) -> Config:
    return but(CONFIG, data={"dir": str(mini_dataset)})


@pytest.fixture(scope="module")
def reference(config: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Workdir of a run that was never stopped."""
    workdir = tmp_path_factory.mktemp("reference") / "run"
    assert train(config, workdir, validator=FakeValidator()) == Outcome(STEPS)
    return workdir


def logged(workdir: Path) -> list[dict[str, Any]]:
    """Lines of metrics.jsonl without the figures that measure time and memory."""
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    measured = ("tiles_per_second", "checkpoint_seconds", "memory_mib/main", "memory_mib/readers")
    return [{k: v for k, v in line.items() if k not in measured} for line in lines]


def final_state(workdir: Path) -> Any:
    """The whole train state of the last checkpoint, as nested dicts of numpy arrays."""
    folder = max((workdir / "checkpoints").iterdir(), key=lambda p: int(p.name)) / "state"
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
        tree = reader.metadata(folder).item_metadata.tree
        args = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
        return reader.restore(folder, args=ocp.args.PyTreeRestore(restore_args=args))


def assert_same_run(a: Path, b: Path) -> None:
    assert logged(a) == logged(b)
    x, y = final_state(a), final_state(b)
    assert jax.tree.structure(x) == jax.tree.structure(y)
    jax.tree.map(np.testing.assert_array_equal, x, y)


def test_a_run_leaves_what_it_should(reference: Path) -> None:
    lines = logged(reference)
    assert [(x["step"], x["kind"]) for x in lines if x["step"] in (1, 3)] == [
        (1, "train"),
        (3, "train"),
        (3, "validation"),
    ]
    assert {"loss", "loss/full", "norm/gradients", "learning_rate", "epoch"} <= lines[0].keys()
    assert len({x["loss"] for x in lines if x["kind"] == "train"}) == STEPS
    assert list((reference / "tensorboard").glob("events*"))
    assert load_eval_variables(reference, "last").step == STEPS
    (session,) = read_sessions(reference)
    assert (session.first_step, session.last_step, session.batch_size) == (0, STEPS, 2)
    assert session.seconds > 0
    assert set(session.flops_per_step) == {"rgb", "ndsm"}  # each student took its turn
    assert min(session.flops_per_step.values()) > 1e6


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stopped_in_a_validation_and_resumed(
    config: Config, reference: Path, tmp_path: Path, number: signal.Signals
) -> None:
    stopper = FakeValidator(meanwhile=lambda: signal.raise_signal(number))
    assert train(config, tmp_path, validator=stopper) == Outcome(3, signal=number)
    assert train(config, tmp_path, validator=FakeValidator()) == Outcome(STEPS)
    assert [(s.first_step, s.last_step) for s in read_sessions(tmp_path)] == [(0, 3), (3, STEPS)]
    assert_same_run(tmp_path, reference)
    assert load_eval_variables(tmp_path).step == load_eval_variables(reference).step


def test_stopped_in_the_last_validation(config: Config, reference: Path, tmp_path: Path) -> None:
    workdir = tmp_path / "run"
    shutil.copytree(reference, workdir)
    shutil.rmtree(workdir / "checkpoints" / str(STEPS))
    stopper = FakeValidator(meanwhile=lambda: signal.raise_signal(signal.SIGTERM))
    assert train(config, workdir, validator=stopper) == Outcome(STEPS, signal=signal.SIGTERM)
    assert train(config, workdir, validator=FakeValidator()) == Outcome(STEPS)
    assert_same_run(workdir, reference)


def test_finished_run_stays_as_it_is(config: Config, reference: Path, tmp_path: Path) -> None:
    shutil.copytree(reference, tmp_path / "run")
    assert train(config, tmp_path / "run", validator=FakeValidator()) == Outcome(STEPS)
    assert_same_run(tmp_path / "run", reference)


def test_warm_start_takes_the_weights_and_nothing_else(
    config: Config, reference: Path, tmp_path: Path
) -> None:
    fresh = absolute_data(but(config, train={"init_from": str(reference), "steps": 1}))
    assert train(fresh, tmp_path / "run", validator=FakeValidator()) == Outcome(1)
    source = load_eval_variables(reference)  # best: the parameters are the run's averaged ones
    made = final_state(tmp_path / "run")
    assert made["step"] == 1
    for kept in ("params", "ema"):  # the first of two accumulated batches changes neither
        jax.tree.map(np.testing.assert_array_equal, made[kept], source.variables["params"])
    other = but(fresh, model={"width": 16})
    with pytest.raises(Dis2Error, match=r"init_from = .* is another network: .*; and \d+ more; use the same"):
        train(other, tmp_path / "other", validator=FakeValidator())


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
import test_loop as t
from dis2_jax.training import manifest

write = manifest.write

def kill_in_save(folder, content):
    if folder.name.startswith("4."):
        os.kill(os.getpid(), signal.SIGKILL)
    write(folder, content)

manifest.write = kill_in_save
t.train(t.but(t.CONFIG, data={{"dir": {data!r}}}), {workdir!r}, validator=t.FakeValidator())
"""


def test_killed_in_mid_save_and_resumed(config: Config, reference: Path, tmp_path: Path) -> None:
    tests = str(Path(__file__).parent)
    script = KILLED.format(tests=tests, data=config.data.dir, workdir=str(tmp_path))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert any(x["step"] >= 4 for x in logged(tmp_path))  # it went on while the save was written
    assert train(config, tmp_path, validator=FakeValidator()) == Outcome(STEPS)
    assert_same_run(tmp_path, reference)


def test_loss_that_is_not_finite_aborts(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = loop.make_train_step

    def poisoned(*args: Any, **kwargs: Any) -> Any:
        step = make(*args, **kwargs)

        def call(state: Any, batch: Any, scenarios: Any) -> Any:
            state, metrics = step(state, batch, scenarios)
            bad = state.step == 4
            state = state.replace(params=jax.tree.map(lambda p: jnp.where(bad, jnp.nan, p), state.params))
            return state, {**metrics, "norm/parameters": jnp.where(bad, jnp.nan, 1.0)}

        return call

    monkeypatch.setattr(loop, "make_train_step", poisoned)
    with pytest.raises(Dis2Error, match=r"step 4: norm/parameters is nan; .* is step 3 in"):
        train(config, tmp_path, validator=FakeValidator())
    kept = load_eval_variables(tmp_path, "last")
    assert kept.step == 3
    assert all(np.isfinite(p).all() for p in jax.tree.leaves(kept.variables))


def test_steps_before_an_unreadable_tile_are_kept(
    config: Config, reference: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = TrainStream.__next__

    def spoilt(stream: TrainStream) -> Any:
        if stream.position == 5:
            raise Dis2Error("a shard is corrupt")
        return read(stream)

    workdir = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(TrainStream, "__next__", spoilt)
        with pytest.raises(Dis2Error, match="a shard is corrupt"):
            train(config, workdir, validator=FakeValidator())
    assert load_eval_variables(workdir, "last").step == 5
    assert train(config, workdir, validator=FakeValidator()) == Outcome(STEPS)
    jax.tree.map(np.testing.assert_array_equal, final_state(workdir), final_state(reference))
    assert logged(workdir) == logged(reference)


def test_resume_with_another_config_says_what_differs(config: Config, reference: Path) -> None:
    other = but(config, optimizer={"learning_rate": 0.5}, train={"seed": 7, "log_every": 2})
    with pytest.raises(Dis2Error) as e:
        train(other, reference, validator=FakeValidator())
    assert "optimizer.learning_rate was 0.001, now 0.5; train.seed was 0, now 7;" in str(e.value)
    assert "log_every" not in str(e.value)
    assert config_file.read(reference) == config


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"data": {"crop": (1024, 1024)}}, "larger than the dataset's"),
        ({"data": {"train_split": "trian"}}, r"no split 'trian' \(did you mean 'train'\?\)"),
        ({"data": {"source": "scenes"}}, "was made by `dis2 data prepare`"),
        ({"train": {"init_from": "/nowhere"}}, "/nowhere/checkpoints has no checkpoint"),
    ],
)
def test_bad_keys_are_told_before_anything_is_compiled_and_can_be_mended_in_place(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keys: dict[str, Any], message: str
) -> None:
    def compiles(*_: Any) -> None:
        raise AssertionError("compiled")

    monkeypatch.setattr(loop, "initializer", compiles)
    with pytest.raises(Dis2Error, match=message):
        train(but(config, **keys), tmp_path, validator=FakeValidator())
    with pytest.raises(AssertionError, match="compiled"):  # the mended config is not another run's
        train(config, tmp_path, validator=FakeValidator())
    assert config_file.read(tmp_path) == config


def test_workdir_with_only_a_damaged_checkpoint_still_belongs_to_its_run(
    config: Config, tmp_path: Path
) -> None:
    card = DatasetCard.load(config.data.dir)
    claim(tmp_path, config=config, card=card)
    (tmp_path / "checkpoints" / "damaged-3").mkdir(parents=True)
    with pytest.raises(Dis2Error, match=r"train\.seed was 0, now 7"):
        claim(tmp_path, config=but(config, train={"seed": 7}), card=card)


def test_damaged_validation_tiles_are_told_before_the_training(config: Config, tmp_path: Path) -> None:
    damaged = tmp_path / "data"
    shutil.copytree(config.data.dir, damaged)
    shard = next(damaged.glob("*-validation.array_record-*"))
    shard.write_bytes(shard.read_bytes()[:-100])
    with pytest.raises(Dis2Error, match=f"{shard.name} is corrupt or cut off"):
        SplitValidator(but(config, data={"dir": str(damaged)}), DatasetCard.load(damaged))


def test_workdir_of_another_dataset_is_refused(config: Config, reference: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(config.data.dir, other)
    card = json.loads((other / "dataset_card.json").read_text())
    card["legend"]["names"] = list(reversed(card["legend"]["names"]))
    (other / "dataset_card.json").write_text(json.dumps(card))
    with pytest.raises(Dis2Error, match=r"another dataset: legend was ground/building/tree, now tree/"):
        train(but(config, data={"dir": str(other)}), reference, validator=FakeValidator())


def test_workdir_in_use_is_refused(config: Config, tmp_path: Path) -> None:
    seen: list[str] = []

    def second_run() -> None:
        with pytest.raises(Dis2Error, match="in use by another"):
            train(config, tmp_path, validator=FakeValidator())
        seen.append("refused")

    train(but(config, train={"steps": 1}), tmp_path, validator=FakeValidator(meanwhile=second_run))
    assert seen == ["refused"]


def test_second_ctrl_c_stops_at_once() -> None:
    before = signal.getsignal(signal.SIGINT)  # ignored, where the tests run in the background of a shell
    said: list[str] = []
    with StopRequest(said.append) as stop:
        assert not stop.reached()
        signal.raise_signal(signal.SIGINT)
        assert stop.reached()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert len(said) == 1
    assert signal.getsignal(signal.SIGINT) is before


def run_until_step(step: int, workdir: Path, arguments: list[str], number: signal.Signals) -> tuple[int, str]:
    """Start ``dis2 train`` and send a signal once ``step`` is logged; (exit status, stdout)."""
    command = [sys.executable, "-m", "dis2_jax", "train", "--workdir", str(workdir), *arguments]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        while process.poll() is None:
            if (workdir / "metrics.jsonl").is_file() and any(x["step"] >= step for x in logged(workdir)):
                process.send_signal(number)
                break
            time.sleep(0.05)
        out, err = process.communicate(timeout=300)
    assert "Traceback" not in err, err
    return process.returncode, out


def test_command_line_ctrl_c_sigterm_and_on(
    config: Config, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    workdir = tmp_path / "run"
    (tmp_path / "plain.py").write_text("from dis2_jax.recipes import base\nget_config = base\n")
    long = but(config, train={"steps": 100_000, "eval_every": 100_000, "checkpoint_every": 0})
    start = ["--config", str(tmp_path / "plain.py"), *overrides(long)]
    status, out = run_until_step(2, workdir, start, signal.SIGINT)
    assert status == 130
    assert f"go on with: dis2 train --workdir {workdir}" in out
    stopped = logged(workdir)[-1]["step"]
    status, _ = run_until_step(stopped + 2, workdir, [], signal.SIGTERM)
    assert status == 143
    steps = [x["step"] for x in logged(workdir)]
    assert steps == list(range(1, len(steps) + 1))
    capsys.readouterr()
    assert main(["train", "--workdir", str(workdir), "--config.train.seed=3"]) == 2
    message = capsys.readouterr().err
    assert message.startswith("dis2: error: ")
    assert "train.seed was 0, now 3" in message
    assert message.count("\n") == 1
    last = f"--config.train.steps={len(steps) + 1}"
    assert main(["train", "--workdir", str(workdir), last, "--config.train.panels=1"]) == 0
    assert logged(workdir)[-1].keys() >= {"mean_miou", "miou/rgb+ndsm", "miou/rgb"}
