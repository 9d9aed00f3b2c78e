"""Records of finished parts -> ArrayRecord shards of about equal size, read back record by record."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dis2_jax.data.preparing.parts import JobSummary, digest
from dis2_jax.data.preparing.run_job import disk_faults
from dis2_jax.data.preparing.work import Work
from dis2_jax.data.source import open_shard
from dis2_jax.schema import Dis2Error

SHARD_BYTES = 256 * 2**20
"""A shard is closed when it holds this much: small enough to copy, large enough for thousands of tiles."""


@dataclasses.dataclass(frozen=True)
class Slice:
    """Records ``start .. stop`` of the part of job ``job``; the first lies at byte ``offset`` of it."""

    job: int
    start: int
    stop: int
    offset: int


@dataclasses.dataclass(frozen=True)
class ShardPlan:
    """A shard to be: its file's name, and the records that it takes, in order."""

    name: str
    slices: tuple[Slice, ...]

    @property
    def length(self) -> int:
        """Number of records."""
        return sum(s.stop - s.start for s in self.slices)


@dataclasses.dataclass(frozen=True)
class Shard:
    """A shard that was written and read back."""

    name: str
    sha256: str


def plan_shards(
    stem: str, summaries: Mapping[int, JobSummary], *, shard_bytes: int = SHARD_BYTES
) -> list[ShardPlan]:
    """Cut the records of a split's jobs, in order, into shards. Depends on the records' sizes alone."""
    shards: list[list[Slice]] = []
    filled = shard_bytes + 1
    for job, summary in summaries.items():
        offset = 0
        for i, r in enumerate(summary.records):
            if not shards or filled + r.size > shard_bytes:
                shards.append([])
                filled = 0
            own = shards[-1]
            if own and own[-1].job == job:
                own[-1] = dataclasses.replace(own[-1], stop=i + 1)
            else:
                own.append(Slice(job, i, i + 1, offset))
            filled += r.size
            offset += r.size
    total = len(shards)
    return [
        ShardPlan(f"{stem}.array_record-{i:05d}-of-{total:05d}", tuple(own)) for i, own in enumerate(shards)
    ]


@dataclasses.dataclass(frozen=True)
class WriteShard:
    """The function that an engine runs per shard."""

    work: Work
    folder: Path

    def __call__(self, plan: ShardPlan) -> Shard:
        """Write a shard, read all of it again and compare each record with its digest.

        Raises ``Dis2Error`` for a part that is damaged (it is deleted: the next run makes it anew), a full disk, and
        a shard that does not come back as it was written.
        """
        from array_record.python.array_record_module import ArrayRecordWriter

        digests: list[str] = []
        path = self.folder / plan.name
        with disk_faults(self.work.folder):
            # Left to itself it compresses a second time, which only costs time when reading.
            writer: Any = ArrayRecordWriter(str(path), "group_size:1,uncompressed")
            try:
                for data, wanted in self._records(plan.slices):
                    writer.write(data)
                    digests.append(wanted)
            finally:
                writer.close()
        _check(path, digests)
        with path.open("rb") as f:
            return Shard(plan.name, hashlib.file_digest(f, "sha256").hexdigest())

    def _records(self, slices: Sequence[Slice]) -> Iterator[tuple[bytes, str]]:
        for s in slices:
            notes = JobSummary.load(self.work.summary(s.job)).records[s.start : s.stop]
            with self.work.part(s.job).open("rb") as f:
                f.seek(s.offset)
                for note in notes:
                    data = f.read(note.size)
                    if digest(data) != note.digest:
                        self._give_up(s.job, note.tile_id)
                    yield data, note.digest

    def _give_up(self, job: int, tile_id: str) -> None:
        self.work.summary(job).unlink(missing_ok=True)
        raise Dis2Error(
            f"{self.work.part(job)} (tile {tile_id!r}) is not what was written to it; look after the disk and "
            "run the same command again: that part is made anew"
        )


def _check(path: Path, digests: Sequence[str]) -> None:
    reader = open_shard(path, len(digests))
    for i, wanted in enumerate(digests):
        if digest(reader.read([i])[0]) != wanted:
            raise Dis2Error(
                f"{path}: record {i} does not come back as it was written; look after the disk and run the same "
                "command again"
            )
    reader.close()
