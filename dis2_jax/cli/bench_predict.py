"""``dis2 bench predict``: megapixels per second of whole scenes, for a trained run or a config."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dis2_jax.cli.arguments import parse_tile, refuse, write_json
from dis2_jax.schema import Dis2Error, Scenario

if TYPE_CHECKING:
    from dis2_jax.inference.model import Model


def add_parser(which: Any) -> None:
    """Add ``predict`` to the benchmarks."""
    parser = which.add_parser(
        "predict",
        help="whole scenes, on a random scene",
        description="Predict a random scene as `dis2 predict` does, and time it. With --workdir the model is a"
        " trained one; without, it is made from a config with random weights (--config, --config.a.b=value).",
    )
    parser.add_argument("--workdir", metavar="W", help="folder of a trained run")
    parser.add_argument("--config", metavar="FILE", help="configs/*.py (default: the built-in values)")
    parser.add_argument("--modalities", metavar="a:C,b:C", help="with a config whose dataset is not there")
    parser.add_argument("--classes", type=int, metavar="K", help="likewise")
    parser.add_argument(
        "--size", type=int, default=1024, metavar="N", help="side of the scene (default: 1024)"
    )
    parser.add_argument("--scenario", metavar="a+b", help="modalities that are there (default: all)")
    parser.add_argument("--window", metavar="N or HxW", help="pixels (default: the training tile)")
    parser.add_argument("--overlap", type=int, metavar="PIXELS", help="default: a quarter of the window")
    parser.add_argument("--batch", type=int, metavar="B", help="windows per call (default: what fits)")
    parser.add_argument("--device", metavar="cpu|gpu|tpu|gpu:1", help="default: JAX's first")
    parser.add_argument("--json", metavar="FILE", help="also write the figures there")
    parser.set_defaults(func=run, parser=parser)


def run(arguments: argparse.Namespace, rest: list[str]) -> None:
    """Measure and print."""
    if arguments.workdir:
        refuse(rest, arguments.parser)
        if arguments.config:
            raise Dis2Error("dis2 bench predict: give --workdir or --config, not both")
    from dis2_jax.inference.bench import bench_predict
    from dis2_jax.inference.model import load
    from dis2_jax.inference.scene import SceneOptions

    window = parse_tile(arguments.window, option="--window") if arguments.window else None
    options = SceneOptions(
        window=window, overlap=arguments.overlap, batch=arguments.batch, device=arguments.device
    )
    model = load(arguments.workdir) if arguments.workdir else _random_model(arguments, rest, window)
    scenario = model.scenarios[0]
    if arguments.scenario:
        scenario = model.scenario_of(Scenario.parse(arguments.scenario, model.modalities).available)
    result = bench_predict(model, options, side=arguments.size, scenario=scenario)
    print("\n".join(result.lines()))
    if arguments.json:
        write_json(Path(arguments.json), dataclasses.asdict(result))


def _random_model(arguments: argparse.Namespace, rest: list[str], window: tuple[int, int] | None) -> Model:
    import jax

    from dis2_jax.cli.bench import dataset_card, default_tile, read_config
    from dis2_jax.inference.model import Model
    from dis2_jax.training.state import build_model, init_variables

    config = read_config(arguments.config, rest)
    tile = window or default_tile(config)
    card = dataset_card(config, arguments, tile)
    network = build_model(config.model, card, tile=tile)
    # Any random parameters will do, and these compile three times as fast as the training's.
    with jax.default_prng_impl("unsafe_rbg"):
        variables = jax.jit(lambda: init_variables(network, seed=0))()
    return Model(network=network, variables=variables, card=card, normalization="none")
