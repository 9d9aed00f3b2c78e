"""The unfinished side of a preparation: one folder with what is to be done, and the parts that are.

The folder belongs to one process at a time; workers, on this machine or others that see the folder, write parts into
it. A part is named after everything that decides its contents, so that a later run finds what it can use.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import pickle
from pathlib import Path
from typing import Any

from dis2_jax.data.builders.features import Encoding
from dis2_jax.data.builders.scene_jobs import Job, SceneDataset
from dis2_jax.files import write_whole
from dis2_jax.schema import Dis2Error

_RECORD_LAYOUT = 1
"""Goes up when the same job gives other records, so that parts of an older version are not used."""

_WORK_FILE = "work.pickle"


@dataclasses.dataclass(frozen=True)
class Work:
    """A dataset, its jobs, how its rasters are stored, and the folder for its parts.

    Pickled it is just the folder's name: ``save`` puts the rest there, each process reads it once.
    """

    folder: Path
    dataset: SceneDataset
    jobs: tuple[Job, ...]
    encoding: Encoding

    @classmethod
    def of(cls, dataset: SceneDataset, folder: Path, *, encoding: Encoding) -> Work:
        """List the jobs. Raises ``Dis2Error`` for jobs without training, or two of one name."""
        jobs = tuple(dataset.jobs())
        seen: set[tuple[str, str]] = set()
        for job in jobs:
            if (job.split, job.id) in seen:
                raise Dis2Error(f"split {job.split!r}: job {job.id!r} comes twice")
            seen.add((job.split, job.id))
        if "train" not in {split for split, _ in seen}:
            raise Dis2Error(f"split 'train' of {dataset.spec.name!r} is empty: give it at least one tile")
        return cls(folder, dataset, jobs, encoding)

    def save(self) -> None:
        """Write what other processes need to the folder."""
        write_whole(self.folder / _WORK_FILE, pickle.dumps((self.dataset, self.jobs, self.encoding)))

    def __reduce__(self) -> Any:
        return _load_work, (self.folder,)

    def key(self, number: int) -> str:
        """Return the job's name among parts: a digest of what decides its records, save its inputs' contents."""
        decisive = (_RECORD_LAYOUT, self.encoding, self.dataset.spec, self.dataset.options, self.jobs[number])
        return hashlib.sha256(repr(decisive).encode()).hexdigest()[:32]

    def part(self, number: int) -> Path:
        """Where the job's records lie."""
        return self.folder / f"{self.key(number)}.part"

    def summary(self, number: int) -> Path:
        """What is known of the part; written last: a job without it is not done."""
        return self.folder / f"{self.key(number)}.json"


@functools.lru_cache(maxsize=1)
def _load_work(folder: Path) -> Work:
    try:
        dataset, jobs, encoding = pickle.loads((folder / _WORK_FILE).read_bytes())
    except OSError as e:
        raise Dis2Error(
            f"{folder / _WORK_FILE} cannot be read ({e.strerror or e}): every worker must see the folder of --out"
        ) from e
    return Work(folder, dataset, jobs, encoding)
