"""Checkpoints: Orbax writes them in the background, a manifest proves them, the last and the best stay."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from jax.sharding import Sharding, SingleDeviceSharding
from orbax.checkpoint import checkpoint_managers

from dis2_jax import config_file
from dis2_jax.config import Config
from dis2_jax.models.dis2 import DIS2
from dis2_jax.schema import DatasetCard, Dis2Error
from dis2_jax.training import manifest
from dis2_jax.training.state import TrainState, Tree, build_model, create_state, eval_variables
from dis2_jax.training.workdir import CHECKPOINTS, check_same_run, read_card, train_tile

Warn = Callable[[str], None]


class Restored(NamedTuple):
    """A verified checkpoint. ``position``: batches that the data stream had handed out."""

    state: TrainState
    step: int
    position: int
    metric: float | None


class Trained(NamedTuple):
    """What prediction needs of a run."""

    model: DIS2
    variables: dict[str, Tree]
    config: Config
    card: DatasetCard
    step: int


class Checkpoints:
    """The ``checkpoints`` folder of a workdir, opened for writing; a context manager.

    Each checkpoint is ``<step>/``: the train state, ``meta`` (step, position, config, dataset card) and a
    manifest of digests with the validation metric. It gets its final name only when all of it is written, so
    a killed or failed save leaves the older ones as they were. Kept: the last ``keep`` (default:
    ``config.train.keep``) and the one with the highest metric.
    """

    def __init__(
        self, workdir: str | Path, *, config: Config, card: DatasetCard, keep: int | None = None
    ) -> None:
        self.folder = (Path(workdir) / CHECKPOINTS).absolute()
        self._config, self._card = config, card
        self._metrics: dict[int, float | None] = {}
        self._saving: int | None = None
        if jax.process_index() == 0:
            self.folder.mkdir(parents=True, exist_ok=True)
        _barrier("checkpoints")
        self._metrics = {s: m for s, m in _ranked(self.folder).items()}
        keep_policy = _KeepLastAndBest(keep=keep or config.train.keep, metrics=self._metrics)
        self._manager = ocp.CheckpointManager(
            self.folder,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=keep_policy,
                cleanup_tmp_directories=True,
                enable_async_checkpointing=True,
                async_options=ocp.AsyncOptions(post_finalization_callback=self._write_manifest),
            ),
        )

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.close()
        elif kind is not KeyboardInterrupt:  # that one means at once: do not wait for the disk
            with contextlib.suppress(Exception):  # the first error is the one to report
                self.close()

    @property
    def steps(self) -> tuple[int, ...]:
        """Finished checkpoints, oldest first, verified or not."""
        return _steps(self.folder)

    def save(self, state: TrainState, *, step: int, position: int, metric: float | None = None) -> None:
        """Copy the state to the host and write it in the background. ``metric``: higher is better.

        Raises ``Dis2Error`` when this or the previous save could not be written; older ones stay intact.
        """
        meta = {
            "step": step,
            "position": position,
            "config": self._config.to_dict(),
            "card": json.loads(self._card.to_json()),
        }
        self.wait()
        self._saving, self._metrics[step] = step, metric
        with self._told():
            saved = self._manager.save(
                step,
                args=ocp.args.Composite(state=ocp.args.StandardSave(state), meta=ocp.args.JsonSave(meta)),
            )
            if not saved:  # Orbax says nothing when a newer step is there
                raise Dis2Error(f"{self.folder}: step {step} was not saved; newest is {self.steps[-1:]}")

    def set_metric(self, step: int, metric: float | None) -> None:
        """Rank a checkpoint that was saved before its validation was done; waits until it is on disk."""
        self.wait()
        self._metrics[step] = metric
        if jax.process_index() == 0:
            folder = self.folder / str(step)
            manifest.write(folder, dataclasses.replace(manifest.read(folder), metric=metric))

    def wait(self) -> None:
        """Block until the save in progress is on disk under its final name."""
        with self._told():
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Wait and release the threads."""
        try:
            self.wait()
        finally:
            # After a failed save Orbax would raise the same error again here.
            with contextlib.suppress(Exception):
                self._manager.close()

    def restore_last(self, abstract: TrainState, *, warn: Warn | None = None) -> Restored | None:
        """Restore the newest checkpoint that is whole; None when there is none at all.

        Damaged ones are reported through ``warn``, named file by file, and renamed to ``damaged-<step>`` so
        that training can pass their step again. Raises ``Dis2Error`` when every one is damaged.

        Args:
            abstract: the state's shapes, dtypes and shardings (``jax.ShapeDtypeStruct`` leaves).
            warn: prints one line; None: stderr.
        """
        steps = self.steps
        good = _agree(self._newest_whole(warn or _to_stderr) if jax.process_index() == 0 else None)
        if good is None:
            if steps:
                raise Dis2Error(
                    f"no checkpoint in {self.folder} is whole: restore the folder from a copy, or start again"
                    " with another --workdir"
                )
            return None
        self._manager.reload()
        for step in set(self._metrics) - set(_steps(self.folder)):
            del self._metrics[step]
        return self._restore(good, abstract)

    def _restore(self, step: int, abstract: TrainState) -> Restored:
        folder = self.folder / str(step)
        with _naming(folder):
            got = self._manager.restore(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardRestore(abstract), meta=ocp.args.JsonRestore()
                ),
            )
        _check_meta(got["meta"], folder, config=self._config, card=self._card)
        position = int(got["meta"]["position"])
        return Restored(state=got["state"], step=step, position=position, metric=self._metrics.get(step))

    def _newest_whole(self, warn: Warn) -> int | None:
        for step in reversed(self.steps):
            try:
                manifest.verify(self.folder / str(step))
                return step
            except Dis2Error as e:
                aside = self.folder / f"damaged-{step}"
                shutil.rmtree(aside, ignore_errors=True)
                (self.folder / str(step)).rename(aside)
                warn(f"{e}; the checkpoint is now {aside.name}, going back to an older one")
        return None

    def _write_manifest(self) -> None:
        """Orbax calls this, in its thread, between the last file and the renaming of the folder."""
        if jax.process_index() != 0:
            return
        step = self._saving
        waiting = sorted(self.folder.glob(f"{step}.orbax-checkpoint-tmp*")) or [self.folder / str(step)]
        manifest.write(waiting[-1], manifest.make(waiting[-1], metric=self._metrics[step or 0]))

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """Turn whatever went wrong in a save into one line, and drop the half-written folder."""
        try:
            yield
        except Dis2Error:
            raise
        except Exception as e:
            if jax.process_index() == 0:
                for partial in self.folder.glob("*.orbax-checkpoint-tmp*"):
                    shutil.rmtree(partial, ignore_errors=True)
            whole = [s for s in self.steps if s != self._saving]
            older = f"step {whole[-1]} is intact" if whole else "there is no older one"
            raise Dis2Error(
                f"the checkpoint of step {self._saving} could not be written to {self.folder}:"
                f" {_cause(e)}; {older}"
            ) from e


