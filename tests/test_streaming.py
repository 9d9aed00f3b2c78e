"""Streaming from scenes: the tiles that preparing would cut, other grids, random windows, lists, refusals."""

import dataclasses
import json
import zipfile

import numpy as np
import pytest
from folder_case import CARD as FOLDER_CARD
from folder_case import prepare, scene
from hypothesis import given
from hypothesis import strategies as st
from raster_files import write_raster
from stream_case import CARD, ORIGIN, take, write_scene, write_scenes

from dis2_jax.config import DataConfig
from dis2_jax.data.builders.cutting import Rect, cut_tiles, nth_tile
from dis2_jax.data.opening import open_tiles
from dis2_jax.data.places import load_places
from dis2_jax.data.rasters import file_path
from dis2_jax.data.scenes.area import ValidArea, WindowSampler, grid_size
from dis2_jax.data.scenes.build import index_scenes
from dis2_jax.data.scenes.pool import ScenePool
from dis2_jax.data.scenes.source import SceneSource
from dis2_jax.schema import IGNORE, DatasetCard, Dis2Error


def opened(folder, split):
    return open_tiles(folder, split, DatasetCard.load(folder), kind="scenes")


def index(root, **options):
    return index_scenes(root, root / "card.toml", root / "index", overwrite=True, **options)


def edit(root, old, new):
    text = (root / "card.toml").read_text()
    assert old in text
    (root / "card.toml").write_text(text.replace(old, new))


def test_records_and_statistics_equal_those_of_preparing(tmp_path):
    """Holes, nodata, an absent modality, ignored labels, odd sizes; where preparing drops a tile there is a blank."""
    for name in ("a1", "a2", "b1"):
        scene(tmp_path, name, height=name != "a2")
    _, dsm, label = scene(tmp_path, "a3")
    dsm[:16, :16], dsm[20, 20], label[32:, :16] = -9999, -9999, 9
    write_raster(tmp_path / "dsm/dsm_a3.tif", dsm)
    write_raster(tmp_path / "label/a3_gt.png", label)
    (tmp_path / "card.toml").write_text(FOLDER_CARD)
    prepared, card = prepare(tmp_path).card, index(tmp_path).card
    for a, b in zip(card.modalities, prepared.modalities, strict=True):
        assert dataclasses.replace(a, mean=(), std=()) == dataclasses.replace(b, mean=(), std=())
        np.testing.assert_allclose([a.mean, a.std], [b.mean, b.std], rtol=1e-12)  # other order of sums
    for split in card.splits:
        wanted = {t["tile_id"]: t for t in open_tiles(tmp_path / "out", split, prepared)}
        source = opened(tmp_path / "index", split)
        found = {source.tile_id(i): source[i] for i in range(len(source))}
        dropped = set(found) - set(wanted)
        assert dropped == ({"a3_y00032_x00000"} if split == "train" else set())
        assert all((found[i]["label"] == IGNORE).all() for i in dropped)
        for name, tile in wanted.items():
            assert found[name]["tile_id"] == name
            np.testing.assert_equal({**found[name], "index": 0}, {**tile, "index": 0})
        kept = [p for i, p in enumerate(source.places()) if source.tile_id(i) in wanted]
        assert tuple(kept) == load_places(tmp_path / "out", split, tiles=len(wanted))


def test_other_grids_are_resampled_to_the_reference(tmp_path):
    """Heights of 2 m in another zone, half of the scene; labels of 4 m: nearest, so whole blocks."""
    write_scene(tmp_path, "a1", ndsm=False)
    write_scene(tmp_path, "b1")
    from rasterio.warp import transform

    (x,), (y,) = transform("EPSG:32633", "EPSG:32634", [ORIGIN[0]], [ORIGIN[1]])
    ramp = np.tile(np.arange(80, dtype=np.float32), (80, 1))
    write_raster(
        tmp_path / "ndsm/a1.tif", ramp, crs="EPSG:32634", origin=(x - 60, y + 30), pixel=2.0, nodata=-1
    )
    coarse = np.random.default_rng(5).integers(1, 4, (18, 25)).astype(np.uint8)
    write_raster(tmp_path / "label/a1.tif", coarse, crs="EPSG:32633", origin=ORIGIN, pixel=4.0)
    (tmp_path / "card.toml").write_text(CARD)
    notes = index(tmp_path).notes
    assert "ndsm is resampled to the grid of rgb in 2 scenes" in notes
    assert "label is resampled to the grid of rgb in 1 scenes" in notes
    first, *_ = source = opened(tmp_path / "index", "train")
    np.testing.assert_array_equal(first["label"], np.kron(coarse[:8, :8], np.ones((4, 4), int)) - 1)
    east = np.diff(first["image"]["ndsm"][..., 0], axis=1)
    assert first["available"].all()
    np.testing.assert_allclose(
        east, 0.5, atol=0.02
    )  # 1 m of a ramp of 1 per 2 m, but for the zones' rotation
    assert len(source) == 3 * 4
    validation = opened(tmp_path / "index", "validation")[0]["image"]["ndsm"][..., 0]
    rows, cols = np.mgrid[:32, :32] + 0.5
    np.testing.assert_allclose(validation[1:, 1:], (0.1 * cols + 0.2 * rows)[1:, 1:], atol=1e-4)


