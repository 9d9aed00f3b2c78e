"""The builders by name, with one way to run them: what `dis2 data prepare NAME` calls."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from dis2_jax.data.builders.synthetic_city import (
    SyntheticCityOptions,
    synthetic_city_spec,
    synthetic_city_tiles,
)
from dis2_jax.data.builders.tiles import Tile
from dis2_jax.data.builders.writer import write_dataset
from dis2_jax.schema import DatasetCard


def prepare_synthetic_city(
    options: SyntheticCityOptions, out: str | Path, *, overwrite: bool = False, progress: bool = False
) -> DatasetCard:
    """Draw the synthetic city and write it to ``out``. Raises ``Dis2Error`` for an ``out`` in use."""
    counts = {split: n * options.tiles_per_scene for split, n in options.scenes.items()}
    splits = {split: synthetic_city_tiles(options, split) for split in counts}
    return write_dataset(
        synthetic_city_spec(options), with_progress(splits, counts, shown=progress), out, overwrite=overwrite
    )


def with_progress(
    splits: Mapping[str, Iterable[Tile]], counts: Mapping[str, int], *, shown: bool
) -> Mapping[str, Iterable[Tile]]:
    """Wrap each split in a tqdm bar on standard error; ``counts`` are expected tiles per split."""
    if not shown:
        return splits
    from tqdm import tqdm

    def bar(split: str) -> Iterator[Tile]:  # a generator: the bar appears when its split's turn comes
        yield from tqdm(splits[split], total=counts[split], desc=f"{split:>10}", unit="tile", mininterval=0.5)

    return {split: bar(split) for split in splits}
