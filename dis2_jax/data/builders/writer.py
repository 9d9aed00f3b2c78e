"""Stream tiles into a prepared dataset folder: ArrayRecord shards, TFDS metadata, the dataset card.

TFDS's own writer shuffles through memory and, above 1000 MiB per split, through TensorFlow (STACK.md); this
one writes each record as it comes, in the builder's order, so memory stays at one tile and the result is the
same every time.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dis2_jax.data.builders.features import record_features, serialize
from dis2_jax.data.builders.statistics import ChannelMoments, class_counts
from dis2_jax.data.builders.tiles import DatasetSpec, Tile, record
from dis2_jax.data.places import Place, write_places
from dis2_jax.data.source import TileSource
from dis2_jax.files import whole_folder
from dis2_jax.schema import CARD_FILE, DatasetCard, Dis2Error

SHARD_BYTES = 256 * 2**20
"""A shard is closed when it holds this much: small enough to copy, large enough for thousands of tiles."""


@dataclasses.dataclass(frozen=True)
class SplitSummary:
    """What was written of one split: records per shard, bytes, class pixels (K + 1, ignored last).

    ``places`` is empty unless every tile has one.
    """

    shard_lengths: tuple[int, ...]
    num_bytes: int
    class_pixels: tuple[int, ...]
    places: tuple[Place, ...]


def write_dataset(
    spec: DatasetSpec,
    splits: Mapping[str, Iterable[Tile]],
    out: str | Path,
    *,
    overwrite: bool = False,
    shard_bytes: int = SHARD_BYTES,
) -> DatasetCard:
    """Write all tiles of all splits to the folder ``out`` and return its card.

    Everything goes to a hidden sibling folder first, is reopened and checked, and then renamed: ``out`` is
    whole or not there. ``splits`` needs ``train`` first (its tiles make the statistics). Raises ``Dis2Error``
    for an ``out`` that exists (unless ``overwrite`` and it is a prepared dataset), an empty split, a bad
    tile, a full disk.
    """
    out = Path(out).absolute()
    check_out(out, overwrite=overwrite)
    with whole_folder(out) as temporary:
        card = _write_all(spec, splits, temporary, shard_bytes=shard_bytes)
        _verify_sample(temporary, card)
    return card


@contextlib.contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Turn what the system says while writing (a full disk, no permission) into one line."""
    try:
        yield
    except (OSError, RuntimeError) as e:  # array_record raises RuntimeError
        reason = (e.strerror if isinstance(e, OSError) else None) or str(e).split(";")[0]
        raise Dis2Error(
            f"cannot write in {folder} ({reason}): make room there or choose another --out"
        ) from e


