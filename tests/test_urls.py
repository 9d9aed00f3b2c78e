"""Scenes behind URLs: the tiles of local files, and one clear line for whatever goes wrong."""

import dataclasses

import numpy as np
import pytest
from range_server import DOWN, serve
from raster_files import write_raster
from stream_case import CARD, ORIGIN, take, write_scenes

from dis2_jax.config import DataConfig
from dis2_jax.data.opening import open_tiles
from dis2_jax.data.scenes import opened
from dis2_jax.data.scenes.build import index_scenes
from dis2_jax.schema import DatasetCard, Dis2Error

DATA = DataConfig(source="scenes", batch_size=2, crop=(32, 32))


@pytest.fixture(autouse=True)
def few_retries(monkeypatch):
    """GDAL waits between retries: a second and more."""
    quick = {"GDAL_HTTP_MAX_RETRY": 0, "CPL_VSIL_CURL_NON_CACHED": "/vsicurl/http://127.0.0.1"}
    monkeypatch.setattr(opened, "_GDAL", {**opened._GDAL, **quick})


def index(root, url, *, rgb="rgb/{}.tif", out="index"):
    rows = [
        f"{s},{split},{url}label/{s}.tif,{url}{rgb.format(s)},{'' if s == 'a2' else f'{url}ndsm/{s}.tif'}"
        for s, split in (("a1", "train"), ("a2", "train"), ("b1", "validation"))
    ]
    (root / "scenes.csv").write_text("\n".join(["scene,split,label,rgb,ndsm", *rows]) + "\n")
    lines = [line for line in CARD.split("[split.pattern]")[0].splitlines() if not line.startswith("files")]
    (root / "card.toml").write_text('scenes = "scenes.csv"\n' + "\n".join(lines))
    index_scenes(root, root / "card.toml", root / out, overwrite=True)
    return root / out


def tiles(folder, split="train"):
    return open_tiles(folder, split, DatasetCard.load(folder), kind="scenes")


@pytest.mark.parametrize("prefix", ["", "/vsicurl/"])
def test_the_tiles_are_those_of_local_files(tmp_path, prefix):
    wanted = list(tiles(write_scenes(tmp_path)))
    with serve(tmp_path) as url:
        folder = index(tmp_path, prefix + url, out="remote")
        np.testing.assert_equal(list(tiles(folder)), wanted)


def test_a_missing_file_is_named_and_nothing_written(tmp_path):
    write_scenes(tmp_path)
    with (
        serve(tmp_path) as url,
        pytest.raises(Dis2Error, match=r"http://.*/nowhere/a1\.tif .*404.*address") as e,
    ):
        index(tmp_path, url, rgb="nowhere/{}.tif", out="remote")
    assert "\n" not in str(e.value)
    assert not (tmp_path / "remote").exists()


def test_a_file_of_another_size_than_when_it_was_indexed_is_an_error(tmp_path):
    write_scenes(tmp_path)
    with serve(tmp_path) as url:
        folder = index(tmp_path, url, out="remote")
        write_raster(
            tmp_path / "rgb/a1.tif", np.zeros((72, 99, 3), np.uint8), crs="EPSG:32633", origin=ORIGIN
        )
        with pytest.raises(
            Dis2Error, match=r"http://.*rgb/a1\.tif of scene 'a1' is another file .*index` again"
        ):
            tiles(folder)[0]


def test_a_server_that_goes_away_is_an_error_or_a_counted_skip(tmp_path):
    """The file of every draw is behind it: skipping finds no other tile and says so."""
    write_scenes(tmp_path)
    with serve(tmp_path) as url:
        folder = index(tmp_path, url, out="remote")
        source = tiles(folder)
        (tmp_path / DOWN).touch()
        with pytest.raises(Dis2Error, match=r"http://.*\.tif cannot be read .*503"):
            source[0]
        with pytest.raises(Dis2Error, match=r"http://.*\.tif cannot be read .*503"):
            take(folder, DATA, n=2)
        with pytest.raises(Dis2Error, match=r"503.*8 other tiles tried in its place cannot be read either"):
            take(folder, dataclasses.replace(DATA, on_error="skip"), n=2)
        (tmp_path / DOWN).unlink()
        (tmp_path / "rgb/a2.tif").unlink()
        batches, health = take(folder, dataclasses.replace(DATA, on_error="skip", max_skips=100), n=8)
        assert len(batches) == 8
        assert health["skipped_tiles"] > 0
