"""Tiles made of numbers, a job per text file: what the tests of preparing prepare."""

import dataclasses
import os
import signal
import sys
import time
from pathlib import Path

import numpy as np
from conftest import MINI_SPEC

from dis2_jax.data.builders.scene_jobs import Dropped, Job, Noted
from dis2_jax.data.builders.tiles import Tile
from dis2_jax.data.prepare import prepare
from dis2_jax.schema import Dis2Error

SHARD = 5000
"""Bytes: cuts through jobs and joins others."""


@dataclasses.dataclass(frozen=True)
class Numbers:
    """Tiles out of text files ``<split>-<i>.txt``, each the seed of a job's tiles; some do harm when read."""

    root: Path
    spec = MINI_SPEC

    @property
    def options(self):
        return "numbers"

    def jobs(self):
        files = sorted(self.root.glob("*.txt"), key=lambda p: (not p.name.startswith("train"), p.name))
        return [Job(p.stem, p.stem.split("-")[0], (p,), detail=len(p.stem)) for p in files]

    def tile_count(self, job):
        return 3

    def notes(self):
        return ("made of numbers",)

    def tiles(self, job):
        text = job.inputs[0].read_text()
        g = np.random.default_rng([int(text.split()[0]), *job.id.encode()])
        yield Noted("modules of jax were loaded", sum(name.split(".")[0] == "jax" for name in sys.modules))
        for i in range(3):
            if i == 1:
                harm(text)
            if i == 2 and "drop" in text:
                yield Dropped("they were told to be")
                continue
            label = g.integers(0, 3, (32, 32)).astype(np.uint8)
            images = {
                "rgb": g.integers(0, 255, (32, 32, 3), dtype=np.uint8),
                "ndsm": g.normal(1e6, 1, (32, 32, 1)).astype(np.float32),
            }
            yield Tile(f"{job.id}-{i}", images, label)


def harm(text):
    if "slow" in text:
        time.sleep(60)
    if "fault" in text:
        raise Dis2Error("a faulty file")
    if "die" in text:
        os.kill(os.getpid(), signal.SIGKILL)


def write_source(folder):
    """Eight jobs, one of which drops a tile."""
    folder.mkdir()
    for i in range(7):
        (folder / f"train-{i}.txt").write_text(str(i) + " drop" * (i == 3))
    (folder / "validation-0.txt").write_text("8")
    return folder


def files(folder):
    return {p.name: p.read_bytes() for p in folder.iterdir()}


def run(source, out, **options):
    return prepare(Numbers(source), out, shard_bytes=SHARD, **options)


def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)