def find_step(workdir: str | Path, which: Literal["best", "last"] | int = "best") -> int:
    """Return the step that ``load_eval_variables`` would load, without reading it. Errors likewise."""
    return _choose((Path(workdir) / CHECKPOINTS).absolute(), which)


def load_eval_variables(workdir: str | Path, which: Literal["best", "last"] | int = "best") -> Trained:
    """Load a run for prediction; ``variables`` = ``{"params", "batch_stats"}`` on the default device.

    Only what prediction needs is read; the averaged parameters if the run keeps them. ``best``: highest
    validation metric, or the last one if none was validated.

    Raises:
        Dis2Error: no such workdir, no checkpoint, no such step, a damaged file (named), or a checkpoint of
            another run than the workdir's ``config.json`` and ``dataset_card.json``.
    """
    folder = (Path(workdir) / CHECKPOINTS).absolute()
    config, card = config_file.read(workdir), read_card(workdir)
    step = _choose(folder, which)
    _verified(folder / str(step), others=[s for s in _steps(folder) if s != step])
    meta = json.loads((folder / str(step) / "meta" / "metadata").read_text())
    _check_meta(meta, folder / str(step), config=config, card=card)
    model = build_model(config.model, card, tile=train_tile(config, card))
    return Trained(model, _read_variables(folder / str(step), model, config), config, card, step)


def _read_variables(folder: Path, model: DIS2, config: Config) -> dict[str, Tree]:
    """Read parameters (or their average) and statistics out of a saved train state, and nothing else."""
    averaged = config.optimizer.ema > 0

    def needed() -> dict[str, Tree]:
        import optax

        state = create_state(model, optax.identity(), seed=0, ema=averaged)
        return {
            "ema" if averaged else "params": eval_variables(state)["params"],
            "batch_stats": state.batch_stats,
        }

    here = SingleDeviceSharding(jax.local_devices()[0])
    abstract = with_sharding(jax.eval_shape(needed), here)
    with _naming(folder), ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
        got = reader.restore(
            folder / "state",
            args=ocp.args.PyTreeRestore(
                item=abstract,
                restore_args=ocp.checkpoint_utils.construct_restore_args(abstract),
                partial_restore=True,
            ),
        )
    return {"params": got["ema" if averaged else "params"], "batch_stats": got["batch_stats"]}