def check_out(out: Path, *, overwrite: bool) -> None:
    """Raise ``Dis2Error`` when ``out`` may not be written; only a prepared dataset may be overwritten."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not (out / CARD_FILE).is_file():
        raise Dis2Error(f"{out} exists and is not a prepared dataset: choose another --out")
    if not overwrite:
        raise Dis2Error(f"{out} holds a prepared dataset already: choose another --out or add --overwrite")


def _verify_sample(folder: Path, card: DatasetCard, *, records: int = 8) -> None:
    """Reopen every split, count it and decode evenly spaced records; ``dis2 data inspect`` reads them all."""
    for split, count in card.splits.items():
        source = TileSource(folder, split, card)
        for i in sorted(set(np.linspace(0, count - 1, min(records, count)).astype(int).tolist())):
            source[i]


def _write_all(
    spec: DatasetSpec, splits: Mapping[str, Iterable[Tile]], folder: Path, *, shard_bytes: int
) -> DatasetCard:
    moments = {m.name: ChannelMoments(m.channels) for m in spec.modalities}
    features = record_features(spec)
    summaries: dict[str, SplitSummary] = {}
    for split, tiles in splits.items():
        watched = _measured(tiles, moments) if split == "train" else tiles
        summaries[split] = _write_split(spec, split, watched, folder, features, shard_bytes=shard_bytes)
    unseen = [name for name, m in moments.items() if m.count == 0]
    if unseen:
        raise Dis2Error(
            f"dataset {spec.name!r}: no training tile has a valid pixel of modality {unseen[0]!r}"
        )
    card = _card(spec, moments, summaries)
    with _writing(folder.parent):
        (folder / CARD_FILE).write_text(card.to_json())
        write_places({split: s.places for split, s in summaries.items()}, folder)
        _write_tfds_metadata(spec, features, summaries, folder)
    return card


def _measured(tiles: Iterable[Tile], moments: Mapping[str, ChannelMoments]) -> Iterator[Tile]:
    for tile in tiles:
        yield tile  # the writer checks the tile before it is measured
        for name, x in tile.images.items():
            mask = tile.valid.get(name)
            moments[name].add(x.reshape(-1, x.shape[-1]) if mask is None else x[mask])


def _write_split(
    spec: DatasetSpec, split: str, tiles: Iterable[Tile], folder: Path, features: Any, *, shard_bytes: int
) -> SplitSummary:
    counts = np.zeros(len(spec.legend) + 1, np.int64)
    seen: set[str] = set()
    places: list[Place] = []
    with _ShardWriter(folder, f"{spec.name}-{split}", shard_bytes=shard_bytes) as shards:
        for tile in tiles:
            if tile.tile_id in seen:
                raise Dis2Error(f"split {split!r}: tile id {tile.tile_id!r} comes twice")
            seen.add(tile.tile_id)
            if tile.place is not None:
                places.append(tile.place)
            shards.write(serialize(features, record(spec, tile)))
            counts += class_counts(tile.label, len(spec.legend))
    if not seen:
        raise Dis2Error(
            f"split {split!r} of {spec.name!r} is empty: give it at least one tile or leave it out"
        )
    if counts[:-1].sum() == 0:
        raise Dis2Error(f"split {split!r} of {spec.name!r}: every pixel of every label is ignored")
    return SplitSummary(
        shard_lengths=tuple(shards.lengths),
        num_bytes=shards.num_bytes,
        class_pixels=tuple(int(n) for n in counts),
        places=tuple(places) if len(places) == len(seen) else (),
    )


class _ShardWriter:
    """Writes shards of about ``shard_bytes``; their names hold the total, so they are renamed last."""

    def __init__(self, folder: Path, stem: str, *, shard_bytes: int) -> None:
        self.folder, self.stem, self.shard_bytes = folder, stem, shard_bytes
        self.lengths: list[int] = []
        self.num_bytes = 0
        self._in_shard = 0
        self._writer: Any = None

    def __enter__(self) -> _ShardWriter:
        return self

    def write(self, data: bytes) -> None:
        from array_record.python.array_record_module import ArrayRecordWriter

        with _writing(self.folder.parent):
            if self._writer is not None and self._in_shard + len(data) > self.shard_bytes:
                self._close_shard()
            if self._writer is None:
                self._writer = ArrayRecordWriter(str(self._part(len(self.lengths))), "group_size:1")
                self.lengths.append(0)
                self._in_shard = 0
            self._writer.write(data)
        self.lengths[-1] += 1
        self._in_shard += len(data)
        self.num_bytes += len(data)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            with contextlib.suppress(Exception):  # the first fault is the one to tell
                self._close_shard()
            return
        with _writing(self.folder.parent):
            self._close_shard()
            total = len(self.lengths)
            for i in range(total):
                self._part(i).rename(self.folder / f"{self.stem}.array_record-{i:05d}-of-{total:05d}")

    def _part(self, i: int) -> Path:
        return self.folder / f"{self.stem}.part-{i:05d}"

    def _close_shard(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()


def _card(
    spec: DatasetSpec, moments: Mapping[str, ChannelMoments], summaries: Mapping[str, SplitSummary]
) -> DatasetCard:
    modalities = tuple(
        dataclasses.replace(
            m,
            mean=tuple(float(v) for v in moments[m.name].mean),
            std=tuple(float(v) for v in moments[m.name].std),
        )
        for m in spec.modalities
    )
    return DatasetCard(
        name=spec.name,
        modalities=modalities,
        legend=spec.legend,
        tile=spec.tile,
        splits={k: sum(s.shard_lengths) for k, s in summaries.items()},
        description=spec.description,
        source=spec.source,
        licence=spec.licence,
        ground_sampling_distance=spec.ground_sampling_distance,
        class_pixels={k: s.class_pixels for k, s in summaries.items()},
    )


def _write_tfds_metadata(
    spec: DatasetSpec, features: Any, summaries: Mapping[str, SplitSummary], folder: Path
) -> None:
    import tensorflow_datasets as tfds

    def split_info(split: str, summary: SplitSummary) -> Any:
        return tfds.core.SplitInfo(
            name=split,
            shard_lengths=list(summary.shard_lengths),
            num_bytes=summary.num_bytes,
            filename_template=tfds.core.ShardedFileTemplate(
                data_dir=str(folder), dataset_name=spec.name, split=split, filetype_suffix="array_record"
            ),
        )

    tfds.folder_dataset.write_metadata(
        data_dir=str(folder),
        features=features,
        split_infos=[split_info(k, s) for k, s in summaries.items()],
        description=spec.description or spec.name,
        check_data=False,
    )
