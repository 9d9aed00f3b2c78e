"""Batches in the memory that they get: written in full, left as bytes by reader processes, kept for the next tile."""

import dataclasses
import subprocess
import sys

import jax
import numpy as np
import pytest

from dis2_jax.config import DataConfig
from dis2_jax.data.packed_batch import PackedTrainBatch
from dis2_jax.data.raw_batch import RawTrainBatch
from dis2_jax.data.resample import Positions, nearest
from dis2_jax.data.samples import Draw, EvalBatch, TrainBatch
from dis2_jax.data.tileset import Draws, StoredTile
from dis2_jax.schema import IGNORE, ClassLegend, DatasetCard, Modality

CARD = DatasetCard(
    name="small",
    modalities=(
        Modality("rgb", 3, kind="optical", mean=(90.0, 80.0, 70.0), std=(20.0, 30.0, 40.0)),
        Modality("mask", 1, mean=(0.5,), std=(0.5,)),
        Modality("ndsm", 1, mean=(3.0,), std=(2.0,)),
    ),
    legend=ClassLegend(("x", "y"), ((0, 0, 0), (1, 1, 1))),
    tile=(48, 32),
    splits={"train": 4},
)


class Tiles:
    """Noise of 8 bits and floats; some tiles lack the image, one has nothing."""

    dtypes = {"rgb": np.dtype("uint8"), "mask": np.dtype("uint8"), "ndsm": np.dtype("float32")}  # noqa: RUF012
    draws = (Draws(4),)

    def __len__(self):
        return 4

    def __getitem__(self, index):
        return self.draw(index, None)

    def draw(self, number, rng):
        g = np.random.default_rng(number)
        image = {
            m.name: g.integers(0, 255, (48, 32, m.channels)).astype(self.dtypes[m.name])
            for m in CARD.modalities
        }
        there = np.array([number < 2, number < 3, number != 3])
        label = g.integers(0, 2, (48, 32)).astype(np.uint8)
        return StoredTile(image=image, label=label, available=there, tile_id="", index=number)


@pytest.mark.parametrize("free", [True, False])
@pytest.mark.parametrize("normalize", ["card", "none"])
def test_a_packed_batch_holds_the_very_numbers(free, normalize):
    data = DataConfig(crop=(32, 16), photometric=0.3, normalize=normalize)
    if free:
        data = dataclasses.replace(data, rotate_degrees=30.0, scale=(0.7, 1.4))
    draws = [Draw(number % 4, seed=number) for number in range(8)]
    whole = TrainBatch(Tiles(), CARD, data)(draws)
    make = PackedTrainBatch(Tiles(), CARD, data)
    packed = make(draws)
    assert [packed["image"][n].dtype for n in ("rgb", "mask", "ndsm")] == [np.uint8, np.uint8, np.float32]
    assert packed["label"].dtype == np.uint8
    found = make.copied(packed)
    assert found.keys() == whole.keys()
    for name, x in whole["image"].items():
        assert found["image"][name].dtype == np.float32
        np.testing.assert_array_equal(found["image"][name], x)
    assert not found["image"]["rgb"][2].any()  # absent
    assert (found["label"][3] == IGNORE).all()
    for key in ("label", "available", "valid", "index", "skipped"):
        assert found[key].dtype == whole[key].dtype
        np.testing.assert_array_equal(found[key], whole[key])


def test_nothing_of_what_was_in_the_memory_before_is_left(monkeypatch):
    """Padding rows of an evaluation are written, too."""
    plain = np.empty

    def rows(dirt):
        def empty(*args, **options):
            x = plain(*args, **options)
            x.fill(dirt)
            return x

        monkeypatch.setattr(np, "empty", empty)
        return EvalBatch(Tiles(), CARD, DataConfig())(range(6))

    np.testing.assert_equal(rows(0), rows(77))


@pytest.mark.parametrize("kind", [TrainBatch, PackedTrainBatch, RawTrainBatch])
def test_nothing_of_an_earlier_batch_is_left(kind):
    """Absent modalities and tiles without any are written, too, and what was wrong with a tile."""
    make = kind(Tiles(), CARD, DataConfig(crop=(32, 16), photometric=0.1))

    def rows(dirt):
        rows = make.empty(4)
        jax.tree.map(lambda x: x.fill(dirt), rows)
        make.fill(rows, [Draw(number, seed=number) for number in range(4)])
        return rows

    np.testing.assert_equal(rows(0), rows(1))


@pytest.mark.parametrize("height", [1, 64, 150])
def test_labels_come_strip_by_strip_as_in_one(height):
    g = np.random.default_rng(height)
    y = g.integers(0, 9, (100, 80)).astype(np.uint8)
    row, col = (g.uniform(-20, 90, height).astype(np.float32) for _ in range(2))
    zeros = np.zeros(70, np.float32)
    found = nearest(y, Positions(row, zeros, col, zeros))
    r, c = np.rint(row).astype(int), np.rint(col).astype(int)
    inside = (r >= 0) & (r < 100) & (c >= 0) & (c < 80)
    wanted = np.where(inside, y[r.clip(0, 99), c.clip(0, 79)], IGNORE)
    np.testing.assert_array_equal(found, np.repeat(wanted[:, None], 70, 1))


FAULTS = """
import resource, sys, threading
import numpy as np
from dis2_jax.data.memory import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
def work():
    for k in range(41):
        if k == 1:
            before = resource.getrusage(resource.RUSAGE_THREAD).ru_minflt
        blocks = [bytearray(n) for n in (600_000, 1_000_000, 800_000)]
        del blocks
    print((resource.getrusage(resource.RUSAGE_THREAD).ru_minflt - before) // 40)
thread = threading.Thread(target=work)
thread.start()
thread.join()
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc only")
def test_readers_keep_the_memory_of_a_tile_for_the_next():
    def faults(how):
        run = subprocess.run(
            [sys.executable, "-c", FAULTS, how], capture_output=True, text=True, check=True, env=CLEAN
        )
        return int(run.stdout)

    assert faults("default") > 100
    assert faults("keep") < 10


CLEAN = {"PATH": "/usr/bin:/bin", "PYTHONPATH": ":".join(sys.path)}
