"""Random access to the tiles of a prepared dataset (ArrayRecord shards, TFDS features); no TensorFlow."""

from __future__ import annotations

import bisect
import contextlib
import itertools
import threading
from collections import OrderedDict
from pathlib import Path
from typing import Any, TypedDict

import numpy as np

from dis2_jax.schema import IGNORE, DatasetCard, Dis2Error, nearest

MAX_OPEN_SHARDS = 256
"""Readers kept open at a time; below the usual limit of 1024 open files."""

_WAY_OUT = "copy or prepare the dataset again"


class StoredTile(TypedDict):
    """One record as stored; the arrays may be read-only.

    ``image``: modality -> ``[H, W, C]`` in the stored dtype (filler where absent); ``label``: uint8 ``[H,
    W]``; ``available``: bool ``[M]`` in the card's order; ``tile_id``; ``index``: record number in the split.
    """

    image: dict[str, np.ndarray]
    label: np.ndarray
    available: np.ndarray
    tile_id: str
    index: int


class TileSource:
    """The records of one split, a Grain ``RandomAccessDataSource`` of ``StoredTile``.

    ``card`` may be a selection of the dataset's modalities: only those are decoded. Safe to read from several
    threads and to send to worker processes. Raises ``Dis2Error`` on opening when the split is unknown or
    empty, a shard is missing or cut, or the stored features disagree with the card; on reading when a record
    is corrupt.
    """

    def __init__(self, dataset_dir: str | Path, split: str, card: DatasetCard) -> None:
        self.dir = Path(dataset_dir)
        self.split = split
        self.card = card
        stored = DatasetCard.load(self.dir)
        _check_card(self.dir, stored, card)
        self._features, info = _read_metadata(self.dir, stored, split)
        _check_features(self.dir, self._features, stored)
        self._paths = [Path(p) for p in info.filepaths]
        self._lengths = list(info.shard_lengths)
        self._ends = list(itertools.accumulate(self._lengths))
        if not self._ends or self._ends[-1] == 0:
            raise Dis2Error(f"{self.dir}: split {split!r} is empty: prepare it with at least one tile")
        self._columns = [stored.modality_names.index(n) for n in card.modality_names]
        self._skipped = [n for n in stored.modality_names if n not in card.modality_names]
        self._stored_names = stored.modality_names
        self._open_state()
        for shard in range(len(self._paths)):
            self._open(shard)

    def __len__(self) -> int:
        return self._ends[-1]

    def __repr__(self) -> str:
        return f"TileSource({str(self.dir)!r}, {self.split!r})"

    def __getitem__(self, index: int) -> StoredTile:
        import tensorflow_datasets as tfds

        skipped = {n: tfds.decode.SkipDecoding() for n in self._skipped}
        record = self._read(index, {"image": skipped} if skipped else None)
        label = record["label"]
        if ((label >= len(self.card.legend)) & (label != IGNORE)).any():
            shard, row = self._locate(index)
            raise Dis2Error(
                f"{self._paths[shard]}: the label of record {row} holds {int(label[label != IGNORE].max())}, "
                f"but the dataset has {len(self.card.legend)} classes: {_WAY_OUT}"
            )
        return StoredTile(
            image={n: record["image"][n] for n in self.card.modality_names},
            label=label,
            available=np.asarray(record["available"], bool)[self._columns],
            tile_id=bytes(record["tile_id"]).decode(),
            index=index,
        )

    def tile_id(self, index: int) -> str:
        """Return the name of a record without decoding its rasters."""
        import tensorflow_datasets as tfds

        skip = tfds.decode.SkipDecoding()
        rasters = {"image": {n: skip for n in self._stored_names}, "label": skip}
        return bytes(self._read(index, rasters)["tile_id"]).decode()

    def __getstate__(self) -> dict[str, Any]:
        # Readers hold file handles, TFDS features are rebuilt from the folder: neither travels to a worker.
        gone = ("_features", "_readers", "_lock")
        return {k: v for k, v in self.__dict__.items() if k not in gone}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._features = _builder(self.dir).info.features
        self._open_state()

    def _open_state(self) -> None:
        self._readers: OrderedDict[int, Any] = OrderedDict()
        self._lock = threading.Lock()

    def _locate(self, index: int) -> tuple[int, int]:
        """Return shard and row in it."""
        if not 0 <= index < len(self):
            raise IndexError(f"{self!r} has records 0..{len(self) - 1}, not {index}")
        shard = bisect.bisect_right(self._ends, index)
        return shard, index - (self._ends[shard] - self._lengths[shard])

    def _read(self, index: int, decoders: dict[str, Any] | None) -> dict[str, Any]:
        shard, row = self._locate(index)
        try:
            data = self._reader(shard).read([row])[0]
            record: dict[str, Any] = self._features.deserialize_example_np(data, decoders=decoders)
        except Dis2Error:
            raise
        except Exception as e:  # array_record, protobuf and zlib each raise their own kinds
            raise Dis2Error(f"{self._paths[shard]}: record {row} is corrupt ({_line(e)}): {_WAY_OUT}") from e
        return record

    def _reader(self, shard: int) -> Any:
        with self._lock:
            if shard in self._readers:
                self._readers.move_to_end(shard)
                return self._readers[shard]
            return self._open(shard)

    def _open(self, shard: int) -> Any:
        """Open a shard and check its length; forget the reader unused for longest if there are too many."""
        self._readers[shard] = reader = open_shard(self._paths[shard], self._lengths[shard])
        if len(self._readers) > MAX_OPEN_SHARDS:
            self._readers.popitem(last=False)  # not closed: another thread may be reading from it
        return reader


