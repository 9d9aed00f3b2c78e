"""``dis2 evaluate``: the scenario x class table of a trained run."""

from __future__ import annotations

import argparse
import contextlib
import signal
from typing import TYPE_CHECKING, Any, Literal

from dis2_jax.cli.arguments import add_dataset, add_run, refuse
from dis2_jax.cli.job import add_job_arguments, job
from dis2_jax.schema import Dis2Error

if TYPE_CHECKING:
    from dis2_jax.distributed.watchdog import Watchdog


def add_parser(subparsers: Any) -> None:
    """Add ``evaluate``."""
    parser = subparsers.add_parser(
        "evaluate",
        help="table of every missing-modality scenario x class, and prediction panels",
        description="Evaluate every scenario of a run. Writes W/evaluation/evaluation.json, .csv, .md, "
        "tiles.csv and panels/*.png; a split or dataset that is not the default, excluded classes and --tta go "
        "into the names (evaluation-validation.json).",
    )
    add_run(parser)
    add_dataset(parser)
    parser.add_argument(
        "--panels", type=int, metavar="N", help="tiles to draw (default: config.train.panels)"
    )
    parser.add_argument(
        "--no-baselines",
        action="store_true",
        help="leave out the rows of the full model fed zeros for what is missing",
    )
    parser.add_argument(
        "--tta",
        action="store_true",
        help="test-time augmentation: average over the tile turned and mirrored, 8 ways if it is square, else 4",
    )
    measures = parser.add_argument_group("measures")
    measures.add_argument(
        "--exclude",
        metavar="CLASS",
        action="append",
        default=[],
        help="score no pixel whose reference is this class, and leave it out of the means (may be repeated)",
    )
    measures.add_argument(
        "--erode",
        type=int,
        default=3,
        metavar="PX",
        help="the eroded scores ignore pixels within PX of a class boundary (default: 3)",
    )
    measures.add_argument(
        "--boundary-tolerance",
        type=int,
        default=3,
        metavar="PX",
        help="boundary F1: boundaries match within PX (default: 3)",
    )
    measures.add_argument(
        "--bootstrap",
        type=int,
        default=1000,
        metavar="N",
        help="resamples of the tiles for the intervals (default: 1000; 0: none)",
    )
    measures.add_argument(
        "--details", action="store_true", help="print tables per class, scene and confidence too"
    )
    add_job_arguments(parser)
    parser.set_defaults(func=run, parser=parser)


def run(arguments: argparse.Namespace, rest: list[str]) -> int:
    """Evaluate with a progress bar, print the table and what was written; 0, or 128 + the signal that ended it."""
    refuse(rest, arguments.parser)
    checkpoint = parse_checkpoint(arguments.checkpoint)
    with job(arguments) as watchdog:
        return _evaluate(arguments, checkpoint, watchdog)


def _evaluate(
    arguments: argparse.Namespace, checkpoint: Literal["best", "last"] | int, watchdog: Watchdog
) -> int:
    import jax
    from tqdm import tqdm

    from dis2_jax.distributed.jointly import several
    from dis2_jax.evaluation.run import Options, evaluate_workdir
    from dis2_jax.evaluation.scoring.ruler import MeasureOptions
    from dis2_jax.evaluation.tables.measures import details_text
    from dis2_jax.evaluation.tables.scores import text_table
    from dis2_jax.training.signals import StopRequest

    options = Options(
        split=arguments.split,
        checkpoint=checkpoint,
        dataset=arguments.dataset,
        panels=arguments.panels,
        batch_size=arguments.batch_size,
        baselines=not arguments.no_baselines,
        tta=arguments.tta,
        measures=MeasureOptions(
            erode=arguments.erode,
            tolerance=arguments.boundary_tolerance,
            exclude=tuple(arguments.exclude),
            samples=arguments.bootstrap,
        ),
    )
    first = jax.process_index() == 0
    with (
        tqdm(desc="evaluate (compiles first)", unit="tile", leave=False, disable=not first) as bar,
        StopRequest(print) if several() else contextlib.nullcontext() as stop,
    ):

        def advance(done: int, total: int) -> None:
            watchdog.expect(f"the evaluation, {done} of {total} tiles done", long=True)
            if stop is not None and stop.reached():
                raise _Stopped
            bar.total = total
            bar.set_description("evaluate", refresh=False)
            bar.update(done - bar.n)

        try:
            report = evaluate_workdir(arguments.workdir, options, on_batch=advance)
        except _Stopped:
            return 128 + signal.SIGTERM
    if not first:
        return 0
    print(text_table(report.evaluation))
    if arguments.details:
        print(details_text(report.evaluation))
    for path in report.paths:
        print(path)
    return 0


class _Stopped(Exception):
    """SIGTERM in a job of several processes, which JAX keeps from ending them."""


def parse_checkpoint(text: str) -> Literal["best", "last"] | int:
    """Read ``best``, ``last`` or a step; anything else raises ``Dis2Error``."""
    if text == "best":
        return "best"
    if text == "last":
        return "last"
    if text.isdecimal():
        return int(text)
    raise Dis2Error(f"--checkpoint {text!r}: write best, last or a step such as 1000")
