"""The function that every engine runs: one job, wherever it is, into one part."""

from __future__ import annotations

import contextlib
import os
import socket
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from dis2_jax.data.builders.features import record_features, serialize
from dis2_jax.data.builders.scene_jobs import Dropped, Noted
from dis2_jax.data.builders.statistics import ChannelMoments, class_counts
from dis2_jax.data.builders.tiles import Tile, record
from dis2_jax.data.preparing.inputs import InputFile, check_unchanged, look_at
from dis2_jax.data.preparing.parts import JobSummary, RecordNote, digest
from dis2_jax.data.preparing.work import Work
from dis2_jax.files import write_whole
from dis2_jax.schema import Dis2Error

_UNFINISHED = ".writing"


def run_job(work: Work, number: int) -> int:
    """Make the part and the summary of job ``number``; return it. Run twice, also at once, it makes the same.

    Raises ``Dis2Error`` for a faulty input or tile, and for a disk that takes no more.
    """
    job = work.jobs[number]
    inputs = {path: look_at(path, work.folder) for path in job.inputs}
    maker = _PartMaker(work, measured=job.split == "train")
    with _unfinished(work, number) as path, path.open("wb") as f:
        for item in work.dataset.tiles(job):
            if isinstance(item, Tile):
                data = maker.add(item)
                with disk_faults(work.folder):
                    f.write(data)
            else:
                maker.note(item)
        for name, found in inputs.items():
            check_unchanged(name, found)
        with disk_faults(work.folder):
            _to_disk(f)
            path.replace(work.part(number))
            write_whole(work.summary(number), maker.summary(inputs).to_json())
    return number


def unfinished_job(work: Work, pids: Sequence[int]) -> int | None:
    """Return the number of a job that one of these dead processes of this machine left unfinished."""
    for number in range(len(work.jobs)):
        if any(_unfinished_path(work, number, pid).exists() for pid in pids):
            return number
    return None


@contextlib.contextmanager
def disk_faults(folder: Path) -> Iterator[None]:
    """Turn what the system says while writing (a full disk, no permission) into one line."""
    try:
        yield
    except (OSError, RuntimeError) as e:  # array_record raises RuntimeError
        reason = (e.strerror if isinstance(e, OSError) else None) or str(e).split(";")[0]
        raise Dis2Error(
            f"cannot write in {folder.parent} ({reason}): make room there or choose another --out"
        ) from e


def _unfinished_path(work: Work, number: int, pid: int) -> Path:
    # The process is in the name: two may have the same job, where an engine gave up on a machine that goes on.
    return work.folder / f"{work.key(number)}.{socket.gethostname()}-{pid}{_UNFINISHED}"


@contextlib.contextmanager
def _unfinished(work: Work, number: int) -> Iterator[Path]:
    path = _unfinished_path(work, number, os.getpid())
    with disk_faults(work.folder):
        path.touch()
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


def _to_disk(f: IO[bytes]) -> None:
    f.flush()
    os.fsync(f.fileno())


class _PartMaker:
    """Checks, serialises and measures the tiles of a job as they come."""

    def __init__(self, work: Work, *, measured: bool) -> None:
        self._spec = spec = work.dataset.spec
        self._features: Any = record_features(spec, work.encoding)
        self._records: dict[str, RecordNote] = {}
        self._class_pixels = np.zeros(len(spec.legend) + 1, np.int64)
        self._moments = {m.name: ChannelMoments(m.channels) for m in spec.modalities} if measured else {}
        self._dropped: Counter[str] = Counter()
        self._noted: Counter[str] = Counter()

    def add(self, tile: Tile) -> bytes:
        """Return the tile's record. ``Dis2Error`` for one that is not what the spec says, or comes twice."""
        if tile.tile_id in self._records:
            raise Dis2Error(f"tile id {tile.tile_id!r} comes twice")
        data = serialize(self._features, record(self._spec, tile))
        self._records[tile.tile_id] = RecordNote(tile.tile_id, len(data), digest(data), tile.place)
        self._class_pixels += class_counts(tile.label, len(self._spec.legend))
        for name, x in tile.images.items():
            if self._moments:
                mask = tile.valid.get(name)
                self._moments[name].add(x.reshape(-1, x.shape[-1]) if mask is None else x[mask])
        return data

    def note(self, item: Dropped | Noted) -> None:
        """Count what is no tile."""
        if isinstance(item, Dropped):
            self._dropped[item.reason] += 1
        else:
            self._noted[item.text] += item.count

    def summary(self, inputs: Mapping[Path, InputFile]) -> JobSummary:
        """Return what was made."""
        return JobSummary(
            records=tuple(self._records.values()),
            class_pixels=tuple(int(n) for n in self._class_pixels),
            moments=self._moments,
            inputs={str(path): found for path, found in inputs.items()},
            dropped=self._dropped,
            noted=self._noted,
        )
