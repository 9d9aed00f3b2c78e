"""``synthetic_city``: the embedded demo data, procedural scenes cut into tiles. Needs no source files."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from dis2_jax.data.builders.scene_jobs import Job
from dis2_jax.data.builders.tiles import DatasetSpec, Tile, check_tile_size
from dis2_jax.data.places import Place
from dis2_jax.data.synthetic import LEGEND, MODALITIES, PIXEL_METRES, draw_scene
from dis2_jax.schema import Dis2Error


@dataclasses.dataclass(frozen=True)
class SyntheticCityOptions:
    """Numbers of scenes per split, side of a square scene and tile in pixels, seed.

    Scenes are drawn independently per split, so validation and test show other streets than training.
    """

    train_scenes: int = 24
    validation_scenes: int = 8
    test_scenes: int = 8
    scene: int = 256
    tile: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        check_tile_size((self.tile, self.tile))
        if self.scene < self.tile or self.scene % self.tile:
            raise Dis2Error(f"scene size {self.scene} is not a multiple of the tile size {self.tile}")
        if self.train_scenes < 1 or self.validation_scenes < 1 or self.test_scenes < 0:
            raise Dis2Error("synthetic_city needs at least 1 training and 1 validation scene")
        if self.seed < 0:
            raise Dis2Error(f"seed {self.seed}: it must be at least 0")

    @property
    def scenes(self) -> dict[str, int]:
        """Scenes of each split that has any."""
        counts = {"train": self.train_scenes, "validation": self.validation_scenes, "test": self.test_scenes}
        return {k: n for k, n in counts.items() if n}


@dataclasses.dataclass(frozen=True)
class SyntheticCity:
    """The dataset, a ``SceneDataset``: one job per scene."""

    options: SyntheticCityOptions
    root: None = None

    @property
    def spec(self) -> DatasetSpec:
        """Describe the dataset."""
        return DatasetSpec(
            name="synthetic_city",
            modalities=MODALITIES,
            dtypes=("uint8", "float32"),
            legend=LEGEND,
            tile=(self.options.tile, self.options.tile),
            description=(
                "Procedural city scenes (RGB and height above ground) in which each modality alone is ambiguous; "
                f"drawn by dis2_jax, seed {self.options.seed}, scenes of {self.options.scene} pixels."
            ),
            source="drawn by dis2_jax.data.synthetic",
            licence="Apache-2.0",
            ground_sampling_distance=PIXEL_METRES,
        )

    def jobs(self) -> list[Job]:
        """List the scenes; ``detail`` is a scene's number in its split."""
        return [
            Job(id=f"{split}{index:03d}", split=split, detail=index)
            for split, count in self.options.scenes.items()
            for index in range(count)
        ]

    def tile_count(self, job: Job) -> int:
        """Return the same for every scene."""
        return (self.options.scene // self.options.tile) ** 2

    def tiles(self, job: Job) -> Iterator[Tile]:
        """Draw the scene and yield its tiles row by row."""
        t, size = self.options.tile, self.options.scene
        scene = draw_scene(seed=self.options.seed, split=job.split, index=job.detail, size=size)
        for y in range(0, size, t):
            for x in range(0, size, t):
                at = (slice(y, y + t), slice(x, x + t))
                yield Tile(
                    tile_id=f"{job.id}_y{y:04d}_x{x:04d}",
                    images={"rgb": scene.rgb[at], "ndsm": scene.ndsm[at]},
                    label=scene.label[at],
                    place=Place(job.id, y, x, t, t),
                )

    def notes(self) -> tuple[str, ...]:
        """Return nothing."""
        return ()