def test_what_a_modality_does_not_cover_is_ignored_or_absent(tmp_path):
    write_scene(tmp_path, "a1", ndsm=False)
    write_scene(tmp_path, "b1")
    part = np.ones((72, 40), np.float32)  # the western 40 of 100 columns
    write_raster(tmp_path / "ndsm/a1.tif", part, crs="EPSG:32633", origin=ORIGIN, pixel=1.0)
    (tmp_path / "card.toml").write_text(CARD)
    index(tmp_path)
    source = opened(tmp_path / "index", "train")
    tiles = {source.tile_id(i): source[i] for i in range(len(source))}
    there, half, gone = (tiles[f"a1_y00000_x000{x}"] for x in ("00", "32", "64"))
    assert [t["available"].tolist() for t in (there, half, gone)] == [
        [True, True],
        [True, True],
        [True, False],
    ]
    assert (there["label"] != IGNORE).all()
    assert (half["label"][:, 8:] == IGNORE).all()
    assert (half["label"][:, :8] != IGNORE).all()
    assert (gone["label"] != IGNORE).all()


# Random windows

RECTS = st.builds(Rect, st.integers(0, 50), st.integers(0, 50), st.integers(1, 90), st.integers(1, 90))


@given(st.lists(RECTS, min_size=1, max_size=4), st.integers(0, 99), st.sampled_from([16, 32, 48]))
def test_windows_lie_in_their_rectangle_and_show_data(rects, seed, tile):
    g = np.random.default_rng(seed)
    areas = [(r, ValidArea.of(g.random(grid_size(r)) < 0.5)) for r in rects]
    areas[0] = (areas[0][0], ValidArea.of(np.ones(grid_size(areas[0][0]), bool)))
    sampler = WindowSampler(areas, (tile, tile))
    for n in range(sampler.count):
        k, w = sampler.draw(n, g)
        rect = rects[k]
        assert (w.height, w.width) == (min(tile, rect.height), min(tile, rect.width))
        assert rect.row <= w.row <= w.row + w.height <= rect.row + rect.height
        assert rect.col <= w.col <= w.col + w.width <= rect.col + rect.width
        assert areas[k][1].share > 0


def test_an_epoch_of_windows_looks_everywhere_alike():
    """Twice the valid area, twice the windows; within a scene any place is as likely as another, but for its rim."""
    empty = np.zeros((32, 32), bool)
    half = empty.copy()
    half[:, :16] = True
    rect = Rect(0, 0, 640, 640)
    areas = [(rect, ValidArea.of(cells)) for cells in (empty, half, ~empty)]
    sampler = WindowSampler(areas, (32, 32))
    assert sampler.count == round(1.5 * 400)
    g = np.random.default_rng(0)
    seen = np.zeros((3, 640, 640), int)
    for _ in range(20):
        epoch = [sampler.draw(n, g) for n in range(sampler.count)]
        assert [sum(k == i for k, _ in epoch) for i in range(3)] == [0, 200, 400]
        for k, w in epoch:
            seen[k, w.row : w.row + 32, w.col : w.col + 32] += 1
    blocks = seen[2].reshape(10, 64, 10, 64).mean((1, 3))[1:-1, 1:-1]
    assert blocks.min() > 0.85 * 20
    assert blocks.max() < 1.15 * 20
    assert seen[1][:, 352:].sum() == 0


@given(RECTS, st.sampled_from([16, 48]), st.integers(0, 15))
def test_the_nth_tile_is_the_nth_of_all(rect, tile, overlap):
    tiles = list(cut_tiles(rect, (tile, tile), overlap=overlap))
    assert [nth_tile(rect, (tile, tile), n, overlap=overlap) for n in range(len(tiles))] == tiles


