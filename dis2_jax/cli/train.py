"""``dis2 train``: train a config in a workdir, or continue there."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dis2_jax.cli.job import add_job_arguments, job

if TYPE_CHECKING:
    from dis2_jax.distributed.watchdog import Watchdog


def add_parser(subparsers: Any) -> None:
    """Add ``train``."""
    parser = subparsers.add_parser(
        "train",
        help="train a model, or continue a stopped run",
        description="Train what a config describes. If the workdir holds a stopped run, it continues there,"
        " bit by bit as if never stopped. Every key of the config can be overridden:"
        " --config.optimizer.learning_rate=3e-4 --config.data.crop=128,128 --config.recipe=released.",
    )
    parser.add_argument("--config", metavar="FILE", help="configs/*.py; not needed to continue a run")
    parser.add_argument("--workdir", metavar="W", required=True, help="folder of the run")
    add_job_arguments(parser)
    parser.set_defaults(func=run)


def run(arguments: argparse.Namespace, rest: list[str]) -> int:
    """Train; returns 0, or 128 + signal number when one stopped it (several processes: every one of them)."""
    with job(arguments) as watchdog:
        return _train(arguments, rest, watchdog)


def _read_config(arguments: argparse.Namespace, rest: list[str]) -> Any:
    from dis2_jax import config_file
    from dis2_jax.schema import Dis2Error

    if arguments.config:
        return config_file.load(arguments.config, rest)
    if (Path(arguments.workdir) / config_file.CONFIG_FILE).is_file():
        return config_file.override(config_file.read(arguments.workdir), config_file.parse_overrides(rest))
    raise Dis2Error(f"workdir {arguments.workdir} holds no run yet: give --config configs/<name>.py")


def _train(arguments: argparse.Namespace, rest: list[str], watchdog: Watchdog) -> int:
    import jax

    from dis2_jax.distributed.jointly import jointly

    with jointly():
        config = _read_config(arguments, rest)
    # Orbax warns when a save is slower than the steps before the next one: nothing that a user must act on.
    logging.getLogger("absl").setLevel(logging.ERROR)

    from dis2_jax.evaluation.validate import SplitValidator
    from dis2_jax.schema import DatasetCard
    from dis2_jax.training.everywhere import check_same_everywhere
    from dis2_jax.training.loop import absolute_data, resume_command, train

    workdir = arguments.workdir
    with jointly():
        config = absolute_data(config)
        card = DatasetCard.load(config.data.dir).select(config.data.modalities)
        validator = SplitValidator(config, card)
    check_same_everywhere(config, card, workdir)
    if config.model.dtype == "float64":
        jax.config.update("jax_enable_x64", True)
    try:
        outcome = train(config, workdir, validator=validator, watchdog=watchdog)
    except KeyboardInterrupt:
        print(
            f"dis2: stopped at once; `{resume_command(workdir)}` goes on from the last checkpoint",
            file=sys.stderr,
            flush=True,
        )
        os._exit(130)  # at once: the interpreter's own exit would wait for the writer threads
    if jax.process_index() == 0:
        _report(outcome, workdir)
    return 0 if outcome.signal is None else 128 + outcome.signal


def _report(outcome: Any, workdir: str) -> None:
    from dis2_jax.training.loop import resume_command

    if outcome.signal is None:
        print(f"done: step {outcome.step}; next: dis2 evaluate --workdir {workdir}")
    else:
        print(f"stopped and saved at step {outcome.step}; go on with: {resume_command(workdir)}", flush=True)
