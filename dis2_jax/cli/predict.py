"""``dis2 predict``: whole scenes from raster files to georeferenced maps."""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dis2_jax.cli.arguments import parse_tile, refuse
from dis2_jax.cli.evaluate import parse_checkpoint
from dis2_jax.schema import Dis2Error, nearest

if TYPE_CHECKING:
    from dis2_jax.inference.folder import FolderResult
    from dis2_jax.inference.inputs import ModalityFile
    from dis2_jax.inference.model import Model
    from dis2_jax.inference.scene import SceneOptions, SceneResult

_ALSO = {
    "probabilities": ("probabilities", "float32, one band per class"),
    "confidence": ("confidence", "probability of the most probable class"),
    "entropy": ("entropy", "0 certain .. 1 undecided"),
    "scenario_map": ("scenarios", "which set of modalities answered each pixel"),
    "quicklook": ("quicklook", "PNG of inputs and map with a legend"),
    "vector": (
        "vector",
        "polygons with their areas, .gpkg, .fgb or .geojson; needs pip install 'dis2-jax[vector]'",
    ),
}
"""Option -> product and help."""


def add_parser(subparsers: Any) -> None:
    """Add ``predict``."""
    parser = subparsers.add_parser(
        "predict",
        help="map whole scenes from GeoTIFF or PNG files, with whatever modalities are there",
        description="Predict scenes of any size by overlapping windows, and write a class map on the grid of the"
        " first modality given. A modality that is left out, or nodata in a part of the scene, is done without. With"
        " * in the file names every scene of a folder is predicted, and --out is a folder. Run the same command"
        " again to go on after an interruption.",
    )
    parser.add_argument("--workdir", required=True, metavar="W", help="folder of the run")
    parser.add_argument(
        "--modality",
        action="append",
        required=True,
        metavar="NAME=FILE",
        help="one per modality that is there, such as rgb=a.tif or rgb=dir/*_rgb.tif",
    )
    parser.add_argument(
        "--out", required=True, metavar="TIF", help="class map, or a folder for several scenes"
    )
    _add_reading(parser)
    _add_running(parser)
    for option, (_, text) in _ALSO.items():
        flag = f"--{option.replace('_', '-')}"
        parser.add_argument(flag, nargs="?", const="", metavar="FILE", help=f"{text} (default: beside --out)")
    parser.add_argument(
        "--simplify",
        metavar="2px or 1.5m",
        help="straighten the outlines of --vector, shared ones alike (default: they follow the pixels)",
    )
    parser.set_defaults(func=run, parser=parser)


def _add_reading(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--bands",
        action="append",
        default=[],
        metavar="NAME=4,3,2",
        help="bands of a modality's file, from 1 (default: as in training)",
    )
    parser.add_argument(
        "--nodata",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="number that marks missing pixels where the file does not say; NaN always does",
    )
    parser.add_argument(
        "--reference", metavar="NAME", help="modality whose grid the map has (default: first)"
    )
    parser.add_argument(
        "--max-missing",
        type=float,
        metavar="SHARE",
        help="a modality missing in more of a window is done without there (default: 0.5)",
    )


