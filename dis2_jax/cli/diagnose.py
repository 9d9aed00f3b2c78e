"""``dis2 diagnose``: how much of a missing modality the compensation features bring back."""

from __future__ import annotations

import argparse
from typing import Any

from dis2_jax.cli.arguments import add_dataset, add_run, refuse
from dis2_jax.cli.evaluate import parse_checkpoint


def add_parser(subparsers: Any) -> None:
    """Add ``diagnose``."""
    parser = subparsers.add_parser(
        "diagnose",
        help="how much of a missing modality the compensation brings back, per level and class",
        description="Compare every student with the full branch on the tiles that have every modality: mIoU, "
        "linear CKA and distances with the missing slots as trained, zeroed, and filled with the real "
        "features; IoU lost per class; pictures of the class attention. Writes "
        "W/evaluation/diagnostics.json, .md and attention/*.png.",
    )
    add_choice(parser)
    parser.add_argument(
        "--positions", type=int, default=64, metavar="N", help="positions per map and tile for the CKA (64)"
    )
    parser.add_argument(
        "--pictures", type=int, default=4, metavar="N", help="tiles whose class attention is drawn (4)"
    )
    parser.set_defaults(func=run, parser=parser)


def add_choice(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that choose weights and tiles, for this command and ``degrade``."""
    add_run(parser)
    add_dataset(parser)
    parser.add_argument(
        "--tiles", type=int, metavar="N", help="only the first N tiles of a seeded order (default: all)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of that order and everything else random (0)")


def read_choice(arguments: argparse.Namespace) -> Any:
    """Return the ``Choice`` that the arguments of ``add_choice`` make."""
    checkpoint = parse_checkpoint(arguments.checkpoint)
    from dis2_jax.evaluation.chosen import Choice

    return Choice(
        split=arguments.split,
        checkpoint=checkpoint,
        dataset=arguments.dataset,
        tiles=arguments.tiles,
        batch_size=arguments.batch_size,
        seed=arguments.seed,
    )


def run(arguments: argparse.Namespace, rest: list[str]) -> None:
    """Diagnose with a progress bar, print the tables and what was written."""
    refuse(rest, arguments.parser)
    choice = read_choice(arguments)
    from tqdm import tqdm

    from dis2_jax.evaluation.diagnostics.run import diagnose_workdir
    from dis2_jax.evaluation.diagnostics.tables import text_report

    with tqdm(desc="diagnose (compiles first)", unit="tile", leave=False) as bar:

        def advance(done: int, total: int) -> None:
            bar.total = total
            bar.set_description("diagnose", refresh=False)
            bar.update(done - bar.n)

        report = diagnose_workdir(
            arguments.workdir,
            choice,
            positions=arguments.positions,
            pictures=arguments.pictures,
            on_batch=advance,
        )
    print(text_report(report.diagnostics))
    for path in report.paths:
        print(path)
