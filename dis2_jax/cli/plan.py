"""``dis2 plan``: the training step compiled for machines that are not here, and how fast it would be there."""

from __future__ import annotations

import argparse
import dataclasses
import itertools
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dis2_jax.cli.arguments import parse_names, parse_tile, write_json
from dis2_jax.cli.bench import DEFAULT_CLASSES, default_tile, parse_modalities, read_config
from dis2_jax.schema import Dis2Error

if TYPE_CHECKING:
    from dis2_jax.config import Config
    from dis2_jax.planning.plan import Line
    from dis2_jax.planning.request import Request, Row
    from dis2_jax.schema import DatasetCard


def add_parser(subparsers: Any) -> None:
    """Add ``plan``."""
    parser = subparsers.add_parser(
        "plan",
        help="compile for a machine you do not have; memory, traffic, predicted time",
        description="Compile the training step ahead of time for TPU pods or NVIDIA clusters (no such hardware"
        " needed), one process per row, and predict its speed. Needs the extra [plan] (TPU) or [plan-cuda], best in"
        " an environment of its own. Further options: --config.a.b=value, as in `dis2 train`.",
    )
    parser.add_argument("--config", metavar="FILE", help="configs/*.py (default: the built-in values)")
    parser.add_argument(
        "--topology",
        required=True,
        metavar="T[,T]",
        help="v5e:16x16, v5p:16x16x16, v6e:4x4, 2*v5e:16x16 (two slices), h100:128, ...",
    )
    parser.add_argument("--strategy", default="dp", metavar="S[,S]", help="default: dp")
    parser.add_argument("--axes", default="", metavar="a:N,b:N", help="mesh axes, as config.sharding.axes")
    parser.add_argument(
        "--remat",
        default="none",
        metavar="R[,R]",
        help="what is recomputed: none, decoder, branch, full (default: none); with --search, tried in this order",
    )
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--global-batch", type=int, metavar="B", help="tiles per step over all chips")
    size.add_argument(
        "--chip-batch", type=int, metavar="B", help="tiles per step and chip (default: the config's)"
    )
    parser.add_argument("--tile", metavar="N or HxW", help="pixels (default: the config's crop, or 128)")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), help="default: the config's")
    parser.add_argument("--card", metavar="NAME", help="published dataset that is not here, such as potsdam")
    parser.add_argument("--modalities", metavar="a:C,b:C", help="or its channels")
    parser.add_argument("--classes", type=int, metavar="K", help=f"with them (default: {DEFAULT_CLASSES})")
    parser.add_argument(
        "--search", action="store_true", help="double the batch from the given one while it fits and pays"
    )
    parser.add_argument(
        "--max-batch", type=int, default=64, metavar="B", help="of --search, per chip (default: 64)"
    )
    parser.add_argument(
        "--scale-from",
        metavar="T",
        help="compile rows of strategy dp for this small machine only, and scale them to larger ones of its chip",
    )
    parser.add_argument(
        "--no-baseline", action="store_true", help="without the one-chip rows to compare with"
    )
    parser.add_argument("--rows", metavar="DIR", help="keep finished rows there, and take them from there")
    parser.add_argument("--hlo", metavar="DIR", help="keep the compiled text of each row there (gzip)")
    parser.add_argument("--timeout", type=float, default=7200, metavar="S", help="per row (default: 7200 s)")
    parser.add_argument("--json", metavar="FILE", help="also write everything there")
    parser.add_argument("--markdown", metavar="FILE", help="also write the table there")
    parser.set_defaults(func=run)


def run(arguments: argparse.Namespace, rest: list[str]) -> None:
    """Compile, print, write."""
    from dis2_jax.planning import plan, scaling, search

    config = read_config(arguments.config, rest)
    if arguments.dtype:
        config = dataclasses.replace(config, model=dataclasses.replace(config.model, dtype=arguments.dtype))
    tile = parse_tile(arguments.tile) if arguments.tile else default_tile(config)
    requests = _requests(config, _card(config, arguments, tile), arguments, tile)
    compile_row: plan.Compile = _Rows(arguments)
    if arguments.scale_from:
        compile_row = scaling.scaling(compile_row, arguments.scale_from)
    notes: list[str] = []
    if arguments.search:
        rows: list[Row] = []
        for topology in dict.fromkeys(r.topology for r in requests):
            starts = [r for r in requests if r.topology == topology]
            limit = arguments.max_batch * starts[0].machine.chips
            ladders = [
                list(same) for _, same in itertools.groupby(starts, key=lambda r: r.config.sharding.strategy)
            ]
            found = search.search(ladders, compile_row, with_batch=_with_batch, limit=limit)
            rows += found.rows
            notes += [*found.pruned, _best(found.best, topology)]
        requests = [r.request for r in rows]
    lines = plan.run_plan(requests, compile_row, baselines=not arguments.no_baseline)
    _show(lines, notes, arguments)


