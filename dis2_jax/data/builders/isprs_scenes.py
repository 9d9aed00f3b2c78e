"""Find an ISPRS benchmark's files by their published names and check what can be checked before a tile is cut."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from dis2_jax.data.builders.align import corner_in, misfit
from dis2_jax.data.builders.isprs import Benchmark, Image, IsprsDataset, IsprsOptions, IsprsScene
from dis2_jax.data.builders.isprs_labels import count_strays, list_strays
from dis2_jax.data.builders.layers import Layer, LayeredScene
from dis2_jax.data.builders.published import Product, PublishedFile, kinds, list_published, natural, pick
from dis2_jax.data.builders.tiles import DatasetSpec
from dis2_jax.data.rasters import RasterInfo, RasterReader, raster_info
from dis2_jax.schema import Dis2Error, Modality, SourceFormat, nearest

DECIMETRES = 0.1
T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class _Choice:
    """The products that the options name, and the files of each: id -> file."""

    image: Image
    height: Product
    label: Product
    images: Mapping[str, PublishedFile]
    heights: Mapping[str, PublishedFile]
    labels: Mapping[str, PublishedFile]


def find_isprs(benchmark: Benchmark, options: IsprsOptions, *, progress: bool = False) -> IsprsDataset:
    """List, match and check all scenes of a benchmark.

    Raises ``Dis2Error`` naming the file and the way out: a product or a file that is missing, ids that are not
    official, files of one scene that do not lie on each other, colours outside the code (all, under ``refuse``).
    """
    rule = options.rule
    _check_ids(benchmark, options)
    found = _choose(benchmark, options)
    splits, remarks = _splits(benchmark, options, found)
    scenes: list[IsprsScene] = []
    for split, ids in splits.items():
        for i in ids:
            scene, odd = _scene(benchmark, options, found, split=split, scene=i)
            scenes.append(scene)
            remarks += odd
    if rule.stray == "refuse":
        _refuse_strays(benchmark, scenes, options, progress=progress)
    return IsprsDataset(
        options,
        _spec(benchmark, options, found, metres=scenes[0].files.layers[1].scale),
        tuple(scenes),
        tuple(remarks),
    )


def _check_ids(benchmark: Benchmark, options: IsprsOptions) -> None:
    for option, ids, known in (
        ("--validation", options.validation, benchmark.train),
        ("--exclude", options.exclude, benchmark.train + benchmark.test),
    ):
        for i in ids:
            if i not in known:
                kind = "training scene" if known == benchmark.train else "scene"
                raise Dis2Error(
                    f"{option} {i}: no official {kind} of {benchmark.name}{nearest(i, known)}; "
                    f"there are {', '.join(known)}"
                )


def _choose(benchmark: Benchmark, options: IsprsOptions) -> _Choice:
    image = _named(benchmark.images, options.image, "--image")
    height = benchmark.dsm
    if options.height == "ndsm":
        height = _named(benchmark.ndsm, options.ndsm, "--ndsm")
    label = benchmark.labels[options.labels]
    files = list_published(options.source)
    official = set(benchmark.train + benchmark.test)
    picked = []
    for product in (image.product, height, label):
        own = {i: f for i, f in pick(files, product).items() if i in official}
        if not own:
            raise Dis2Error(
                f"{options.source} holds no {product.title} of {benchmark.name}: files like {product.example} in "
                f"{' or '.join(product.folders)}, unpacked or zipped, are wanted; it holds {kinds(files)}"
            )
        picked.append(own)
    return _Choice(image, height, label, *picked)


def _named(choices: Mapping[str, T], name: str, option: str) -> T:
    if name not in choices:
        raise Dis2Error(f"{option} {name}: choose from {', '.join(choices)}")
    return choices[name]


def _splits(
    benchmark: Benchmark, options: IsprsOptions, found: _Choice
) -> tuple[dict[str, list[str]], list[str]]:
    """Return the scenes of each split, and what to say about it. A test split needs its labels."""
    own = {
        "train": [i for i in benchmark.train if i not in options.validation],
        "validation": list(dict.fromkeys(options.validation)),
        "test": list(benchmark.test),
    }
    splits = {s: sorted((i for i in ids if i not in options.exclude), key=natural) for s, ids in own.items()}
    for split in ("train", "validation"):
        if not splits[split]:
            raise Dis2Error(f"--validation and --exclude leave no {split} scene of {benchmark.name}")
    remarks = [
        f"{', '.join(splits['validation'])} of the {len(benchmark.train)} official training scenes are held out "
        "for validation (--validation)"
    ]
    if options.exclude:
        remarks.append(f"left out by --exclude: {', '.join(options.exclude)}")
    if splits["test"] and not any(i in found.labels for i in splits["test"]):
        remarks.append(
            f"no test split: none of the official test scenes has a label; add {found.label.folders[0]}"
        )
        splits["test"] = []
    return {split: ids for split, ids in splits.items() if ids}, remarks


def _scene(
    benchmark: Benchmark, options: IsprsOptions, found: _Choice, *, split: str, scene: str
) -> tuple[IsprsScene, list[str]]:
    image = _file(found.image.product, found.images, scene)
    height = _file(found.height, found.heights, scene)
    label = _file(found.label, found.labels, scene)
    grid = raster_info(image.path)
    bands = tuple(range(1, len(found.image.bands) + 1))
    if grid.dtype != "uint8" or grid.bands < len(bands):
        raise Dis2Error(f"{image.path} is {grid.dtype} with {grid.bands} bands, not uint8 with {len(bands)}")
    height_info, label_info = raster_info(height.path), raster_info(label.path)
    height_corner = corner_in(grid, height_info, by=options.align)
    label_corner = corner_in(grid, label_info, by=options.align)
    metres = _metres(height_info, options)
    if options.height == "ndsm":
        _check_not_empty(height, scene)
    layers = (
        Layer(options.image, image.path, "uint8", bands=bands),
        Layer(options.height, height.path, "float32", bands=(1,), scale=metres, corner=height_corner),
    )
    name = f"{benchmark.prefix}{scene}"
    files = LayeredScene(name, grid.size, layers, label.path, label_corner=label_corner)
    remarks = [
        f"{file.name} has {text} than {image.name}: put onto its grid, {end}"
        for file, text, end in (
            (height, misfit(grid, height_info, height_corner), "its edge repeated where it ends"),
            (label, misfit(grid, label_info, label_corner), "ignored where it ends"),
        )
        if text
    ]
    inputs = tuple(dict.fromkeys(f.container for f in (image, height, label)))
    return IsprsScene(split, files, inputs), remarks


def _file(product: Product, files: Mapping[str, PublishedFile], scene: str) -> PublishedFile:
    if scene not in files:
        raise Dis2Error(
            f"no {product.title} of scene {scene} (like {product.example}, in {' or '.join(product.folders)}): "
            f"add it, or leave the scene out with --exclude {scene}"
        )
    return files[scene]


def _metres(info: RasterInfo, options: IsprsOptions) -> float:
    """Return metres per number of a height file. Raises ``Dis2Error`` for an encoding nobody published."""
    if info.dtype.startswith("float"):
        return 1.0
    if info.dtype == "uint8" and options.height == "ndsm":
        return DECIMETRES
    wanted = "8-bit decimetres or float metres" if options.height == "ndsm" else "float metres"
    raise Dis2Error(f"{info.path} holds {info.dtype} numbers: {wanted} are wanted")


def _check_not_empty(height: PublishedFile, scene: str) -> None:
    with RasterReader(height.path, bands=(1,)) as reader:
        x, _ = reader.read_small(side=200)
    if x.min() == x.max():
        raise Dis2Error(
            f"{height.path} is {x.min()} all over, so it holds no heights: choose another --ndsm, --height dsm, "
            f"or --exclude {scene}"
        )


def _refuse_strays(
    benchmark: Benchmark, scenes: Sequence[IsprsScene], options: IsprsOptions, *, progress: bool
) -> None:
    from tqdm import tqdm

    odd = {}
    for s in tqdm(scenes, desc="    labels", unit="scene", disable=not progress):
        if counts := count_strays(s.files.label, options.rule):
            odd[s.files] = list_strays(counts)
    if odd:
        listed = "; ".join(f"{Path(files.label).name}: {text}" for files, text in odd.items())
        names = ",".join(files.id.removeprefix(benchmark.prefix) for files in odd)
        raise Dis2Error(
            f"{len(odd)} labels hold colours that are no class: {listed}. --stray-colors nearest takes each channel "
            f"for the nearer of 0 and 255, ignore leaves those pixels out, --exclude {names} the scenes"
        )


def _spec(benchmark: Benchmark, options: IsprsOptions, found: _Choice, *, metres: float) -> DatasetSpec:
    heights = "height above ground" if options.height == "ndsm" else "height of the surface"
    return DatasetSpec(
        name=benchmark.name,
        modalities=(
            Modality(
                options.image,
                len(found.image.bands),
                kind="optical",
                unit="digital number",
                bands=found.image.bands,
                product=found.image.product.title,
                source=SourceFormat(bands=tuple(range(1, len(found.image.bands) + 1))),
            ),
            Modality(
                options.height,
                1,
                kind="height",
                unit="m",
                bands=(heights,),
                product=found.height.title,
                source=SourceFormat(bands=(1,), scale=metres),
            ),
        ),
        dtypes=("uint8", "float32"),
        legend=options.rule.legend,
        tile=(options.tile, options.tile),
        description=_description(benchmark, options, found),
        source=benchmark.source,
        licence=benchmark.licence,
        ground_sampling_distance=benchmark.ground_sampling_distance,
    )


def _description(benchmark: Benchmark, options: IsprsOptions, found: _Choice) -> str:
    clutter = {"class": "clutter is a class", "ignore": "clutter is ignored"}.get(
        options.clutter, f"clutter counts as {options.clutter.removeprefix('merge:')}"
    )
    return (
        f"ISPRS {benchmark.name.capitalize()}: {found.image.product.title}, {found.height.title} in metres, "
        f"{found.label.title}; {clutter}; official split, validation scenes {', '.join(options.validation)} "
        "held out of the training scenes."
    )
