"""The writer: exact statistics, any number of shards, whole or not there, deterministic, open to TFDS."""

import dataclasses
import subprocess
import sys

import numpy as np
import pytest
from conftest import MINI_SPEC, mini_tiles
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from dis2_jax.data.builders.features import ENCODINGS
from dis2_jax.data.builders.statistics import ChannelMoments, class_counts
from dis2_jax.data.builders.synthetic_city import SyntheticCity, SyntheticCityOptions
from dis2_jax.data.builders.tiles import Tile
from dis2_jax.data.builders.writer import write_dataset
from dis2_jax.data.preparing.work import Work
from dis2_jax.data.source import TileSource
from dis2_jax.schema import IGNORE, DatasetCard, Dis2Error, Modality

K = len(MINI_SPEC.legend)


def write(out, splits=("train", "validation"), **kwargs):
    return write_dataset(MINI_SPEC, {s: mini_tiles(s) for s in splits}, out, **kwargs)


def files(folder):
    return {p.name: p.read_bytes() for p in folder.iterdir()}


@given(
    hnp.arrays(np.int16, st.tuples(st.integers(1, 40), st.just(2)), elements=st.integers(-32768, 32767)),
    st.lists(st.integers(0, 40), max_size=4),
)
def test_moments_merge_to_the_whole(pixels, cuts):
    moments = ChannelMoments(2)
    for part in np.split(pixels, sorted(cuts)):
        moments.add(part)
    np.testing.assert_allclose(moments.mean, pixels.mean(0), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(moments.std, pixels.std(0), rtol=1e-9, atol=1e-9)


def test_moments_keep_their_digits_far_from_zero():
    x = 1e7 + np.random.default_rng(0).normal(size=(1000, 1))
    moments = ChannelMoments(1)
    for part in np.split(x, 10):
        moments.add(part)
    np.testing.assert_allclose(moments.std, x.std(0), rtol=1e-9)


def test_card_counts_and_statistics_are_those_of_the_tiles(tmp_path):
    card = write(tmp_path / "d")
    tiles = list(mini_tiles("train"))
    for m in card.modalities:
        pixels = np.concatenate(
            [t.images[m.name].reshape(-1, m.channels) for t in tiles if m.name in t.images]
        )
        np.testing.assert_allclose(m.mean, pixels.mean(0, dtype=np.float64), rtol=1e-9)
        np.testing.assert_allclose(m.std, pixels.std(0, dtype=np.float64), rtol=1e-9)
    assert card.splits == {"train": len(tiles), "validation": len(list(mini_tiles("validation")))}
    assert card.class_pixels["train"] == tuple(sum(class_counts(t.label, K) for t in tiles))
    assert card == DatasetCard.load(tmp_path / "d")


def test_only_valid_pixels_make_the_statistics(tmp_path):
    tiles = list(mini_tiles("train"))
    valid = np.zeros(MINI_SPEC.tile, bool)
    valid[:5] = True
    masked = [dataclasses.replace(t, valid=dict.fromkeys(t.images, valid)) for t in tiles]
    card = write_dataset(MINI_SPEC, {"train": masked}, tmp_path / "d")
    pixels = np.concatenate([t.images["rgb"][:5].reshape(-1, 3) for t in tiles])
    np.testing.assert_allclose(card.modality("rgb").mean, pixels.mean(0), rtol=1e-9)


@pytest.mark.parametrize("shard_bytes", [1, 5000, 2**28])
def test_records_come_back_in_order_from_any_number_of_shards(tmp_path, shard_bytes):
    import tensorflow_datasets as tfds

    card = write(tmp_path / "d", shard_bytes=shard_bytes)
    shards = [p for p in files(tmp_path / "d") if "-train." in p]
    assert len(shards) == {1: card.splits["train"], 5000: len(shards), 2**28: 1}[shard_bytes]
    source = tfds.builder_from_directory(str(tmp_path / "d")).as_data_source("train")
    for read, tile in zip(source, mini_tiles("train"), strict=True):
        assert read["tile_id"] == tile.tile_id.encode()
        assert np.array_equal(read["label"], tile.label)
        for j, name in enumerate(("rgb", "ndsm")):
            assert read["available"][j] == (name in tile.images)
            assert np.array_equal(
                read["image"][name], tile.images.get(name, np.zeros_like(read["image"][name]))
            )


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "float32"])
def test_every_stored_dtype_survives(tmp_path, dtype):
    spec = dataclasses.replace(
        MINI_SPEC, modalities=(Modality("a", 5), Modality("b", 1)), dtypes=(dtype, dtype), tile=(16, 32)
    )
    low, high = (-9.5, 1e30) if dtype == "float32" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    x = np.linspace(low, high, 16 * 32 * 5).astype(dtype).reshape(16, 32, 5)
    tile = Tile("t", {"a": x, "b": x[..., :1]}, np.zeros((16, 32), np.uint8))
    card = write_dataset(spec, {"train": [tile]}, tmp_path / "d")
    read = TileSource(tmp_path / "d", "train", card)[0]["image"]["a"]
    assert read.dtype == dtype
    assert np.array_equal(read, x)