def _add_running(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--checkpoint", default="best", metavar="best|last|STEP", help="default: best")
    parser.add_argument("--window", metavar="N or HxW", help="pixels (default: the training tile)")
    parser.add_argument(
        "--overlap", type=int, metavar="PIXELS", help="shared by neighbouring windows (default: a quarter)"
    )
    parser.add_argument(
        "--tta",
        action="store_true",
        help="test-time augmentation: average over windows turned and mirrored, 8 ways if they are square, else 4",
    )
    parser.add_argument("--batch", type=int, metavar="B", help="windows per call (default: what fits)")
    parser.add_argument("--device", metavar="cpu|gpu|tpu|gpu:1", help="default: JAX's first")


def run(arguments: argparse.Namespace, rest: list[str]) -> int:
    """Predict one scene or a folder; 1 where a scene of a folder failed."""
    refuse(rest, arguments.parser)
    checkpoint = parse_checkpoint(arguments.checkpoint)
    if arguments.device == "cpu":
        os.environ.setdefault("JAX_PLATFORMS", "cpu")  # or JAX would take hold of an accelerator all the same
    from dis2_jax.inference import engine, folder, model, vector

    also = {
        product: getattr(arguments, option) or None
        for option, (product, _) in _ALSO.items()
        if getattr(arguments, option) is not None
    }
    if "vector" in also:
        vector.check_installed()
    elif arguments.simplify is not None:
        raise Dis2Error("--simplify is for the polygons of --vector: give that too")
    files = parse_files(arguments.modality, bands=arguments.bands, nodata=arguments.nodata)
    options = _options(arguments)
    many = any(folder.has_pattern(f.path) and not f.path.exists() for f in files.values())
    named = [str(path) for path in also.values() if path is not None]
    if many and named:
        raise Dis2Error(f"{named[0]}: with several scenes the names of further outputs follow from --out")
    engine.pick_device(options.device)  # said once, not per scene
    loaded = model.load(arguments.workdir, checkpoint=checkpoint, tta=arguments.tta)
    try:
        if many:
            return _folder(loaded, files, Path(arguments.out), tuple(also), options)
        _scene(loaded, files, Path(arguments.out), also, options)
        return 0
    except KeyboardInterrupt:
        print("\ndis2: interrupted; run the same command again to go on", file=sys.stderr)
        return 130


def _scene(
    model: Model,
    files: Mapping[str, ModalityFile],
    out: Path,
    also: Mapping[str, str | None],
    options: SceneOptions,
) -> None:
    with _Bar() as bar:
        result = model.predict_scene(
            files, out=out, also=also, options=options, on_windows=bar.advance, on_note=bar.note
        )
    print("\n".join(describe(result)))


def _folder(
    model: Model, files: Mapping[str, ModalityFile], out: Path, also: tuple[str, ...], options: SceneOptions
) -> int:
    from dis2_jax.inference.folder import Watcher, predict_folder

    with _Bar() as bar:
        watcher = Watcher(
            on_scene=bar.begin,
            on_windows=bar.advance,
            on_note=lambda scene, text: bar.note(f"{scene}: {text}"),
        )
        result = predict_folder(model, files, out, also, options, watcher=watcher)
    print("\n".join(_describe_folder(result, out)))
    for scene, why in result.failed.items():
        print(f"dis2: scene {scene!r} failed: {why}", file=sys.stderr)
    return 1 if result.failed else 0


def describe(result: SceneResult) -> list[str]:
    """Speed, shares of classes and scenarios, and where everything is."""
    height, width = result.size
    speed = height * width / 1e6 / max(result.seconds, 1e-9)
    lines = [
        f"{height} x {width} pixels in {result.windows} windows, {result.seconds:.1f} s ({speed:.3g} megapixels/s)",
        f"classes:       {_shares(result.class_pixels)}{_nodata(result)}",
        f"answered from: {_shares(result.scenario_pixels)}",
    ]
    return lines + [f"{name + ':':15}{path}" for name, path in result.paths.items()]


def _describe_folder(result: FolderResult, out: Path) -> list[str]:
    lines = []
    for one in result.done.values():
        lines.append(f"{one.paths['map']}: {one.size[0]} x {one.size[1]} pixels")
        lines.append(f"    classes {_shares(one.class_pixels)}{_nodata(one)}")
        lines.append(f"    answered from {_shares(one.scenario_pixels)}")
    counts = [f"{len(result.done)} scenes predicted"]
    counts += [f"{len(result.skipped)} were there already"] if result.skipped else []
    counts += [f"{len(result.failed)} failed"] if result.failed else []
    return [*lines, f"{out}: {', '.join(counts)}"]


def _shares(pixels: Mapping[str, int]) -> str:
    """Per cent of the pixels that have an answer; what has none of them is left out."""
    total = sum(pixels.values())
    return ", ".join(f"{name} {100 * n / total:.1f} %" for name, n in pixels.items() if n) or "nothing"


def _nodata(result: SceneResult) -> str:
    pixels = result.size[0] * result.size[1]
    missing = pixels - sum(result.class_pixels.values())
    return f"; nodata in {100 * missing / pixels:.1f} % of the scene" if missing else ""


def parse_files(modalities: list[str], *, bands: list[str], nodata: list[str]) -> dict[str, ModalityFile]:
    """Read ``NAME=FILE``, ``NAME=4,3,2`` and ``NAME=-9999``; ``Dis2Error`` quotes what cannot be read."""
    from dis2_jax.inference.inputs import ModalityFile

    files: dict[str, ModalityFile] = {}
    for text in modalities:
        name, path = _pair(text, "--modality", "rgb=a.tif")
        if name in files:
            raise Dis2Error(f"--modality {name} is given twice")
        files[name] = ModalityFile(Path(path))
    for text in bands:
        name, value = _pair(text, "--bands", "rgb=4,3,2", known=files)
        numbers = value.split(",")
        if not all(n.strip().isdecimal() for n in numbers):
            raise Dis2Error(f"--bands {text}: write band numbers from 1, such as {name}=4,3,2")
        files[name] = dataclasses.replace(files[name], bands=tuple(int(n) for n in numbers))
    for text in nodata:
        name, value = _pair(text, "--nodata", "ndsm=-9999", known=files)
        try:
            files[name] = dataclasses.replace(files[name], nodata=float(value))
        except ValueError as e:
            raise Dis2Error(f"--nodata {text}: {value!r} is not a number") from e
    return files


def _pair(
    text: str, option: str, example: str, *, known: Mapping[str, object] | None = None
) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals and value):
        raise Dis2Error(f"{option} {text}: write NAME=VALUE, such as {example}")
    if known is not None and name not in known:
        raise Dis2Error(f"{option} {text}: no --modality {name} is given{nearest(name, known)}")
    return name, value


def _options(arguments: argparse.Namespace) -> SceneOptions:
    from dis2_jax.inference.scene import MAX_MISSING, SceneOptions
    from dis2_jax.inference.vector import Simplify

    return SceneOptions(
        window=parse_tile(arguments.window, option="--window") if arguments.window else None,
        overlap=arguments.overlap,
        batch=arguments.batch,
        max_missing=MAX_MISSING if arguments.max_missing is None else arguments.max_missing,
        reference=arguments.reference,
        device=arguments.device,
        simplify=None if arguments.simplify is None else Simplify.parse(arguments.simplify),
    )


class _Bar:
    """A tqdm bar over windows, for one scene after the other."""

    def __init__(self) -> None:
        from tqdm import tqdm

        self._bar = tqdm(desc="predict (compiles first)", unit="window", leave=False)
        self._name = "predict"

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def begin(self, scene: str, position: int, total: int) -> None:
        self._name = f"{scene} ({position}/{total})"
        self._bar.reset()
        self._bar.set_description(self._name)

    def note(self, text: str) -> None:
        self._bar.write(f"note: {text}")

    def advance(self, done: int, total: int) -> None:
        self._bar.total = total
        self._bar.set_description(self._name, refresh=False)
        self._bar.update(done - self._bar.n)
