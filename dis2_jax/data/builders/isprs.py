"""What ``potsdam`` and ``vaihingen`` share: scenes of an orthophoto, a height and a colour-coded label.

The orthophoto is the grid. Heights are metres: the published 8-bit normalised models hold decimetres and end at
25.5 m. ``isprs_scenes.find_isprs`` makes the dataset from the files.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

from dis2_jax.data.builders.align import Align
from dis2_jax.data.builders.cutting import Rect, count_tiles, cut_tiles
from dis2_jax.data.builders.isprs_labels import LabelRule, Stray, count_strays, list_strays
from dis2_jax.data.builders.layers import LayeredScene, cut_scene
from dis2_jax.data.builders.published import Product
from dis2_jax.data.builders.scene_jobs import Dropped, Job, Noted
from dis2_jax.data.builders.tiles import DatasetSpec, Tile, check_tile_size
from dis2_jax.schema import Dis2Error

Height = Literal["ndsm", "dsm"]
Labels = Literal["full", "eroded"]
Edges = Literal["pad", "inward"]


@dataclasses.dataclass(frozen=True)
class Image:
    """An orthophoto product and its bands."""

    product: Product
    bands: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """One of the two benchmarks as its owner publishes it: official ids, products, origin.

    ``prefix`` goes before an id to make a scene's name. ``ndsm`` maps a variant's name to its product.
    """

    name: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    prefix: str
    images: Mapping[str, Image]
    dsm: Product
    ndsm: Mapping[str, Product]
    labels: Mapping[Labels, Product]
    ground_sampling_distance: float
    source: str
    licence: str


@dataclasses.dataclass(frozen=True)
class IsprsOptions:
    """What is made of a benchmark. ``validation``: official training scenes that are held out.

    ``ndsm`` names the variant of the normalised model. ``edges``: ``pad`` the last tiles of a scene (mirrored, label
    ignored) or move them ``inward``. ``align``: whether georeferences are believed.
    """

    source: Path
    image: str
    ndsm: str
    validation: tuple[str, ...]
    height: Height = "ndsm"
    labels: Labels = "full"
    clutter: str = "class"
    stray: Stray = "refuse"
    exclude: tuple[str, ...] = ()
    tile: int = 512
    overlap: int = 0
    test_overlap: int = 0
    edges: Edges = "pad"
    align: Align = "georeference"

    def __post_init__(self) -> None:
        check_tile_size((self.tile, self.tile))
        for name, overlap in (("--overlap", self.overlap), ("--test-overlap", self.test_overlap)):
            if not 0 <= overlap < self.tile:
                raise Dis2Error(
                    f"{name} {overlap}: it must be at least 0 and less than the tile, {self.tile}"
                )

    @property
    def rule(self) -> LabelRule:
        """How label colours become classes. Raises ``Dis2Error`` for a policy that there is not."""
        return LabelRule(clutter=self.clutter, stray=self.stray, black=self.labels == "eroded")


@dataclasses.dataclass(frozen=True)
class IsprsScene:
    """A scene of a split; ``inputs`` are the files on the disk that hold it (archives, or the rasters)."""

    split: str
    files: LayeredScene
    inputs: tuple[Path, ...]


@dataclasses.dataclass(frozen=True)
class IsprsDataset:
    """A benchmark's scenes as they were found: a ``SceneDataset``."""

    options: IsprsOptions
    spec: DatasetSpec
    scenes: tuple[IsprsScene, ...]
    remarks: tuple[str, ...]

    @property
    def root(self) -> Path:
        """Folder that inputs are named relative to."""
        source = self.options.source.absolute()
        return source if source.is_dir() else source.parent

    def jobs(self) -> Sequence[Job]:
        """One job per scene, training first."""
        return [Job(s.files.id, s.split, s.inputs, s.files) for s in self.scenes]

    def tile_count(self, job: Job) -> int:
        """Tiles of a scene."""
        return count_tiles(Rect(0, 0, *job.detail.size), self.spec.tile, overlap=self._overlap(job.split))

    def tiles(self, job: Job) -> Iterator[Tile | Dropped | Noted]:
        """Cut a scene, row by row, reading a window at a time."""
        scene: LayeredScene = job.detail
        yield from self._strays(scene)
        parts = cut_tiles(
            Rect(0, 0, *scene.size),
            self.spec.tile,
            overlap=self._overlap(job.split),
            inward=self.options.edges == "inward",
        )
        yield from cut_scene(scene, parts, tile=self.spec.tile, read_label=self.options.rule.read)

    def notes(self) -> Sequence[str]:
        """What was decided when the files were looked for."""
        return self.remarks

    def _overlap(self, split: str) -> int:
        return {"train": self.options.overlap, "test": self.options.test_overlap}.get(split, 0)

    def _strays(self, scene: LayeredScene) -> Iterator[Noted]:
        """Tell the label pixels that a rule other than refusal applied to."""
        rule = self.options.rule
        if rule.stray == "refuse":  # find_isprs has looked
            return
        counts = count_strays(scene.label, rule)
        taken = Counter({color: n for color, n in counts.items() if rule.takes(color)})
        if taken:
            yield Noted(
                f"label ({scene.id}) has stray colours, taken for the nearest class colour: {list_strays(taken)}"
            )
        if left := counts - taken:
            yield Noted(f"label ({scene.id}) has colours that are no class, ignored: {list_strays(left)}")
