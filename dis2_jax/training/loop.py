"""The training loop: config -> card -> model -> state -> restore -> stream -> steps."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import shlex
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import jax
import numpy as np
import optax
from jax.sharding import Mesh

from dis2_jax.config import Config
from dis2_jax.data.batch import Batch
from dis2_jax.data.pipeline import check_train_data, open_train_stream
from dis2_jax.distributed.jointly import agreed, jointly
from dis2_jax.distributed.meeting import connect, meet
from dis2_jax.distributed.watchdog import Watchdog
from dis2_jax.files import locked_folder
from dis2_jax.models.dis2 import DIS2
from dis2_jax.models.layout import active
from dis2_jax.schema import DatasetCard, Dis2Error, Scenario
from dis2_jax.sharding.mesh import check_batch_size, put_batch
from dis2_jax.sharding.placement import Placement, make_placement
from dis2_jax.training.augment import augment_of
from dis2_jax.training.checkpoint import Checkpoints, find_step, with_sharding
from dis2_jax.training.environment import SessionLog
from dis2_jax.training.logs import Progress, RunLog, Speed
from dis2_jax.training.optimizer import make_optimizer, make_schedule
from dis2_jax.training.prefetch import DevicePrefetch, device_prefetch
from dis2_jax.training.signals import StopRequest
from dis2_jax.training.state import (
    TrainState,
    Tree,
    build_model,
    eval_variables,
    initializer,
    state_maker,
)
from dis2_jax.training.step import (
    Metrics,
    TrainStep,
    check_scenarios,
    counted_flops,
    make_train_step,
    scenarios_at,
)
from dis2_jax.training.warm_start import warm_start
from dis2_jax.training.workdir import claim, train_tile


@dataclasses.dataclass(frozen=True, eq=False)
class Validation:
    """What a validation found. ``metric`` ranks checkpoints (higher is better; None: nothing to rank by)."""

    metric: float | None
    scalars: dict[str, float]
    images: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    """Name -> uint8 ``[H, W, 3]`` for TensorBoard."""
    summary: str = ""
    """One line for the terminal."""


class Validator(Protocol):
    """Scores variables; the loop is handed one, so that training does not depend on evaluation."""

    def __call__(
        self, model: DIS2, variables: Mapping[str, Tree], *, mesh: Mesh, on_batch: Callable[[int, int], None]
    ) -> Validation:
        """Calls ``on_batch`` after each batch, which may raise to stop."""
        ...


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How training ended: after which step, and by which signal (None: all steps are done)."""

    step: int
    signal: int | None = None


def resume_command(workdir: str | Path) -> str:
    """Return what continues the run; its config lies in the workdir."""
    return f"dis2 train --workdir {shlex.quote(str(workdir))}"