def test_draws_differ_by_epoch_and_avoid_what_is_blank(tmp_path):
    write_scene(tmp_path, "a1")
    write_scene(tmp_path, "b1")
    label = np.full((72, 100), 9, np.uint8)
    label[:, 60:] = 2
    write_raster(tmp_path / "label/a1.tif", label, crs="EPSG:32633", origin=ORIGIN, pixel=1.0)
    (tmp_path / "card.toml").write_text(CARD)
    index(tmp_path)
    batches, _ = take(tmp_path / "index", DataConfig(batch_size=1, flip=False, rotate90=False), n=12)
    assert all((b["label"] == 1).sum() > 100 for b in batches)
    assert len({b["image"]["rgb"].tobytes() for b in batches}) > 8


def test_statistics_from_a_sample_are_near_those_of_everything(tmp_path):
    folder = write_scenes(tmp_path)
    full = DatasetCard.load(folder)
    card = index(tmp_path, samples=12).card
    np.testing.assert_allclose(card.modality("rgb").mean, full.modality("rgb").mean, rtol=0.1)
    np.testing.assert_allclose(card.modality("rgb").std, full.modality("rgb").std, rtol=0.15)


# Lists of scenes


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_list_of_scenes_instead_of_patterns(tmp_path, kind):
    folder = write_scenes(tmp_path)
    wanted = json.loads((folder / "scene_index.json").read_text())["scenes"]
    rows = [
        {
            "scene": s,
            "split": split,
            "label": f"label/{s}.tif",
            "rgb": str(tmp_path / f"rgb/{s}.tif"),
            "ndsm": ndsm,
        }
        for s, split, ndsm in (
            ("a1", "train", "ndsm/a1.tif"),
            ("b1", "validation", "ndsm/b1.tif"),
            ("a2", "train", ""),
            ("unused", "", ""),
        )
    ]
    write_scene(tmp_path, "unused", ndsm=False)
    if kind == "csv":
        lines_of_list = [",".join(rows[0]), *(",".join(r.values()) for r in rows)]
        (tmp_path / "scenes.csv").write_text("\n".join(lines_of_list) + "\n")
    else:
        import pyarrow
        import pyarrow.parquet

        table = [{**r, "ndsm": r["ndsm"] or None, "geometry": b"\x01"} for r in rows]
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(table), tmp_path / "scenes.parquet")
    head = CARD.split("[split.pattern]")[0]
    lines = [line for line in head.splitlines() if not line.startswith("files")]
    (tmp_path / "card.toml").write_text(f'scenes = "scenes.{kind}"\n' + "\n".join(lines))
    made = index(tmp_path)
    assert "1 scenes are in no split: unused" in made.notes
    assert json.loads((folder / "scene_index.json").read_text())["scenes"] == wanted
    edit(tmp_path, 'name = "ndsm"', 'name = "dsm"')
    with pytest.raises(Dis2Error, match=rf"scenes\.{kind} has no column 'dsm' \(did you mean 'ndsm'\?\)"):
        index(tmp_path)
    if kind == "csv":
        (tmp_path / "scenes.csv").write_text("\n".join([*lines_of_list, "c,1,train,label/c.tif,,,"]) + "\n")
        with pytest.raises(Dis2Error, match=r"scenes\.csv: row 5 has more fields than there are columns"):
            index(tmp_path)
    assert str(file_path("s3://bucket/a.tif")) == "s3://bucket/a.tif"
    assert file_path("/vsicurl/https://x/a.tif") == "/vsicurl/https://x/a.tif"


def test_paths_that_only_gdal_opens(tmp_path):
    """Scenes inside an archive: the same tiles as those beside it."""
    folder = write_scenes(tmp_path)
    parts = {"a1": "train", "a2": "train", "b1": "validation"}
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        for path in sorted(tmp_path.glob("*/*.tif")):
            archive.write(path, path.relative_to(tmp_path))
    inside = f"/vsizip/{tmp_path}/all.zip"
    rows = [
        f"{s},{split},{inside}/label/{s}.tif,{inside}/rgb/{s}.tif,{'' if s == 'a2' else f'{inside}/ndsm/{s}.tif'}"
        for s, split in parts.items()
    ]
    (tmp_path / "scenes.csv").write_text("\n".join(["scene,split,label,rgb,ndsm", *rows]) + "\n")
    lines = [line for line in CARD.split("[split.pattern]")[0].splitlines() if not line.startswith("files")]
    (tmp_path / "card.toml").write_text('scenes = "scenes.csv"\n' + "\n".join(lines))
    wanted = list(opened(folder, "train"))
    index(tmp_path)
    assert inside in (folder / "scene_index.json").read_text()
    np.testing.assert_equal(list(opened(folder, "train")), wanted)


