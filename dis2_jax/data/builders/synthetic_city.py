"""``synthetic_city``: the embedded demo data, procedural scenes cut into tiles. Needs no source files."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

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
        if self.scene % self.tile:
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

    @property
    def tiles_per_scene(self) -> int:
        """Tiles cut from one scene."""
        return (self.scene // self.tile) ** 2


def synthetic_city_spec(options: SyntheticCityOptions) -> DatasetSpec:
    """Describe the dataset."""
    return DatasetSpec(
        name="synthetic_city",
        modalities=MODALITIES,
        dtypes=("uint8", "float32"),
        legend=LEGEND,
        tile=(options.tile, options.tile),
        description=(
            "Procedural city scenes (RGB and height above ground) in which each modality alone is ambiguous; "
            f"drawn by dis2_jax, seed {options.seed}, scenes of {options.scene} pixels."
        ),
        source="drawn by dis2_jax.data.synthetic",
        licence="Apache-2.0",
        ground_sampling_distance=PIXEL_METRES,
    )


def synthetic_city_tiles(
    options: SyntheticCityOptions, split: str, *, progress: Callable[[int], None] = lambda n: None
) -> Iterator[Tile]:
    """Yield the tiles of one split, scene by scene, row by row; ``progress(1)`` is called per tile."""
    t = options.tile
    for index in range(options.scenes[split]):
        scene = draw_scene(seed=options.seed, split=split, index=index, size=options.scene)
        for y in range(0, options.scene, t):
            for x in range(0, options.scene, t):
                at = (slice(y, y + t), slice(x, x + t))
                yield Tile(
                    tile_id=f"{split}{index:03d}_y{y:04d}_x{x:04d}",
                    images={"rgb": scene.rgb[at], "ndsm": scene.ndsm[at]},
                    label=scene.label[at],
                    place=Place(f"{split}{index:03d}", y, x, t, t),
                )
                progress(1)
