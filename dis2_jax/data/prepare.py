"""The builders by name, with one way to run them: what `dis2 data prepare NAME` calls."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from dis2_jax.data.builders.card_parser import load_card
from dis2_jax.data.builders.folder import Dropped, folder_spec, folder_tiles, tile_count
from dis2_jax.data.builders.folder_scenes import find_scenes
from dis2_jax.data.builders.ombria import OmbriaOptions, find_ombria, ombria_spec, ombria_tiles
from dis2_jax.data.builders.synthetic_city import (
    SyntheticCityOptions,
    synthetic_city_spec,
    synthetic_city_tiles,
)
from dis2_jax.data.builders.tiles import Tile
from dis2_jax.data.builders.writer import check_out, write_dataset
from dis2_jax.schema import DatasetCard


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A finished dataset: its card, and what the user should know of how it came about (one line each)."""

    card: DatasetCard
    notes: tuple[str, ...] = ()


def prepare_synthetic_city(
    options: SyntheticCityOptions, out: str | Path, *, overwrite: bool = False, progress: bool = False
) -> Prepared:
    """Draw the synthetic city and write it to ``out``. Raises ``Dis2Error`` for an ``out`` in use."""
    counts = {split: n * options.tiles_per_scene for split, n in options.scenes.items()}
    splits = {split: synthetic_city_tiles(options, split) for split in counts}
    watched = with_progress(splits, counts, shown=progress)
    return Prepared(write_dataset(synthetic_city_spec(options), watched, out, overwrite=overwrite))


def prepare_ombria(
    options: OmbriaOptions, out: str | Path, *, overwrite: bool = False, progress: bool = False
) -> Prepared:
    """Read OMBRIA in its original layout and write it to ``out``. ``Dis2Error`` names a faulty file."""
    check_out(Path(out), overwrite=overwrite)
    chips = find_ombria(options)
    counts = {split: len(ids) for split, ids in chips.ids.items()}
    splits = {split: ombria_tiles(chips, split) for split in counts}
    card = write_dataset(
        ombria_spec(chips), with_progress(splits, counts, shown=progress), out, overwrite=overwrite
    )
    where = {chip: split for split, ids in chips.ids.items() for chip in ids}
    clouded = ", ".join(f"{chip} ({where[chip]})" for chip in chips.clouded) or "none"
    if options.keep_clouds:
        return Prepared(card, ("clouded S2 chips were not looked for (--keep-clouds)",))
    return Prepared(card, (f"s2_after is absent under full cloud in {len(chips.clouded)} chips: {clouded}",))


def prepare_folder(
    source: str | Path,
    card_file: str | Path,
    out: str | Path,
    *,
    overwrite: bool = False,
    progress: bool = False,
) -> Prepared:
    """Write the folder that a TOML card describes to ``out``. ``Dis2Error`` names the faulty file or key."""
    check_out(Path(out), overwrite=overwrite)
    card = load_card(card_file, source=source)
    scenes = find_scenes(card, Path(source), progress=progress)
    dropped = Dropped()
    counts = {split: tile_count(card, scenes, split) for split in scenes.parts}
    splits = {split: folder_tiles(card, scenes, split, dropped) for split in counts}
    watched = with_progress(splits, counts, shown=progress)
    written = write_dataset(folder_spec(card, scenes), watched, out, overwrite=overwrite)
    notes = list(scenes.notes)
    if dropped.ignored:
        notes.append(f"{dropped.ignored} tiles were dropped: every label in them is ignored")
    if dropped.empty:
        notes.append(f"{dropped.empty} tiles were dropped: no modality has data there")
    return Prepared(written, tuple(notes))


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
