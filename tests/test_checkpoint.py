"""Checkpoints: exact, verified, the right ones kept, and older ones intact whatever happens to a save."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dis2_jax.config import Config, ModelConfig, OptimizerConfig
from dis2_jax.schema import ClassLegend, DatasetCard, Dis2Error, Modality
from dis2_jax.sharding.mesh import data_mesh, replicated
from dis2_jax.training import manifest
from dis2_jax.training.checkpoint import Checkpoints, load_eval_variables, with_sharding
from dis2_jax.training.state import Accumulated, TrainState, build_model, create_state
from dis2_jax.training.workdir import claim

CONFIG = Config(model=ModelConfig(width=8, depth=1, feed_forward=16), optimizer=OptimizerConfig(ema=0.9))
CARD = DatasetCard(
    name="mini",
    modalities=(Modality("rgb", 3), Modality("ndsm", 1)),
    legend=ClassLegend(("a", "b"), ((0, 0, 0), (1, 1, 1))),
    tile=(32, 32),
    splits={"train": 4},
)


def small_state(step: int) -> TrainState:
    """Any tree with the shape of a train state will do."""
    params = {"full": {"kernel": jax.random.normal(jax.random.key(step), (64, 300))}}
    return TrainState(
        step=jnp.int32(step),
        params=params,
        batch_stats={"full": {"mean": jnp.arange(3.0)}},
        opt_state=optax.adamw(1e-3).init(params),
        ema=jax.tree.map(lambda p: p / 2, params),
        accumulated=Accumulated(gradients=params, touched={"full": jnp.asarray(True)}),
    )


def abstract() -> TrainState:
    return with_sharding(jax.eval_shape(lambda: small_state(0)), replicated(data_mesh()))


def opened(workdir: Path, *, keep: int = 2) -> Checkpoints:
    return Checkpoints(workdir, config=CONFIG, card=CARD, keep=keep)


def write(workdir: Path, **metrics: float | None) -> None:
    """Save steps ``s<n>=metric``."""
    with opened(workdir) as checkpoints:
        for name, metric in metrics.items():
            step = int(name[1:])
            checkpoints.save(small_state(step), step=step, position=10 * step, metric=metric)


def largest_file(folder: Path) -> Path:
    return max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


def flip(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(bytes(content))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


def assert_same(a: TrainState, b: TrainState) -> None:
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_round_trip_and_the_last_and_the_best_are_kept(tmp_path: Path) -> None:
    write(tmp_path, s1=0.2, s2=0.7, s3=None, s4=0.7, s5=0.1)
    with opened(tmp_path) as checkpoints:
        assert checkpoints.steps == (2, 4, 5)  # of equal metrics the older one
        found = checkpoints.restore_last(abstract())
    assert found is not None
    assert (found.step, found.position, found.metric) == (5, 50, 0.1)
    assert_same(found.state, small_state(5))
    assert found.state.params["full"]["kernel"].sharding == replicated(data_mesh())


def test_empty_folder_restores_nothing(tmp_path: Path) -> None:
    with opened(tmp_path) as checkpoints:
        assert checkpoints.restore_last(abstract()) is None


def test_metric_given_later_counts_for_the_best(tmp_path: Path) -> None:
    write(tmp_path, s1=0.5, s2=None)
    with opened(tmp_path, keep=1) as checkpoints:
        checkpoints.set_metric(2, 0.9)
        manifest.verify(checkpoints.folder / "2")
        checkpoints.save(small_state(3), step=3, position=3, metric=0.1)
        checkpoints.wait()
        assert checkpoints.steps == (2, 3)


@pytest.mark.parametrize("damage", [lambda p: flip(p, 1000), cut, Path.unlink], ids=["flip", "cut", "delete"])
def test_damaged_file_is_named_and_an_older_step_is_used(
    tmp_path: Path, capsys: pytest.CaptureFixture, damage: object
) -> None:
    write(tmp_path, s1=0.1, s2=0.2)
    bad = largest_file(tmp_path / "checkpoints" / "2" / "state")
    damage(bad)
    with opened(tmp_path) as checkpoints:
        found = checkpoints.restore_last(abstract())
        assert found is not None
        assert found.step == 1
        assert_same(found.state, small_state(1))
        checkpoints.save(small_state(2), step=2, position=20)  # training passes the same step again
    warning = capsys.readouterr().err
    assert str(bad) in warning
    assert "damaged-2" in warning
    manifest.verify(tmp_path / "checkpoints" / "2")


def test_every_byte_range_is_guarded(tmp_path: Path) -> None:
    """Every file but Orbax's own commit marks: one flipped byte in any of them is found."""
    write(tmp_path, s1=0.1)
    folder = tmp_path / "checkpoints" / "1"
    unguarded = {"_CHECKPOINT_METADATA", "commit_success.txt"}
    files = [p for p in folder.rglob("*") if p.is_file() and p.parent / p.name != folder / p.name]
    files += [p for p in folder.iterdir() if p.is_file() and p.name not in unguarded]
    for path in files:
        for at in (0, path.stat().st_size // 2):
            flip(path, at)
            with pytest.raises(Dis2Error, match="damaged"):
                manifest.verify(folder)
            flip(path, at)
    manifest.verify(folder)


def test_only_damaged_checkpoints_is_an_error(tmp_path: Path) -> None:
    write(tmp_path, s1=0.1)
    cut(largest_file(tmp_path / "checkpoints" / "1"))
    with opened(tmp_path) as checkpoints, pytest.raises(Dis2Error, match=r"no checkpoint in .* is whole"):
        checkpoints.restore_last(abstract(), warn=lambda _: None)


def test_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    write(tmp_path, s1=0.1)
    other = dataclasses.replace(CONFIG, optimizer=OptimizerConfig(ema=0.5))
    with (
        Checkpoints(tmp_path, config=other, card=CARD) as checkpoints,
        pytest.raises(Dis2Error, match=r"optimizer.ema was 0.9, now 0.5"),
    ):
        checkpoints.restore_last(abstract())


KILLED = """
import os, signal, sys
sys.path.insert(0, {tests!r})
import test_checkpoint as t
t.write(t.Path({workdir!r}), s1=0.1)
with t.opened(t.Path({workdir!r})) as checkpoints:
    t.manifest.write = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
    checkpoints.save(t.small_state(2), step=2, position=2)
"""


def test_killed_in_mid_save_leaves_the_older_step(tmp_path: Path) -> None:
    script = KILLED.format(tests=str(Path(__file__).parent), workdir=str(tmp_path))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert list((tmp_path / "checkpoints").glob("2.*tmp*"))  # it really was in the middle
    with opened(tmp_path) as checkpoints:
        found = checkpoints.restore_last(abstract())
        assert found is not None
        assert found.step == 1
        checkpoints.save(small_state(2), step=2, position=20)
    assert not list((tmp_path / "checkpoints").glob("*tmp*"))
    manifest.verify(tmp_path / "checkpoints" / "2")


@contextlib.contextmanager
def tiny_disk(folder: Path) -> Iterator[Path]:
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1500k", "tmpfs", str(folder)]
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("only root can mount a small file system")
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("mounting is not permitted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_full_disk_is_told_and_the_older_step_is_intact(tmp_path: Path) -> None:
    with tiny_disk(tmp_path / "disk") as disk:
        write(disk, s1=0.1)
        big = small_state(2).replace(
            ema={"full": {"kernel": jax.random.normal(jax.random.key(0), (4000, 300))}}
        )
        with opened(disk) as checkpoints:
            checkpoints.save(big, step=2, position=2)
            with pytest.raises(Dis2Error, match=r"step 2 could not .*disk is full.*step 1 is intact"):
                checkpoints.wait()
        assert not list((disk / "checkpoints").glob("*tmp*"))
        with opened(disk) as checkpoints:
            found = checkpoints.restore_last(abstract())
        assert found is not None
        assert_same(found.state, small_state(1))


def test_failed_save_is_told_at_the_next_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The save runs in the background: its error must not get lost."""

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    write(tmp_path, s1=0.1)
    with opened(tmp_path) as checkpoints:
        monkeypatch.setattr(manifest, "write", full)
        checkpoints.save(small_state(2), step=2, position=2)
        with pytest.raises(Dis2Error, match=r"step 2 .* disk is full"):
            checkpoints.save(small_state(3), step=3, position=3)
    assert (tmp_path / "checkpoints" / "1").is_dir()
    assert not (tmp_path / "checkpoints" / "3").exists()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TrainState]:
    """A workdir with a real model's checkpoints at steps 1 (best) and 2, and the state in both."""
    workdir = tmp_path_factory.mktemp("runs") / "run"
    model = build_model(CONFIG.model, CARD, tile=(32, 32))
    shapes = jax.eval_shape(lambda: create_state(model, optax.adamw(1e-3), seed=0, ema=True))
    state = jax.tree.map(lambda s: jnp.full(s.shape, 0.5, s.dtype), shapes)
    state = state.replace(ema=jax.tree.map(lambda p: p + 1, state.params))
    claim(workdir, config=CONFIG, card=CARD)
    with Checkpoints(workdir, config=CONFIG, card=CARD) as checkpoints:
        for step, metric in ((1, 0.9), (2, 0.1)):
            checkpoints.save(state, step=step, position=step, metric=metric)
    return workdir, state


def test_load_for_prediction_takes_best_last_or_a_step(trained: tuple[Path, TrainState]) -> None:
    workdir, state = trained
    loaded = load_eval_variables(workdir)
    assert loaded.step == 1
    assert (loaded.config, loaded.card) == (CONFIG, CARD)
    jax.tree.map(np.testing.assert_array_equal, loaded.variables["params"], state.ema)
    jax.tree.map(np.testing.assert_array_equal, loaded.variables["batch_stats"], state.batch_stats)
    assert load_eval_variables(workdir, "last").step == 2
    assert load_eval_variables(workdir, 2).step == 2


def test_load_for_prediction_refuses_clearly(trained: tuple[Path, TrainState], tmp_path: Path) -> None:
    workdir, _ = trained
    with pytest.raises(Dis2Error, match=r"no step 7: best, last or one of 1, 2"):
        load_eval_variables(workdir, 7)
    with pytest.raises(Dis2Error, match="not a training workdir"):
        load_eval_variables(tmp_path)
    claim(tmp_path, config=CONFIG, card=CARD)
    with pytest.raises(Dis2Error, match="has no checkpoint"):
        load_eval_variables(tmp_path)
    copy = tmp_path / "copy"
    shutil.copytree(workdir, copy)
    bad = largest_file(copy / "checkpoints" / "1")
    flip(bad, 100)
    with pytest.raises(Dis2Error, match=rf"{bad} is damaged.*step 2"):
        load_eval_variables(copy)
    other = dataclasses.replace(CARD, name="other")
    (copy / "dataset_card.json").write_text(other.to_json())
    with pytest.raises(Dis2Error, match=r"another dataset: name was 'mini', now 'other'"):
        load_eval_variables(copy, 2)