def open_shard(path: Path, length: int) -> Any:
    """Return an ArrayRecord reader. ``Dis2Error`` unless the file is there with ``length`` records."""
    from array_record.python.array_record_module import ArrayRecordReader

    if not path.is_file():
        raise Dis2Error(f"{path} is missing: {_WAY_OUT}")
    try:
        reader = ArrayRecordReader(str(path), options="readahead_buffer_size:0,max_parallelism:0")
        found = reader.num_records()
        if found != length:
            with contextlib.closing(reader):  # closing a damaged file tells what is wrong with it
                pass
    except Exception as e:
        raise Dis2Error(f"{path} is corrupt or cut off ({_line(e)}): {_WAY_OUT}") from e
    if found != length:
        raise Dis2Error(f"{path} has {found} records instead of {length}: {_WAY_OUT}")
    return reader


def _builder(folder: Path) -> Any:
    import tensorflow_datasets as tfds

    try:
        return tfds.builder_from_directory(str(folder))
    except Exception as e:  # TFDS raises many kinds for unreadable metadata
        raise Dis2Error(f"{folder}: TFDS cannot read its metadata ({_line(e)}): {_WAY_OUT}") from e


def _read_metadata(folder: Path, stored: DatasetCard, split: str) -> tuple[Any, Any]:
    """Return the TFDS features and the split's ``SplitInfo``."""
    if split not in stored.splits:
        known = ", ".join(stored.splits) or "none"
        raise Dis2Error(f"{folder} has no split {split!r}{nearest(split, stored.splits)}; it has {known}")
    if stored.splits[split] == 0:
        raise Dis2Error(f"{folder}: split {split!r} is empty: prepare it with at least one tile")
    info = _builder(folder).info
    if split not in info.splits:
        raise Dis2Error(f"{folder}: its card names split {split!r}, its TFDS metadata does not: {_WAY_OUT}")
    found = info.splits[split].num_examples
    if found != stored.splits[split]:
        raise Dis2Error(
            f"{folder}: split {split!r} has {found} records, its card says {stored.splits[split]}: {_WAY_OUT}"
        )
    return info.features, info.splits[split]


def _check_card(folder: Path, stored: DatasetCard, card: DatasetCard) -> None:
    """Refuse a card that is not (a selection of) the folder's own: a run on another dataset."""
    have = {m.name: m.channels for m in stored.modalities}
    for m in card.modalities:
        if m.name not in have:
            raise Dis2Error(
                f"{folder} has no modality {m.name!r}{nearest(m.name, have)}; it has {', '.join(have)}"
            )
        if m.channels != have[m.name]:
            raise Dis2Error(f"{folder}: modality {m.name!r} has {have[m.name]} channels, not {m.channels}")
    if card.legend.names != stored.legend.names:
        raise Dis2Error(
            f"{folder} has classes {', '.join(stored.legend.names)}, not {', '.join(card.legend.names)}: "
            "give the dataset that the run was made with"
        )
    if card.tile != stored.tile:
        raise Dis2Error(f"{folder} has tiles of {stored.tile}, not {card.tile}: load its own card")
    if [n for n in stored.modality_names if n in card.modality_names] != list(card.modality_names):
        raise Dis2Error(
            f"{folder} has modalities in the order {', '.join(stored.modality_names)}, "
            f"not {', '.join(card.modality_names)}"
        )


def _check_features(folder: Path, features: Any, stored: DatasetCard) -> None:
    """Refuse a folder whose TFDS features are not what its card says."""
    wanted: dict[str, tuple[int, ...]] = {
        f"image/{m.name}": (*stored.tile, m.channels) for m in stored.modalities
    }
    wanted |= {"label": stored.tile, "available": (len(stored.modalities),), "tile_id": ()}
    try:
        found = {f"image/{k}": tuple(f.shape) for k, f in features["image"].items()}
        found |= {k: tuple(features[k].shape) for k in ("label", "available", "tile_id")}
    except (KeyError, TypeError, AttributeError) as e:
        raise Dis2Error(f"{folder}: its records lack {e}: it is not a prepared DIS2 dataset") from e
    for key in sorted(wanted.keys() | found.keys()):
        if wanted.get(key) != found.get(key):
            raise Dis2Error(
                f"{folder}: records hold {key} of shape {found.get(key)}, "
                f"its card says {wanted.get(key)}: {_WAY_OUT}"
            )


def _line(e: BaseException) -> str:
    text = str(e).strip().splitlines()
    return text[0][:200] if text else type(e).__name__