def _card(config: Config, arguments: argparse.Namespace, tile: tuple[int, int]) -> DatasetCard:
    from dis2_jax.planning.datasets import config_card, known_card
    from dis2_jax.random_tiles import random_card

    if arguments.modalities:
        classes = DEFAULT_CLASSES if arguments.classes is None else arguments.classes
        return random_card(parse_modalities(arguments.modalities), classes=classes, tile=tile)
    if arguments.classes is not None:
        raise Dis2Error("dis2 plan: --classes goes with --modalities a:C,b:C")
    if arguments.card:
        return known_card(arguments.card, config.data.modalities, tile=tile)
    return config_card(config.data.dir, config.data.modalities, tile=tile)


def _requests(
    config: Config, card: DatasetCard, arguments: argparse.Namespace, tile: tuple[int, int]
) -> list[Request]:
    from dis2_jax.planning.plan import make_request
    from dis2_jax.planning.topology import parse_topology

    found = []
    for topology in parse_names(arguments.topology):
        chips = parse_topology(topology).chips
        batch = arguments.global_batch
        if batch is None:
            own = config.data.batch_size if arguments.chip_batch is None else arguments.chip_batch
            batch = own * chips
        for strategy, remat in itertools.product(
            parse_names(arguments.strategy), parse_names(arguments.remat)
        ):
            found.append(
                make_request(
                    config,
                    card,
                    topology=topology,
                    strategy=strategy,
                    axes=arguments.axes,
                    remat=remat,
                    batch=batch,
                    tile=tile,
                )
            )
    return found


def _with_batch(request: Request, batch: int) -> Request:
    from dis2_jax.planning.plan import make_request

    sharding = request.config.sharding
    return make_request(
        request.config,
        request.card,
        topology=request.topology,
        strategy=sharding.strategy,
        axes=sharding.axes,
        remat=sharding.remat,
        batch=batch,
        tile=request.tile,
    )


class _Rows:
    """Compile rows and tell about each; those in the store, or asked for twice, are taken from there."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        from dis2_jax.planning.rows import RowStore

        self._store = RowStore(Path(arguments.rows)) if arguments.rows else None
        self._done: dict[str, Row] = {}
        self._hlo = Path(arguments.hlo) if arguments.hlo else None
        self._timeout = arguments.timeout

    def __call__(self, request: Request) -> Row:
        from dis2_jax.planning.rows import run_row

        known = self._done.get(request.to_json()) or (self._store.read(request) if self._store else None)
        if known is None:
            print(f"compiling {request.key} ...", flush=True)
            if self._hlo:
                self._hlo.mkdir(parents=True, exist_ok=True)
            hlo = self._hlo / f"{request.key}.hlo.gz" if self._hlo else None
            known = run_row(request, timeout=self._timeout, hlo=hlo)
            outcome = known.failure.reason if known.failure else "done"
            print(f"  {outcome} after {known.seconds:.0f} s", flush=True)
            if self._store:
                self._store.write(known)
        self._done[request.to_json()] = known
        return known


def _best(row: Row | None, topology: str) -> str:
    from dis2_jax.planning.plan import predicted

    prediction = predicted(row) if row is not None else None
    if row is None or prediction is None:
        return f"{topology}: nothing fits"
    sharding, batch = row.request.config.sharding, row.request.config.data.batch_size
    return (
        f"{topology}: fastest is {sharding.strategy}, remat {sharding.remat}, with {batch} tiles per step:"
        f" {prediction.tiles_per_second:,.1f} tiles/s"
    )


def _show(lines: list[Line], notes: list[str], arguments: argparse.Namespace) -> None:
    from dis2_jax.evaluation.tables.grid import markdown_grid, text_grid
    from dis2_jax.files import write_results
    from dis2_jax.planning import table

    grid = table.grid(lines)
    remarks = [*table.reasons(lines), *notes, *table.remarks(lines)]
    print()
    print(text_grid(grid, width=150))
    print("\n".join(["", *remarks] if remarks else []))
    if arguments.markdown:
        path = Path(arguments.markdown)
        text = "\n".join([markdown_grid(grid), "", *(f"- {r}" for r in remarks)]).rstrip() + "\n"
        write_results(path.parent, {path.name: text})
    if arguments.json:
        write_json(Path(arguments.json), {"rows": table.to_json(lines), "notes": remarks})