def with_sharding(shapes: Tree, shardings: Tree) -> Tree:
    """Give every ``ShapeDtypeStruct`` of a tree its sharding, or all of them the one that is given."""
    if isinstance(shardings, Sharding):
        shardings = jax.tree.map(lambda _: shardings, shapes)
    return jax.tree.map(
        lambda s, where: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=where), shapes, shardings
    )


@dataclasses.dataclass
class _KeepLastAndBest:
    """Orbax preservation policy. Of equals the older is best; ``metrics`` belongs to ``Checkpoints``."""

    keep: int
    metrics: dict[int, float | None]

    def should_preserve(
        self,
        checkpoints: Sequence[Any],
        *,
        context: checkpoint_managers.preservation_policy.PreservationContext,
    ) -> Sequence[bool]:
        steps = [c.step for c in checkpoints]
        kept = {*steps[-self.keep :], _best({s: self.metrics.get(s) for s in steps})}
        return [s in kept for s in steps]


def _best(metrics: dict[int, float | None]) -> int | None:
    ranked = [(m, -s) for s, m in metrics.items() if m is not None]
    return -max(ranked)[1] if ranked else None


def _steps(folder: Path) -> tuple[int, ...]:
    if not folder.is_dir():
        return ()
    return tuple(sorted(int(p.name) for p in folder.iterdir() if p.name.isdigit() and p.is_dir()))


def _ranked(folder: Path) -> dict[int, float | None]:
    """Metric of every finished checkpoint; None where the manifest cannot tell."""
    metrics: dict[int, float | None] = {}
    for step in _steps(folder):
        try:
            metrics[step] = manifest.read(folder / str(step)).metric
        except Dis2Error:
            metrics[step] = None
    return metrics


def _choose(folder: Path, which: str | int) -> int:
    steps = _steps(folder)
    if not steps:
        raise Dis2Error(
            f"{folder} has no checkpoint: train first with `dis2 train --workdir {folder.parent}`"
        )
    if which == "last":
        return steps[-1]
    if which == "best":
        best = _best(_ranked(folder))
        return steps[-1] if best is None else best
    if which not in steps:
        raise Dis2Error(f"{folder} has no step {which}: best, last or one of {', '.join(map(str, steps))}")
    return int(which)


def _verified(folder: Path, *, others: list[int]) -> None:
    try:
        manifest.verify(folder)
    except Dis2Error as e:
        way_out = f"take another checkpoint (step {', '.join(map(str, others))})" if others else "train again"
        raise Dis2Error(f"{e}; {way_out}") from e


def _check_meta(meta: dict[str, Any], folder: Path, *, config: Config, card: DatasetCard) -> None:
    """Refuse a checkpoint that was copied in from another run."""
    stored = DatasetCard.from_json(json.dumps(meta["card"]))
    check_same_run(
        old=Config.from_dict(meta["config"]), new=config, old_card=stored, new_card=card, where=str(folder)
    )


@contextlib.contextmanager
def _naming(folder: Path) -> Iterator[None]:
    """Orbax's complaint about a tree that does not fit, in one line."""
    try:
        yield
    except (ValueError, KeyError, TypeError, OSError) as e:
        text = " ".join(str(e).split())[:300]
        raise Dis2Error(f"{folder} does not fit this model and optimiser ({type(e).__name__}: {text})") from e


def _cause(e: BaseException) -> str:
    """Return the deepest reason; a full disk by its name."""
    chain: list[BaseException] = [e]
    while (inner := chain[-1].__cause__ or chain[-1].__context__) is not None and inner not in chain:
        chain.append(inner)
    full = any(isinstance(x, OSError) and x.errno == errno.ENOSPC for x in chain)
    if full or any("No space left" in str(x) or "ENOSPC" in str(x) for x in chain):
        return "the disk is full; free some space and start again"
    return f"{type(chain[-1]).__name__}: {' '.join(str(chain[-1]).split())[:300]}"


def _agree(step: int | None) -> int | None:
    """Take process 0's choice everywhere."""
    if jax.process_count() == 1:
        return step
    chosen = int(multihost_utils.broadcast_one_to_all(np.int32(-1 if step is None else step)))
    return None if chosen < 0 else chosen


def _barrier(name: str) -> None:
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def _to_stderr(line: str) -> None:
    print(f"dis2: warning: {line}", file=sys.stderr)