def train(
    config: Config, workdir: str | Path, *, validator: Validator, watchdog: Watchdog | None = None
) -> Outcome:
    """Train until ``config.train.steps``, or continue what ``workdir`` holds, bit by bit as if never stopped.

    SIGINT and SIGTERM end it after the running step with a checkpoint; see ``Outcome.signal``. Several processes
    call it alike (``dis2_jax.distributed``). ``watchdog`` is told of all progress.

    Raises:
        Dis2Error: bad data, a workdir of another run, a batch that the devices cannot share, only damaged
            checkpoints, a loss that is not finite (the last good checkpoint stays), or a full disk.
    """
    config = absolute_data(config)
    card = DatasetCard.load(config.data.dir).select(config.data.modalities)
    placement = make_placement(config.sharding)
    mesh = placement.mesh
    connect(mesh)
    check_batch_size(config.data.batch_size, mesh)
    with jointly():
        check_train_data(config.data.dir, card, config.data, process_count=jax.process_count())
    model = build_model(config.model, card, tile=train_tile(config, card), remat=config.sharding.remat)
    check_scenarios(config.train, model.scenarios[1:])
    optimizer = make_optimizer(config.optimizer, steps=config.train.steps)
    first = jax.process_index() == 0
    with contextlib.ExitStack() as stack:
        with jointly():
            if first:
                stack.enter_context(locked_folder(Path(workdir), command="dis2 train", flag="--workdir"))
                claim(workdir, config=config, card=card)
        checkpoints = stack.enter_context(Checkpoints(workdir, config=config, card=card))
        stack.enter_context(active(placement))
        state, position = start_state(config, model, optimizer, checkpoints, placement=placement)
        stream = stack.enter_context(
            open_train_stream(
                config.data.dir,
                card,
                config.data,
                seed=config.train.seed,
                position=position,
                process_index=jax.process_index(),
                process_count=jax.process_count(),
            )
        )
        step = int(state.step)
        progress = stack.enter_context(Progress(start=step, total=config.train.steps, on=first))
        run = _Run(
            config=config,
            workdir=Path(workdir),
            mesh=mesh,
            model=model,
            students=Scenario.students(config.model.students, card.modality_names),
            train_step=make_train_step(
                model,
                optimizer,
                config,
                steps_per_epoch=stream.steps_per_epoch,
                augment=augment_of(card, config.data),
            ),
            steps_per_epoch=stream.steps_per_epoch,
            validator=validator,
            checkpoints=checkpoints,
            log=stack.enter_context(RunLog(workdir, step=step)) if first else None,
            session=open_session(workdir, step=step, config=config, mesh=mesh) if first else None,
            progress=progress,
            stop=stack.enter_context(StopRequest(progress.say)),
            watchdog=watchdog or Watchdog(None),
            health=stream.health,
            batches=stack.enter_context(device_prefetch(stream, functools.partial(_put, mesh=mesh))),
            start_position=position,
            state=state,
            step=step,
        )
        return run.go()


def start_state(
    config: Config,
    model: DIS2,
    optimizer: optax.GradientTransformation,
    checkpoints: Checkpoints,
    *,
    placement: Placement,
) -> tuple[TrainState, int]:
    """Restore the newest whole checkpoint, or initialise (``train.init_from``): (state on the mesh, data position).

    Shapes first: nothing is made on one device that is meant for many. The checkpoint may be of another strategy.
    """
    if config.train.init_from and not checkpoints.steps:
        find_step(config.train.init_from)  # a wrong folder is told before anything is compiled
    create = state_maker(model, optimizer, config)
    shapes = jax.eval_shape(create)
    shardings = placement.shardings(shapes)
    restored = checkpoints.restore_last(with_sharding(shapes, shardings))
    if restored is not None:
        return restored.state, restored.position
    state = initializer(create, shardings)()
    return (warm_start(state, config.train.init_from) if config.train.init_from else state), 0


def open_session(workdir: str | Path, *, step: int, config: Config, mesh: Mesh) -> SessionLog:
    """Begin this session's entry in ``environment.json``."""
    hardware = {
        "backend": jax.default_backend(),
        "device": mesh.devices.flat[0].device_kind,
        "devices": mesh.size,
        "processes": jax.process_count(),
    }
    return SessionLog(workdir, step=step, batch_size=config.data.batch_size, hardware=hardware)


class _Stopped(Exception):
    """A stop request in the middle of a validation."""


