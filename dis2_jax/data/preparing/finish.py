"""All summaries and shards -> the dataset's card, places, TFDS metadata and list of checksums."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dis2_jax.data.builders.features import Encoding, record_features
from dis2_jax.data.builders.spec_card import spec_card
from dis2_jax.data.builders.statistics import ChannelMoments
from dis2_jax.data.builders.tiles import DatasetSpec
from dis2_jax.data.checksums import write_checksums
from dis2_jax.data.places import Place, write_places
from dis2_jax.data.preparing.parts import JobSummary
from dis2_jax.data.preparing.shards import Shard, ShardPlan
from dis2_jax.data.source import TileSource
from dis2_jax.files import write_whole
from dis2_jax.schema import CARD_FILE, INPUTS_FILE, DatasetCard, Dis2Error

_LISTED_INPUTS = 64
"""More files than this are listed beside the card, not in it."""


@dataclasses.dataclass(frozen=True)
class Split:
    """A split before its card: the summaries of its jobs in order, and its shards."""

    summaries: tuple[JobSummary, ...]
    plans: tuple[ShardPlan, ...]

    @property
    def tiles(self) -> int:
        """Number of records."""
        return sum(len(s.records) for s in self.summaries)

    @property
    def class_pixels(self) -> tuple[int, ...]:
        """K + 1 numbers, ignored last."""
        return tuple(int(n) for n in np.sum([s.class_pixels for s in self.summaries], axis=0))


def check_splits(spec: DatasetSpec, summaries: Mapping[str, Sequence[JobSummary]]) -> None:
    """Raise ``Dis2Error`` for what no single job can see: empty splits, repeated tiles, a modality without data."""
    for split, own in summaries.items():
        ids = [r.tile_id for s in own for r in s.records]
        if not ids:
            raise Dis2Error(
                f"split {split!r} of {spec.name!r} is empty: give it at least one tile or leave it out"
            )
        if len(set(ids)) != len(ids):
            twice = next(i for i, n in Counter(ids).items() if n > 1)
            raise Dis2Error(f"split {split!r}: tile id {twice!r} comes twice")
        if not any(any(s.class_pixels[:-1]) for s in own):
            raise Dis2Error(f"split {split!r} of {spec.name!r}: every pixel of every label is ignored")
    for name, m in _merged_moments(spec, summaries["train"]).items():
        if not m.count:
            raise Dis2Error(f"dataset {spec.name!r}: no training tile has a valid pixel of modality {name!r}")


def named_inputs(summaries: Sequence[JobSummary], root: Path | None) -> dict[str, str]:
    """Return the checksum of every input by its name relative to ``root``.

    Raises ``Dis2Error`` when two jobs saw different contents.
    """
    sums: dict[str, str] = {}
    for summary in summaries:
        for path, found in summary.inputs.items():
            name = Path(os.path.relpath(path, root)).as_posix() if root is not None else path
            if sums.setdefault(name, found.sha256) != found.sha256:
                raise Dis2Error(
                    f"{path} was changed while the dataset was made: run the same command again; what read the "
                    "older contents is made anew"
                )
    return dict(sorted(sums.items()))


def write_metadata(
    spec: DatasetSpec,
    encoding: Encoding,
    splits: Mapping[str, Split],
    inputs: Mapping[str, str],
    shards: Sequence[Shard],
    folder: Path,
) -> DatasetCard:
    """Write everything but the shards, which are in ``folder`` already, and return the card."""
    write_checksums({s.name: s.sha256 for s in shards}, folder)
    if len(inputs) > _LISTED_INPUTS:
        text = json.dumps(dict(inputs), indent=0) + "\n"
        write_whole(folder / INPUTS_FILE, text)
        inputs = {INPUTS_FILE: hashlib.sha256(text.encode()).hexdigest()}
    card = _card(spec, splits, inputs)
    write_whole(folder / CARD_FILE, card.to_json())
    write_places({name: _places(split) for name, split in splits.items()}, folder)
    _write_tfds_metadata(spec, encoding, splits, folder)
    return card


def look_at_some(folder: Path, card: DatasetCard, *, records: int = 8) -> None:
    """Open every split as training does and decode evenly spaced records; their bytes were all read before."""
    for split, count in card.splits.items():
        source = TileSource(folder, split, card)
        for i in sorted(set(np.linspace(0, count - 1, min(records, count)).astype(int).tolist())):
            source[i]


def _places(split: Split) -> tuple[Place, ...]:
    """Places of all records, or none unless every record has one."""
    places = [r.place for s in split.summaries for r in s.records]
    return tuple(p for p in places if p is not None) if None not in places else ()


def _merged_moments(spec: DatasetSpec, summaries: Sequence[JobSummary]) -> dict[str, ChannelMoments]:
    """In the order of the jobs: the same sums to the last bit whoever made them."""
    moments = {m.name: ChannelMoments(m.channels) for m in spec.modalities}
    for summary in summaries:
        for name, m in summary.moments.items():
            moments[name].merge(m)
    return moments


def _card(spec: DatasetSpec, splits: Mapping[str, Split], inputs: Mapping[str, str]) -> DatasetCard:
    moments = _merged_moments(spec, splits["train"].summaries)
    return dataclasses.replace(
        spec_card(spec, moments, {name: split.tiles for name, split in splits.items()}),
        class_pixels={name: split.class_pixels for name, split in splits.items()},
        inputs=dict(inputs),
    )


def _write_tfds_metadata(
    spec: DatasetSpec, encoding: Encoding, splits: Mapping[str, Split], folder: Path
) -> None:
    import tensorflow_datasets as tfds

    def split_info(name: str, split: Split) -> Any:
        return tfds.core.SplitInfo(
            name=name,
            shard_lengths=[p.length for p in split.plans],
            num_bytes=sum(s.size for s in split.summaries),
            filename_template=tfds.core.ShardedFileTemplate(
                data_dir=str(folder), dataset_name=spec.name, split=name, filetype_suffix="array_record"
            ),
        )

    tfds.folder_dataset.write_metadata(
        data_dir=str(folder),
        features=record_features(spec, encoding),
        split_infos=[split_info(name, split) for name, split in splits.items()],
        description=spec.description or spec.name,
        check_data=False,
    )
