"""Random access to the tiles of a prepared dataset (ArrayRecord shards, TFDS features); no TensorFlow."""

from __future__ import annotations

import bisect
import contextlib
import itertools
import threading
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from dis2_jax.data.places import Place, load_places
from dis2_jax.data.tileset import Draws, StoredTile, check_same_card, check_split
from dis2_jax.schema import IGNORE, DatasetCard, Dis2Error

MAX_OPEN_SHARDS = 256
"""Readers kept open at a time; below the usual limit of 1024 open files."""

_WAY_OUT = "copy or prepare the dataset again"


class TileSource:
    """The records of one split of a prepared dataset, a ``TileSet``.

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
        check_same_card(self.dir, stored, card)
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
        return self.decode(index, self.read(index))

    def read(self, index: int) -> bytes:
        """Return a record as it is stored."""
        shard, row = self._locate(index)
        with self._naming(index):
            data: bytes = self._reader(shard).read([row])[0]
        return data

    def decode(self, index: int, data: bytes) -> StoredTile:
        """Make the tile of what ``read`` returned."""
        import tensorflow_datasets as tfds

        skipped = {n: tfds.decode.SkipDecoding() for n in self._skipped}
        record = self._decode(index, data, {"image": skipped} if skipped else None)
        label = record["label"]
        if (label + np.uint8(1)).max() > len(self.card.legend):  # IGNORE, 255, becomes 0
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

    @property
    def draws(self) -> tuple[Draws, ...]:
        """Every record is one draw."""
        return (Draws(len(self)),)

    @property
    def dtypes(self) -> dict[str, np.dtype]:
        """As stored."""
        return {n: np.dtype(self._features["image"][n].np_dtype) for n in self.card.modality_names}

    def draw(self, number: int, rng: np.random.Generator) -> StoredTile:
        """Read record ``number``; nothing in it is random."""
        del rng
        return self[number]

    def places(self) -> tuple[Place, ...] | None:
        """Where the records lie in their scenes, or None when the dataset does not hold that."""
        return load_places(self.dir, self.split, tiles=len(self))

    def tile_id(self, index: int) -> str:
        """Return the name of a record without decoding its rasters."""
        import tensorflow_datasets as tfds

        skip = tfds.decode.SkipDecoding()
        rasters = {"image": {n: skip for n in self._stored_names}, "label": skip}
        return bytes(self._decode(index, self.read(index), rasters)["tile_id"]).decode()

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

    def _decode(self, index: int, data: bytes, decoders: dict[str, Any] | None) -> dict[str, Any]:
        with self._naming(index):
            record: dict[str, Any] = self._features.deserialize_example_np(data, decoders=decoders)
        return record

    @contextlib.contextmanager
    def _naming(self, index: int) -> Iterator[None]:
        """Say which record it was that could not be read."""
        try:
            yield
        except Dis2Error:
            raise
        except Exception as e:  # array_record, protobuf, zstandard and zlib each raise their own kinds
            shard, row = self._locate(index)
            raise Dis2Error(f"{self._paths[shard]}: record {row} is corrupt ({_line(e)}): {_WAY_OUT}") from e

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
    check_split(folder, stored, split)
    info = _builder(folder).info
    if split not in info.splits:
        raise Dis2Error(f"{folder}: its card names split {split!r}, its TFDS metadata does not: {_WAY_OUT}")
    found = info.splits[split].num_examples
    if found != stored.splits[split]:
        raise Dis2Error(
            f"{folder}: split {split!r} has {found} records, its card says {stored.splits[split]}: {_WAY_OUT}"
        )
    return info.features, info.splits[split]


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