@dataclasses.dataclass(kw_only=True, eq=False)
class _Run:
    """What the loop holds while it runs. ``step`` counts the steps done, like ``state.step``."""

    config: Config
    workdir: Path
    mesh: Mesh
    model: DIS2
    students: tuple[Scenario, ...]
    train_step: TrainStep
    steps_per_epoch: int
    validator: Validator
    checkpoints: Checkpoints
    log: RunLog | None
    session: SessionLog | None
    progress: Progress
    stop: StopRequest
    watchdog: Watchdog
    health: Callable[[], dict[str, float]]
    batches: DevicePrefetch[Batch, Any]
    start_position: int
    state: TrainState
    step: int

    def __post_init__(self) -> None:
        optimizer = self.config.optimizer
        self.schedule = make_schedule(optimizer, steps=self.config.train.steps // optimizer.accumulate)
        self.speed = Speed(tiles_per_step=self.config.data.batch_size)
        self.saved_step = self.step if self.checkpoints.steps else -1
        self.compiled: set[tuple[Scenario, ...]] = set()
        self.cut_short = False
        self.saving_seconds = 0.0

    def go(self) -> Outcome:
        """Run the steps that are left."""
        train = self.config.train
        self._introduce()
        self._late_validation()
        unchecked: tuple[int, Metrics] | None = None
        while self.step < train.steps and not self.stop.reached():
            try:
                metrics = self._advance()
            except Dis2Error:  # a tile that cannot be read
                self._keep(unchecked)
                raise
            # One step behind: the device works on this step while the host looks at the one before.
            if unchecked is not None:
                self._check(*unchecked)
            unchecked = (self.step, metrics)
            if self.step % train.log_every == 0 or self.step == train.steps:
                self._log(metrics)
            if self.step % train.eval_every == 0 or self.step == train.steps:
                self._check(self.step, metrics)
                # Saved before it is scored: an error in the validation must not cost the steps before it.
                self._save()
                self._rank()
            elif train.checkpoint_every and self.step % train.checkpoint_every == 0:
                self._check(self.step, metrics)
                self._save()
        if unchecked is not None:
            self._check(*unchecked)
        if self.step != self.saved_step:
            self._save()
        self.checkpoints.wait()
        meet("all is saved")  # who leaves early may be taken for lost by the one that still writes
        if self.session is not None:
            self.session.update(step=self.step)
        finished = self.step >= train.steps and not self.cut_short
        return Outcome(self.step, None if finished else self.stop.received)

    def _keep(self, unchecked: tuple[int, Metrics] | None) -> None:
        """Save the steps before an error, if they are good; of several processes the others do not know of it."""
        if jax.process_count() > 1 or self.step == self.saved_step:
            return
        with contextlib.suppress(Dis2Error):  # the first error is the one to report
            if unchecked is not None:
                self._check(*unchecked)
            self._save()
            self.checkpoints.wait()
            self.progress.say(f"step {self.step} is saved")

    def _advance(self) -> Metrics:
        """One step. Its scenarios follow from (seed, step) alone."""
        scenarios = scenarios_at(self.step, self.config.train, self.students)
        self.watchdog.expect(f"step {self.step + 1}", long=scenarios not in self.compiled)
        batch = next(self.batches)
        if scenarios not in self.compiled:
            self._compile(batch, scenarios)
        self.state, metrics = self.train_step(self.state, batch, scenarios)
        self.step += 1
        self.progress.advance()
        if scenarios in self.compiled:
            self.speed.count()
        else:  # compilation stays out of the speed
            self.compiled.add(scenarios)
            jax.block_until_ready(metrics)
            self.speed.restart()
        return metrics

    def _compile(self, batch: Any, scenarios: tuple[Scenario, ...]) -> None:
        """Compile a step that is new, note what it costs, and wait until the others have done so too.

        Else the fastest compiler would wait for the slowest inside of the step, where patience may have a limit.
        """
        flops = counted_flops(self.train_step, self.state, batch, scenarios)
        if self.session is not None and flops is not None:
            self.session.note_flops(", ".join(map(str, scenarios)), flops * self.mesh.size)
        meet("compiled")

    def _check(self, step: int, metrics: Metrics) -> None:
        """Abort when a loss or norm of ``step`` is not finite. Waits for that step."""
        values = jax.device_get({k: metrics[k] for k in ("loss", "norm/gradients", "norm/parameters")})
        bad = [k for k, v in values.items() if not np.isfinite(v)]
        if bad:
            with contextlib.suppress(Dis2Error):
                self.checkpoints.wait()
            steps = self.checkpoints.steps
            last = (
                f"the last good checkpoint is step {steps[-1]} in {self.workdir}"
                if steps
                else "there is no checkpoint yet"
            )
            raise Dis2Error(
                f"step {step}: {bad[0]} is {values[bad[0]]}; {last}; try a lower optimizer.learning_rate,"
                " optimizer.clip_norm, or another seed"
            )

    def _log(self, metrics: Metrics) -> None:
        values = {k: float(v) for k, v in jax.device_get(metrics).items()}
        speed = self.speed.tiles_per_second
        self.progress.show(
            loss=values["loss"], tiles_per_second=speed, seconds_per_step=self.speed.seconds_per_step
        )
        if self.log is not None:
            extra: dict[str, Any] = {
                "learning_rate": self._learning_rate(),
                "epoch": self.step / self.steps_per_epoch,
                "tiles_per_second": speed,
                **self.health(),
            }
            if self.saving_seconds:
                extra["checkpoint_seconds"] = self.saving_seconds
                self.saving_seconds = 0.0
            self.log.scalars("train", {**values, **extra}, step=self.step)
        self.speed.restart()

    def _learning_rate(self) -> float:
        """Rate of the update that the last step made, or took part in."""
        every, batches = self.config.optimizer.accumulate, self.step - 1
        first_early = self.config.optimizer.accumulate_first == "half"
        return float(self.schedule((batches + every - 1) // every if first_early else batches // every))

    def _validate(self) -> float | None:
        """Score the evaluation variables. A stop request ends it early: None, and the loop stops then."""
        self.watchdog.expect(f"the validation of step {self.step}", long=True)
        try:
            found = self.validator(
                self.model, eval_variables(self.state), mesh=self.mesh, on_batch=self._stop_check
            )
        except _Stopped:
            self.cut_short = True
            return None
        if self.log is not None:
            self.log.scalars("validation", found.scalars, step=self.step)
            self.log.images(found.images, step=self.step)
        self.progress.say(f"step {self.step}: {found.summary}")
        return found.metric

    def _late_validation(self) -> None:
        """Make up for a validation that a stop request cut short, so that the run is as one never stopped."""
        train = self.config.train
        if not self.step or (self.step % train.eval_every and self.step != train.steps):
            return
        # Process 0 alone has the log.
        if not agreed(self.log is None or self.log.has("validation", step=self.step)):
            self._rank()

    def _rank(self) -> None:
        """Validate, and rank the checkpoint of this step by the result."""
        metric = self._validate()
        if not self.cut_short:
            with self._lost_time():
                self.checkpoints.set_metric(self.step, metric)

    def _save(self) -> None:
        self.watchdog.expect(f"saving step {self.step}", long=True)
        position = self.start_position + self.batches.taken
        with self._lost_time():
            self.checkpoints.save(self.state, step=self.step, position=position, metric=None)
        self.saved_step = self.step
        if self.session is not None:
            self.session.update(step=self.step)
        self.speed.restart()

    @contextlib.contextmanager
    def _lost_time(self) -> Iterator[None]:
        """Count how long checkpoints keep the loop waiting; the writing itself goes on beside the steps."""
        since = time.perf_counter()
        yield
        self.saving_seconds += time.perf_counter() - since

    def _stop_check(self, done: int, total: int) -> None:
        self.watchdog.expect(f"the validation of step {self.step}, {done} of {total} tiles done", long=True)
        if self.stop.reached():
            raise _Stopped

    def _introduce(self) -> None:
        parameters = sum(p.size for p in jax.tree.leaves(self.state.params))
        self.progress.say(
            f"{parameters / 1e6:.2f} M parameters on {self.mesh.size} {jax.default_backend()} device(s),"
            f" {self.config.sharding.strategy};"
            f" {', '.join(name for name, _ in self.model.modalities)};"
            f" students {', '.join(map(str, self.students))}"
        )
        steps = self.config.train.steps
        if self.step >= steps:
            self.progress.say(f"step {self.step} of {steps} is done; a higher --config.train.steps goes on")
            return
        if self.step:
            self.progress.say(f"continuing at step {self.step} of {steps}")
        self.progress.say("compiling the first step ...")


def _put(batch: Batch, *, mesh: Mesh) -> Any:
    """Onto the mesh, without what the step does not read."""
    return put_batch({k: v for k, v in batch.items() if k not in ("valid", "index")}, mesh)


def absolute_data(config: Config) -> Config:
    """Make the paths absolute (dataset, ``init_from``), so that the stored config holds from any working directory.

    Raises ``Dis2Error`` when the config names no dataset.
    """
    if not config.data.dir:
        raise Dis2Error(
            "config data.dir is empty: give --config.data.dir=DIR, a folder of `dis2 data prepare`"
        )
    data = dataclasses.replace(config.data, dir=str(Path(config.data.dir).absolute()))
    source = config.train.init_from
    train = dataclasses.replace(config.train, init_from=str(Path(source).absolute()) if source else "")
    return dataclasses.replace(config, data=data, train=train)
