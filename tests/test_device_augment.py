"""Augmentation inside the step makes of a stream's tiles what the host makes of them."""

import dataclasses
import os
import subprocess
import sys

import jax
import numpy as np
import pytest
from stream_case import take, write_mixture
from test_pipeline import assert_same

from dis2_jax.config import DataConfig
from dis2_jax.data.raw_batch import RawTrainBatch
from dis2_jax.data.samples import Draw, TrainBatch
from dis2_jax.data.tileset import Draws, StoredTile
from dis2_jax.schema import ClassLegend, DatasetCard, Modality
from dis2_jax.sharding.mesh import batch_sharding, data_mesh, put_batch
from dis2_jax.training.augment import device_augment

PLAIN = DataConfig(batch_size=4, crop=(16, 32), photometric=0.2)
FREE = dataclasses.replace(PLAIN, rotate_degrees=30.0, scale=(0.5, 1.5))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A mixture, with its members beside it: ``mini`` (prepared), ``index`` (scenes); only to be read."""
    return write_mixture(tmp_path_factory.mktemp("both"))


def on_device(data):
    return dataclasses.replace(data, augment="device")


@pytest.mark.parametrize("kind", ["mini", "index", "mixture"])
@pytest.mark.parametrize("data", [PLAIN, FREE], ids=["plain", "free"])
def test_the_device_makes_the_hosts_batches(folder, kind, data):
    """Labels exactly; images by one of 255 where rounding differs, and that rarely."""
    where = folder.parent / kind
    host, _ = take(where, data, n=6)
    raw, _ = take(where, on_device(data), n=6)
    card = DatasetCard.load(where)
    augment = jax.jit(device_augment(card, data))
    std = {m.name: np.array(m.std) for m in card.modalities}
    for a, b in zip(host, raw, strict=True):
        assert b["label"].shape == (4, 32, 32)
        np.testing.assert_array_equal(a["index"], b["index"])
        found = augment({k: b[k] for k in ("image", "label", "available", "drawn")})
        np.testing.assert_array_equal(found["label"], a["label"])
        assert found["label"].dtype == np.int32
        for name, x in a["image"].items():
            off = np.abs(found["image"][name] - x) * std[name]
            assert (off > 2e-3).mean() < (0.01 if data is FREE else 1e-9)
            assert off.max() < 2
    assert any((~a["available"]).any() for a in host) or kind == "index"


def test_batches_keep_shapes_and_dtypes_and_follow_the_position(folder):
    """One program for all steps, whichever members and absent modalities a batch has; also after a stop."""
    whole, _ = take(folder, on_device(FREE), n=8)
    assert len({str(jax.tree.map(lambda x: (x.shape, x.dtype), b)) for b in whole}) == 1
    assert whole[0]["image"]["rgb"].dtype == np.uint8
    resumed, _ = take(folder, on_device(FREE), n=3, position=5)
    assert_same(resumed, whole[5:])
    shares = [take(folder, on_device(FREE), n=2, process_index=i, process_count=2)[0] for i in range(2)]
    joined = [jax.tree.map(lambda *x: np.concatenate(x), *both) for both in zip(*shares, strict=True)]
    assert_same(joined, whole[:2])


WIDE = DatasetCard(
    name="wide",
    modalities=(
        Modality("a", 2, mean=(0.0,) * 2, std=(1.0,) * 2),
        Modality("b", 4, kind="optical", mean=(90.0,) * 4, std=(2.0,) * 4),
        Modality("c", 6, mean=(1.0,) * 6, std=(3.0,) * 6),
    ),
    legend=ClassLegend(("x", "y"), ((0, 0, 0), (1, 1, 1))),
    tile=(48, 32),
    splits={"train": 4},
)


class Tiles:
    """Noise of 16 bits, held in memory."""

    dtypes = {"a": np.dtype("int16"), "b": np.dtype("uint16"), "c": np.dtype("uint16")}  # noqa: RUF012
    draws = (Draws(4),)

    def draw(self, number, rng):
        g = np.random.default_rng(number)
        image = {
            m.name: g.integers(0, 5000, (48, 32, m.channels)).astype(self.dtypes[m.name])
            for m in WIDE.modalities
        }
        label = g.integers(0, 2, (48, 32)).astype(np.uint8)
        return StoredTile(image=image, label=label, available=np.ones(3, bool), tile_id="", index=number)


@pytest.mark.parametrize("scale", [(0.5, 2.0), (0.1, 0.11)])
def test_16_bit_rasters_of_many_channels_and_a_tiny_zoom(scale):
    data = DataConfig(rotate_degrees=45.0, scale=scale, normalize="none", photometric=0.0)
    draws = [Draw(number, seed=7 * number) for number in range(4)]
    host = TrainBatch(Tiles(), WIDE, data)(draws)
    raw = RawTrainBatch(Tiles(), WIDE, data)(draws)
    found = jax.jit(device_augment(WIDE, data))(
        {k: v for k, v in raw.items() if k not in ("skipped", "valid")}
    )
    np.testing.assert_array_equal(found["label"], host["label"])
    for name, x in host["image"].items():
        off = np.abs(found["image"][name] - x)
        assert off.max() <= 1
        if name == "a":  # not rounded; 5000 per pixel is as steep as it gets
            assert off.max() < 5000 / 10000 * 2


def test_a_batch_split_over_devices_is_augmented_where_it_lies():
    """In a process of its own: the number of CPU devices is fixed at start-up."""
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "8"}
    done = subprocess.run(
        [sys.executable, __file__], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def count_collectives():
    """Compile the augmentation of a batch on eight devices, and run it."""
    mesh = data_mesh()
    raw = RawTrainBatch(Tiles(), WIDE, FREE)([Draw(i % 4, seed=i) for i in range(mesh.size)])
    placed = put_batch({k: v for k, v in raw.items() if k not in ("skipped", "valid", "index")}, mesh)
    program = jax.jit(device_augment(WIDE, FREE)).lower(placed).compile()
    for collective in ("all-gather", "all-reduce", "all-to-all", "collective-permute"):
        assert collective not in program.as_text()
    label = program(placed)["label"]
    assert label.sharding.is_equivalent_to(batch_sharding(mesh, label.shape), 3)
    assert mesh.size == 8


if __name__ == "__main__":
    count_collectives()
