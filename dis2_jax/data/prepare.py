"""Turn a ``SceneDataset`` into a prepared dataset folder: what ``dis2 data prepare`` calls for every builder."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import shutil
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path

from dis2_jax.data.builders.features import DEFAULT_ENCODING, Encoding
from dis2_jax.data.builders.scene_jobs import SceneDataset
from dis2_jax.data.preparing.engines import Engine, InProcess, WorkerDied
from dis2_jax.data.preparing.finish import Split, check_splits, look_at_some, named_inputs, write_metadata
from dis2_jax.data.preparing.parts import JobSummary
from dis2_jax.data.preparing.resume import find_finished
from dis2_jax.data.preparing.run_job import disk_faults, run_job, unfinished_job
from dis2_jax.data.preparing.shards import SHARD_BYTES, WriteShard, plan_shards
from dis2_jax.data.preparing.work import Work
from dis2_jax.files import clear_leftovers, locked_folder, take_place
from dis2_jax.schema import CARD_FILE, DatasetCard, Dis2Error

_DATASET = "dataset"
"""The finished shards' place in the work's folder."""


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A finished dataset: its card, and what the user should know of how it came about (one line each)."""

    card: DatasetCard
    notes: tuple[str, ...] = ()


def check_out(out: str | Path, *, overwrite: bool) -> None:
    """Raise ``Dis2Error`` when ``out`` may not be written; only a prepared dataset may be overwritten."""
    out = Path(out)
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not (out / CARD_FILE).is_file():
        raise Dis2Error(f"{out} exists and is not a prepared dataset: choose another --out")
    if not overwrite:
        raise Dis2Error(f"{out} holds a prepared dataset already: choose another --out or add --overwrite")


def prepare(
    dataset: SceneDataset,
    out: str | Path,
    *,
    engine: Engine | None = None,
    overwrite: bool = False,
    shard_bytes: int = SHARD_BYTES,
    encoding: Encoding = DEFAULT_ENCODING,
    progress: bool = False,
) -> Prepared:
    """Write all tiles of all jobs to the folder ``out``, which is whole or not there; rasters in ``encoding``.

    Unfinished work lies beside it in ``.NAME.partial``; the same call goes on from there after a kill, a full disk
    or a faulty input, with any ``engine`` (default: this process) and any number of workers, to the same bytes.
    Raises ``Dis2Error`` for an ``out`` that exists (unless ``overwrite`` and it is a prepared dataset), an empty
    split, a bad tile or input, a full disk, a worker that died.
    """
    out = Path(out).absolute()
    check_out(out, overwrite=overwrite)
    folder = out.with_name(f".{out.name}.partial")
    work = Work.of(dataset, folder, encoding=encoding)
    with _unfinished(work):
        clear_leftovers(out)
        found = find_finished(work)
        _run_jobs(work, found.finished, engine or InProcess(), progress=progress)
        summaries = {n: JobSummary.load(work.summary(n)) for n in range(len(work.jobs))}
        card = _join(work, summaries, engine or InProcess(), shard_bytes=shard_bytes, progress=progress)
        with disk_faults(folder):
            take_place(folder / _DATASET, out)
    return Prepared(card, (*dataset.notes(), *found.notes, *_counted(summaries.values())))


@contextlib.contextmanager
def _unfinished(work: Work) -> Iterator[None]:
    """Hold the work's folder. It is gone after success, and after a failure that left nothing to keep."""
    folder = work.folder
    with locked_folder(folder, command="dis2 data prepare", flag="--out"):
        try:
            yield
        except Dis2Error as e:
            raise _with_what_is_kept(work, e) from e
        shutil.rmtree(folder, ignore_errors=True)


def _with_what_is_kept(work: Work, e: Dis2Error) -> Dis2Error:
    """Name the job of a dead worker, and say how to go on where a part is finished; else clear up."""
    message = str(e)
    if isinstance(e, WorkerDied):
        at = e.item if isinstance(e.item, int) else unfinished_job(work, e.pids)
        message += f" at job {work.jobs[at].split}/{work.jobs[at].id}" if at is not None else ""
    kept = sum(work.summary(n).exists() for n in range(len(work.jobs)))
    if not kept:
        shutil.rmtree(work.folder, ignore_errors=True)
        return Dis2Error(message)
    return Dis2Error(
        f"{message}; {kept} of {len(work.jobs)} jobs are done and kept in {work.folder}: the same command goes on there"
    )


def _run_jobs(work: Work, finished: Collection[int], engine: Engine, *, progress: bool) -> None:
    from tqdm import tqdm

    counts = [work.dataset.tile_count(job) for job in work.jobs]
    left = [n for n in range(len(work.jobs)) if n not in finished]
    if engine.elsewhere:
        work.save()
    bar = tqdm(
        total=sum(counts),
        initial=sum(counts[n] for n in finished),
        desc="     tiles",
        unit="tile",
        mininterval=0.5,
        disable=not progress,
    )
    with bar, contextlib.closing(engine.run(functools.partial(run_job, work), left)) as results:
        for number in results:
            bar.update(counts[number])


def _join(
    work: Work, summaries: Mapping[int, JobSummary], engine: Engine, *, shard_bytes: int, progress: bool
) -> DatasetCard:
    """Write shards and metadata of all finished jobs to the folder that becomes the dataset."""
    from tqdm import tqdm

    spec = work.dataset.spec
    of_split: dict[str, dict[int, JobSummary]] = {}
    for number, summary in summaries.items():
        of_split.setdefault(work.jobs[number].split, {})[number] = summary
    check_splits(spec, {split: tuple(own.values()) for split, own in of_split.items()})
    inputs = named_inputs(tuple(summaries.values()), work.dataset.root)
    splits = {
        split: Split(
            tuple(own.values()), tuple(plan_shards(f"{spec.name}-{split}", own, shard_bytes=shard_bytes))
        )
        for split, own in of_split.items()
    }
    folder = work.folder / _DATASET
    with disk_faults(work.folder):
        folder.mkdir()
    plans = [p for split in splits.values() for p in split.plans]
    if sum(s.size for s in summaries.values()) <= shard_bytes:
        engine = InProcess()  # done before another process has started
    with contextlib.closing(engine.run(WriteShard(work, folder), plans)) as results:
        bar = tqdm(results, total=len(plans), desc="    shards", unit="shard", disable=not progress)
        shards = list(bar)
    with disk_faults(work.folder):
        card = write_metadata(spec, work.encoding, splits, inputs, shards, folder)
    look_at_some(folder, card)
    return card


def _counted(summaries: Iterable[JobSummary]) -> list[str]:
    """Sum what the jobs dropped and noted."""
    dropped: Counter[str] = Counter()
    noted: Counter[str] = Counter()
    for summary in summaries:
        dropped.update(summary.dropped)
        noted.update(summary.noted)
    return [
        *(f"{n} tiles were dropped: {reason}" for reason, n in sorted(dropped.items())),
        *(f"{n} {text}" for text, n in sorted(noted.items()) if n),
    ]