# Refusals


def test_mistakes_are_told_before_anything_is_written(tmp_path):
    (tmp_path / "card.toml").write_text(CARD)
    write_scene(tmp_path, "a1")
    write_scene(tmp_path, "b1")

    def refused(match):
        with pytest.raises(Dis2Error, match=match) as e:
            index(tmp_path)
        assert "\n" not in str(e.value)
        assert not (tmp_path / "index").exists()

    rgb = np.zeros((72, 100, 3), np.uint8)
    write_raster(tmp_path / "ndsm/a1.tif", np.zeros((30, 30), np.float32))
    refused(r"ndsm/a1\.tif has no coordinate reference system and does not lie on the grid of .*rgb/a1\.tif")
    write_raster(tmp_path / "ndsm/a1.tif", rgb[..., 0], crs="EPSG:32633", origin=(0, 0))
    refused(r"ndsm/a1\.tif and .*rgb/a1\.tif do not overlap")
    write_scene(tmp_path, "a1")
    edit(tmp_path, 'reference = "rgb"', 'reference = "ndsm"')
    (tmp_path / "ndsm/b1.tif").unlink()
    refused(r"scene 'b1' .* has no ndsm file, whose grid is the reference")
    edit(tmp_path, 'reference = "ndsm"', 'reference = "nsdm"')
    refused(r"reference = 'nsdm' \(did you mean 'ndsm'\?\)")


def without_samples(path):
    """Make it an index of before files were sampled."""
    index = json.loads(path.read_text())
    for indexed in index["scenes"]:
        for file in indexed["files"].values():
            assert len(file.pop("sample")) == 16
    path.write_text(json.dumps(index))


def test_files_that_changed_since_and_unknown_codes(tmp_path):
    folder = write_scenes(tmp_path)
    card = DatasetCard.load(folder)
    label = np.full((72, 100), 2, np.uint8)
    label[5, 7] = 77
    write_raster(tmp_path / "label/b1.tif", label, crs="EPSG:32633", origin=ORIGIN, pixel=1.0)
    with pytest.raises(Dis2Error, match=r"label/b1\.tif of scene 'b1' is another file"):
        opened(folder, "validation")[0]  # the same header, one other pixel
    without_samples(folder / "scene_index.json")
    with pytest.raises(
        Dis2Error, match=r"label/b1\.tif holds codes outside the legend.*77 \(1 pixels\).*record 0 of"
    ):
        opened(folder, "validation")[0]
    write_raster(tmp_path / "rgb/a1.tif", np.zeros((72, 99, 3), np.uint8), crs="EPSG:32633", origin=ORIGIN)
    with pytest.raises(Dis2Error, match=r"rgb/a1\.tif of scene 'a1' is another file .*index` again"):
        opened(folder, "train")[0]
    with pytest.raises(Dis2Error, match="no split 'trian'"):
        SceneSource(folder, "trian", card)
    with pytest.raises(Dis2Error, match=r"data\.source = 'prepared', but .* was made by `dis2 data index`"):
        open_tiles(folder, "train", card, kind="prepared")
    damaged = json.loads((folder / "scene_index.json").read_text()) | {"format": 99}
    (folder / "scene_index.json").write_text(json.dumps(damaged))
    with pytest.raises(Dis2Error, match="of format 99"):
        opened(folder, "train")


def test_few_files_stay_open():
    class Scene:
        count = 3

        def __init__(self, number):
            self.number, self.closed = number, False

        def close(self):
            self.closed = True

    made = []
    pool = ScenePool(lambda n: made.append(Scene(n)) or made[-1], max_files=6)
    for n in (0, 1, 0, 2, 1):
        with pool.borrow(n) as s:
            assert s.number == n
            assert not s.closed
    assert [s.number for s in made] == [0, 1, 2, 1]
    assert [s.closed for s in made] == [True, True, False, False]
    with pytest.raises(RuntimeError), pool.borrow(1):
        raise RuntimeError
    assert made[-1].closed


def test_a_selection_opens_only_its_files(tmp_path):
    folder = write_scenes(tmp_path)
    card = DatasetCard.load(folder)
    one = dataclasses.replace(card, modalities=card.modalities)
    object.__setattr__(one, "modalities", (card.modality("rgb"),))  # cards of one modality cannot be made
    (tmp_path / "ndsm/a1.tif").unlink()
    tile = SceneSource(folder, "train", one)[0]
    assert tile["image"].keys() == {"rgb"}
    assert tile["available"].tolist() == [True]