WRITTEN_ELSEWHERE = """
import sys
from dis2_jax.data.builders.synthetic_city import *
from dis2_jax.data.prepare import prepare
prepare(SyntheticCity(SyntheticCityOptions(train_scenes=2, scene=64, tile=16)), sys.argv[1])
"""


def test_another_process_writes_the_same_files(tmp_path):
    for name in "ab":
        subprocess.run([sys.executable, "-c", WRITTEN_ELSEWHERE, str(tmp_path / name)], check=True)
    assert files(tmp_path / "a") == files(tmp_path / "b")


def test_an_out_in_use_is_kept_unless_told(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(Dis2Error, match="not a prepared dataset"):
        write(tmp_path / "mine", overwrite=True)
    write(tmp_path / "d")
    with pytest.raises(Dis2Error, match="add --overwrite"):
        write(tmp_path / "d")
    write(tmp_path / "d", splits=("train",), overwrite=True)
    assert list(DatasetCard.load(tmp_path / "d").splits) == ["train"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["d", "mine"]


def broken(**change):
    tile = next(iter(mini_tiles("train")))
    return dataclasses.replace(tile, **change)


@pytest.mark.parametrize(
    ("tiles", "message"),
    [
        ([], "split 'train' of 'mini' is empty"),
        ([broken(), broken()], "comes twice"),
        ([broken(label=np.full((32, 32), IGNORE, np.uint8))], "every pixel of every label is ignored"),
        ([broken(label=np.full((32, 32), K, np.uint8))], r"label holds \[3\], outside 0..2"),
        ([broken(label=np.zeros((32, 16), np.uint8))], "label is uint8"),
        ([broken(images={"rgb": np.zeros((32, 32, 1), np.uint8)})], "rgb is uint8"),
        ([broken(images={"ndsm": np.full((32, 32, 1), np.nan, np.float32)})], "ndsm holds NaN or inf"),
        ([broken(images={"nir": np.zeros((32, 32, 1), np.uint8)})], "unknown modality 'nir'"),
        ([broken(images={})], "no modality"),
        (
            [broken(images={"rgb": broken().images["rgb"]})],
            "no training tile has a valid pixel of modality 'ndsm'",
        ),
    ],
)
def test_bad_tiles_leave_nothing_behind(tmp_path, tiles, message):
    with pytest.raises(Dis2Error, match=message):
        write_dataset(MINI_SPEC, {"train": tiles}, tmp_path / "d")
    assert not (tmp_path / "d").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tile": (32, 40)}, "multiples of 16"),
        ({"tile": (0, 16)}, "multiples of 16"),
        ({"name": "My Data"}, "use lower-case letters"),
        ({"dtypes": ("uint8", "float64")}, "cannot store float64"),
        ({"dtypes": ("uint8",)}, "2 modalities but 1 dtypes"),
    ],
)
def test_bad_specs(change, message):
    with pytest.raises(Dis2Error, match=message):
        dataclasses.replace(MINI_SPEC, **change)


@pytest.mark.parametrize("encoding", ["raw", "zlib", "zstd"])
def test_every_encoding_reads_back_to_the_same_tiles(tmp_path, encoding):
    write(tmp_path / "d", encoding=encoding)
    source = TileSource(tmp_path / "d", "train", DatasetCard.load(tmp_path / "d"))
    for stored, tile in zip(source, mini_tiles("train"), strict=False):
        assert stored["label"].tobytes() == tile.label.tobytes()
        for name, x in tile.images.items():
            assert stored["image"][name].dtype == x.dtype
            np.testing.assert_array_equal(stored["image"][name], x)
    wanted = {"raw": '"encoding": "bytes"', "zlib": '"encoding": "zlib"', "zstd": "zstd_tensor.ZstdTensor"}
    assert (tmp_path / "d/features.json").read_text().count(wanted[encoding]) == 3


def test_encodings_differ_in_size_and_a_killed_run_does_not_mix_them(tmp_path):
    for encoding in ("raw", "zstd"):
        write(tmp_path / encoding, encoding=encoding)
    sizes = [sum(p.stat().st_size for p in (tmp_path / e).glob("mini-*")) for e in ("raw", "zstd")]
    assert sizes[1] < 0.9 * sizes[0]
    data = SyntheticCity(SyntheticCityOptions())
    keys = {Work.of(data, tmp_path, encoding=e).key(0) for e in ENCODINGS}
    assert len(keys) == len(ENCODINGS)


def test_tfds_builder_class_has_the_same_records(tmp_path):
    from dis2_jax.data.builders.tfds_builders import SyntheticCity as Builder
    from dis2_jax.data.prepare import prepare

    options = SyntheticCityOptions(train_scenes=1, validation_scenes=1, test_scenes=0, scene=32, tile=16)
    builder = Builder(options=options, data_dir=str(tmp_path / "tfds"), file_format="array_record")
    builder.download_and_prepare()
    card = prepare(SyntheticCity(options), tmp_path / "ours").card
    ours = {t["tile_id"]: t for t in TileSource(tmp_path / "ours", "train", card)}
    theirs = {r["tile_id"].decode(): r for r in builder.as_data_source("train")}
    assert sorted(ours) == sorted(theirs)
    for tile_id, tile in ours.items():
        assert np.array_equal(tile["image"]["ndsm"], theirs[tile_id]["image"]["ndsm"])
    import sys

    assert "tensorflow" not in sys.modules
