"""Potsdam and Vaihingen from miniatures in the published layout."""

import dataclasses
import pickle
import zipfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from published_files import SIDE, save_jpeg, write_potsdam, write_vaihingen, write_world_file
from raster_files import write_raster

from dis2_jax.cli.main import main
from dis2_jax.data.builders import potsdam
from dis2_jax.data.builders.align import corner_in
from dis2_jax.data.builders.isprs import IsprsOptions
from dis2_jax.data.builders.isprs_labels import COLORS, NAMES, LabelRule
from dis2_jax.data.builders.isprs_scenes import find_isprs
from dis2_jax.data.builders.potsdam import POTSDAM
from dis2_jax.data.builders.scene_jobs import Dropped, Noted
from dis2_jax.data.builders.tiles import Tile, record
from dis2_jax.data.builders.vaihingen import VAIHINGEN
from dis2_jax.data.rasters import RasterInfo, read_raster
from dis2_jax.data.source import TileSource
from dis2_jax.schema import IGNORE, DatasetCard, Dis2Error

IDS = ("2_10", "2_11", "3_13", "6_7")


def few(benchmark, ids):
    """A benchmark with only these scenes: a miniature need not hold all of them."""
    return dataclasses.replace(
        benchmark,
        train=tuple(i for i in benchmark.train if i in ids),
        test=tuple(i for i in benchmark.test if i in ids),
    )


def options(source, **changes):
    given = {"image": "rgb", "ndsm": "lastools", "validation": ("2_11",), "tile": 48}
    return IsprsOptions(source, **given | changes)


def find(source, **changes):
    return find_isprs(few(POTSDAM, IDS), options(source, **changes))


def everything(dataset):
    """All tiles by split, and all notes, as workers make them: from a pickled dataset."""
    dataset = pickle.loads(pickle.dumps(dataset))
    tiles, said = {}, list(dataset.notes())
    for job in dataset.jobs():
        count = 0
        for item in dataset.tiles(job):
            if isinstance(item, Noted):
                said.append(item.text)
                continue
            count += 1
            if isinstance(item, Tile):
                record(dataset.spec, item)  # checks shapes, dtypes and label values
                tiles.setdefault(job.split, []).append(item)
            else:
                assert isinstance(item, Dropped)
        assert count == dataset.tile_count(job)
    return tiles, said


def mosaic(tiles, name, size, channels):
    """Put a modality's (or the label's) tiles together again."""
    whole = np.zeros((*size, channels), np.float64)
    for t in tiles:
        p = t.place
        x = t.label[..., None] if name == "label" else t.images[name]
        whole[p.row : p.row + p.height, p.col : p.col + p.width] = x[: p.height, : p.width]
    return whole


@pytest.mark.parametrize("layout", ["unpacked", "archives", "one archive", "double folders"])
@pytest.mark.parametrize(("image", "height"), [("rgb", "ndsm"), ("irrg", "dsm"), ("rgbir", "ndsm")])
def test_potsdam_arrives_pixel_by_pixel(tmp_path, layout, image, height):
    originals = tmp_path / "originals"
    colors = write_potsdam(originals, IDS, packed=False)
    source = tmp_path / "Potsdam"
    write_potsdam(source, IDS, packed=layout in ("archives", "one archive"))
    if layout == "one archive":
        with zipfile.ZipFile(tmp_path / "Potsdam.zip", "w") as z:
            for path in source.iterdir():
                z.write(path, f"Potsdam/{path.name}")
        source = tmp_path / "Potsdam.zip"
    if layout == "double folders":
        for folder in list(source.iterdir()):
            folder.rename(tmp_path / "aside")
            folder.mkdir()
            (tmp_path / "aside").rename(folder / folder.name)
    dataset = find(source, image=image, height=height)
    tiles, _ = everything(dataset)
    assert {s: sorted({t.place.scene for t in own}) for s, own in tiles.items()} == {
        "train": ["2_10", "6_7"],
        "validation": ["2_11"],
        "test": ["3_13"],
    }
    rgb, dsm = dataset.spec.modalities
    assert (rgb.name, rgb.kind, dsm.name, dsm.kind, dsm.unit) == (image, "optical", height, "height", "m")
    product = POTSDAM.images[image].product
    for own in tiles.values():
        for scene in {t.place.scene for t in own}:
            mine = [t for t in own if t.place.scene == scene]
            photo = read_raster(
                originals / product.folders[0] / product.example.replace("2_10", scene), bands=()
            )
            assert np.array_equal(mosaic(mine, image, (SIDE, SIDE), photo.shape[-1]), photo)
            long = "_".join(f"{int(n):02d}" for n in scene.split("_"))
            if height == "dsm":
                metres = read_raster(originals / "1_DSM" / f"dsm_potsdam_{long}.tif")
            else:
                jpeg = originals / "1_DSM_normalisation" / f"dsm_potsdam_{long}_normalized_lastools.jpg"
                metres = read_raster(jpeg) * 0.1
            assert np.allclose(mosaic(mine, height, (SIDE, SIDE), 1), metres, atol=1e-5)
            back = np.array(COLORS)[mosaic(mine, "label", (SIDE, SIDE), 1)[..., 0].astype(int)]
            assert np.array_equal(back, colors[scene])


def test_edges_are_padded_or_moved_inward(tmp_path):
    write_potsdam(tmp_path, IDS, packed=False)
    padded = everything(find(tmp_path))[0]["train"]
    assert len(padded) == 2 * 4
    corner = padded[3]
    assert (corner.label[16:] == IGNORE).all()
    assert (corner.label[:16, :16] != IGNORE).all()
    assert not corner.valid["rgb"][16:].any()
    assert np.array_equal(corner.images["rgb"][16:32, :16], corner.images["rgb"][:16, :16][::-1])
    inward = everything(find(tmp_path, edges="inward", overlap=16))[0]["train"]
    assert [(t.place.row, t.place.col) for t in inward[:4]] == [(0, 0), (0, 16), (16, 0), (16, 16)]
    assert all((t.label != IGNORE).all() for t in inward)


def test_a_height_that_lacks_a_column_is_put_on_the_images_grid(tmp_path):
    write_potsdam(tmp_path, IDS, packed=False)
    path = tmp_path / "1_DSM_normalisation" / "dsm_potsdam_03_13_normalized_lastools.jpg"
    heights = read_raster(path)[..., 0]
    save_jpeg(path, np.ascontiguousarray(heights[:, :-1]))
    tiles, said = everything(find(tmp_path))
    assert any("has 1 column fewer at the right than" in s and path.name in s for s in said)
    mine = mosaic(tiles["test"], "ndsm", (SIDE, SIDE), 1)[..., 0]
    assert np.array_equal(mine[:, -1], mine[:, -2])
    last = next(t for t in tiles["test"] if (t.place.row, t.place.col) == (0, 48))
    assert (last.label[:48, 15] != IGNORE).all()
    assert last.valid["ndsm"][0, :17].tolist() == [True] * 15 + [False] * 2


def test_a_shifted_height_model_is_found_by_its_world_file(tmp_path):
    colors = write_vaihingen(tmp_path, {"1": (64, 80), "5": (70, 66), "2": (50, 90)}, packed=False)
    main = tmp_path / "ISPRS_semantic_labeling_Vaihingen"
    write_world_file(main / "top" / "top_mosaic_09cm_area1.tif", origin=(497_000.0, 5_419_000.0), pixel=0.09)
    dsm = (
        np.arange(66 * 79, dtype=np.float32).reshape(66, 79) / 10
    )  # 2 rows more above, a column fewer at the left
    path = write_raster(main / "dsm" / "dsm_09cm_matching_area1.tif", dsm)
    write_world_file(path, origin=(497_000.09, 5_419_000.18), pixel=0.09)
    changes = {"image": "irrg", "ndsm": "gerke", "validation": ("5",), "height": "dsm", "tile": 32}
    dataset = find_isprs(few(VAIHINGEN, ("1", "5", "2")), options(tmp_path, **changes))
    tiles, said = everything(dataset)
    assert any("2 rows more at the top, 1 column fewer at the left" in s for s in said)
    mine = mosaic(tiles["train"], "dsm", (64, 80), 1)[..., 0]
    assert np.array_equal(mine[:, 1:], dsm[2:])
    assert np.array_equal(mine[:, 0], dsm[2:, 0])
    for split, area in (("train", "1"), ("validation", "5"), ("test", "2")):
        size = colors[area].shape[:2]
        classes = mosaic(tiles[split], "label", size, 1)[..., 0].astype(int)
        assert np.array_equal(np.array(COLORS)[classes], colors[area])


@pytest.mark.parametrize("packed", [False, True])
def test_vaihingen_tells_labels_from_images_of_the_same_name(tmp_path, packed):
    colors = write_vaihingen(tmp_path, {"1": (64, 64), "5": (64, 64)}, packed=packed)
    changes = {"image": "irrg", "ndsm": "gerke", "validation": ("5",), "tile": 64}
    dataset = find_isprs(few(VAIHINGEN, ("1", "5")), options(tmp_path, labels="eroded", **changes))
    tiles, _ = everything(dataset)
    label = tiles["train"][0].label
    assert (label[::8] == IGNORE).all()
    inside = np.arange(64) % 8 != 0
    assert np.array_equal(np.array(COLORS)[label[inside]], colors["1"][inside])
    assert np.allclose(tiles["train"][0].images["ndsm"][40:], 1.0, atol=0.11)  # 10 decimetres
    assert [dataset.spec.name, dataset.spec.ground_sampling_distance] == ["vaihingen", 0.09]


def spoil_labels(root):
    """Give 2_10 the lossy colours of the published 4_12, and 6_7 the car colour of the published 6_7."""
    g = np.random.default_rng(5)
    for scene in ("2_10", "6_7"):
        path = root / "5_Labels_all" / f"top_potsdam_{scene}_label.tif"
        x = read_raster(path).astype(int)
        if scene == "2_10":
            x = np.where(x == 0, g.integers(0, 40, x.shape), 255 - g.integers(0, 40, x.shape))
        else:
            x[(x == (255, 255, 0)).all(-1)] = (252, 255, 0)
        write_raster(path, x.astype(np.uint8))


def test_stray_colours_are_listed_ignored_or_taken_for_the_nearest(tmp_path):
    colors = write_potsdam(tmp_path, IDS, packed=False)
    spoil_labels(tmp_path)
    cars = int((colors["6_7"] == (255, 255, 0)).all(-1).sum())
    with pytest.raises(Dis2Error, match="2 labels hold colours that are no class") as e:
        find(tmp_path)
    assert f"top_potsdam_6_7_label.tif: {cars} pixels: (252, 255, 0) x {cars}." in str(e.value)
    assert "more colours" in str(e.value)
    assert "--exclude 2_10,6_7" in str(e.value)
    tiles, said = everything(find(tmp_path, stray="nearest"))
    assert any("taken for the nearest" in s and f"(252, 255, 0) x {cars}" in s for s in said)
    for scene in ("2_10", "6_7"):
        mine = [t for t in tiles["train"] if t.place.scene == scene]
        classes = mosaic(mine, "label", (SIDE, SIDE), 1)[..., 0].astype(int)
        assert np.array_equal(np.array(COLORS)[classes], colors[scene])
    path = tmp_path / "5_Labels_all" / "top_potsdam_2_11_label.tif"
    x = read_raster(path)
    x[:2] = (255, 128, 0)
    write_raster(path, x)
    _, said = everything(find(tmp_path, stray="nearest"))
    assert (
        f"label (2_11) has colours that are no class, ignored: {2 * SIDE} pixels: (255, 128, 0) x {2 * SIDE}"
        in said
    )
    tiles, said = everything(find(tmp_path, stray="ignore"))
    mine = [t for t in tiles["train"] if t.place.scene == "6_7"]
    classes = mosaic(mine, "label", (SIDE, SIDE), 1)[..., 0]
    assert ((classes == IGNORE) == (colors["6_7"] == (255, 255, 0)).all(-1)).all()


def test_clutter_policies():
    rgb = np.array([[COLORS[0], COLORS[5], (0, 0, 0), (128, 0, 0)]], np.uint8)
    for policy, expected in (("class", 5), ("ignore", IGNORE), ("merge:tree", 3)):
        rule = LabelRule(clutter=policy, black=True)
        assert rule.decode(rgb, "x").tolist() == [[0, expected, IGNORE, IGNORE]]
        assert len(rule.legend) == (6 if policy == "class" else 5)
        assert rule.strays(rgb, "x").tolist() == [[False, False, False, True]]
    assert LabelRule().strays(rgb, "x").tolist() == [[False, False, True, True]]
    with pytest.raises(Dis2Error, match="did you mean 'tree'"):
        LabelRule(clutter="merge:trees")


@given(st.lists(st.tuples(*[st.integers(0, 255)] * 3), min_size=1, max_size=20))
def test_only_exact_colours_become_classes_unless_asked(colors):
    rgb = np.array([colors], np.uint8)
    exact = LabelRule().decode(rgb, "x")[0]
    near = LabelRule(stray="nearest").decode(rgb, "x")[0]
    for color, e, n in zip(colors, exact, near, strict=True):
        assert e == (COLORS.index(color) if color in COLORS else IGNORE)
        distance = [max(abs(a - b) for a, b in zip(color, c, strict=True)) for c in COLORS]
        assert n == (int(np.argmin(distance)) if min(distance) <= 87 else IGNORE)


@given(
    st.tuples(st.integers(20, 60), st.integers(20, 60)),
    st.tuples(*[st.integers(-12, 12)] * 4),
)
def test_files_of_a_scene_are_aligned_by_their_georeference(size, more):
    def info(size, row, col):
        return RasterInfo(
            path=f"{row} {col}", height=size[0], width=size[1], bands=1, dtype="uint8",
            transform=(0.5, 0, 100 + 0.5 * col, 0, -0.5, 900 - 0.5 * row),
        )  # fmt: skip

    top, left, bottom, right = more
    other = info((size[0] + top + bottom, size[1] + left + right), -top, -left)
    if max(map(abs, more)) > 8:
        with pytest.raises(Dis2Error, match="does not lie on"):
            corner_in(info(size, 0, 0), other)
    else:
        assert corner_in(info(size, 0, 0), other) == (top, left)


def test_half_a_pixel_is_a_habit_and_corners_can_be_trusted_alone():
    def info(x, y):
        at = (0.05, 0, 366_976.5 + x, 0, -0.05, 5_809_761.0 + y)
        return RasterInfo(path="p", height=60, width=60, bands=1, dtype="uint8", transform=at)

    assert corner_in(info(0, 0), info(0.025, 0.035)) == (0, 0)
    assert corner_in(info(0, 0), info(0.05, -0.1)) == (-2, -1)
    with pytest.raises(Dis2Error, match="--align corner"):
        corner_in(info(0, 0), info(5, 0))
    assert corner_in(info(0, 0), info(5, 0), by="corner") == (0, 0)


def lack_image(root):
    (root / "2_Ortho_RGB" / "top_potsdam_6_7_RGB.tif").unlink()


def lack_heights(root):
    for path in (root / "1_DSM_normalisation").iterdir():
        path.unlink()


def empty_height(root):
    path = root / "1_DSM_normalisation" / "dsm_potsdam_06_07_normalized_lastools.jpg"
    save_jpeg(path, np.zeros((SIDE, SIDE), np.uint8))


def twice(root):
    write_raster(
        root / "2_Ortho_RGB" / "copy" / "top_potsdam_6_7_RGB.tif", np.zeros((SIDE, SIDE, 3), np.uint8)
    )


def other_scene(root):
    path = root / "1_DSM_normalisation" / "dsm_potsdam_06_07_normalized_lastools.jpg"
    save_jpeg(path, np.ones((SIDE // 2, SIDE), np.uint8) * np.arange(SIDE, dtype=np.uint8))


def grey_label(root):
    write_raster(root / "5_Labels_all" / "top_potsdam_6_7_label.tif", np.zeros((SIDE, SIDE), np.uint8))


def deep_photo(root):
    write_raster(root / "2_Ortho_RGB" / "top_potsdam_6_7_RGB.tif", np.zeros((SIDE, SIDE, 3), np.uint16))


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (lack_image, "no RGB orthophoto of scene 6_7.*--exclude 6_7"),
        (lack_heights, "holds no normalised height model .lastools. of potsdam.*1_DSM_normalisation"),
        (empty_height, "06_07_normalized_lastools.jpg is 0 all over"),
        (twice, "are both the RGB orthophoto of 6_7"),
        (other_scene, "06_07.*does not lie on.*32 rows fewer at the bottom"),
        (grey_label, "top_potsdam_6_7_label.tif is uint8 with 1 bands"),
        (deep_photo, "top_potsdam_6_7_RGB.tif is uint16 with 3 bands"),
    ],
)
def test_faults_are_told_with_file_and_way_out(tmp_path, fault, said):
    write_potsdam(tmp_path, IDS, packed=False)
    fault(tmp_path)
    with pytest.raises(Dis2Error, match=said):
        everything(find(tmp_path))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"validation": ("3_13",)}, "--validation 3_13: no official training scene"),
        ({"validation": ("2_1",)}, "did you mean '2_1"),
        ({"exclude": ("9_9",)}, "--exclude 9_9: no official scene"),
        ({"validation": ("2_10", "2_11", "6_7")}, "leave no train scene"),
        ({"image": "nrg"}, "--image nrg: choose from rgb, irrg, rgbir"),
        ({"ndsm": "ours"}, "--ndsm ours: choose from lastools, ownapproach"),
        ({"clutter": "merge"}, "--clutter merge"),
        ({"stray": "guess"}, "--stray-colors guess"),
        ({"overlap": 48}, "--overlap 48"),
        ({"tile": 0}, "tile size 0 x 0: both sides must be multiples of 16"),
    ],
)
def test_options_are_checked(tmp_path, changes, said):
    write_potsdam(tmp_path, IDS, packed=False)
    with pytest.raises(Dis2Error, match=said):
        find(tmp_path, **changes)


def test_without_test_labels_there_is_no_test_split(tmp_path):
    write_potsdam(tmp_path, IDS, packed=False, labels="5_Labels_for_participants")
    (tmp_path / "5_Labels_for_participants" / "top_potsdam_3_13_label.tif").unlink()
    tiles, said = everything(find(tmp_path))
    assert sorted(tiles) == ["train", "validation"]
    assert any("no test split" in s and "5_Labels_all" in s for s in said)


def test_a_compressed_archive_in_an_archive_is_refused(tmp_path):
    write_potsdam(tmp_path / "Potsdam", IDS)
    with zipfile.ZipFile(tmp_path / "Potsdam.zip", "w", zipfile.ZIP_DEFLATED) as z:
        for path in (tmp_path / "Potsdam").iterdir():
            z.write(path, path.name)
    with pytest.raises(Dis2Error, match=r"holds 1_DSM.zip compressed: unzip Potsdam.zip first"):
        find(tmp_path / "Potsdam.zip")


def test_the_command_line_prepares_and_the_card_tells_all(tmp_path, monkeypatch, capsys):
    colors = write_potsdam(tmp_path / "Potsdam", IDS)
    monkeypatch.setattr(potsdam, "POTSDAM", few(POTSDAM, IDS))
    out = tmp_path / "out"
    command = f"data prepare potsdam --source {tmp_path / 'Potsdam'} --out {out} --workers 0 --tile 48"
    assert (
        main([*command.split(), *["--validation", "2_11", "--image", "irrg", "--clutter", "merge:tree"]]) == 0
    )
    assert "note: 2_11 of the 3 official training scenes" in capsys.readouterr().out
    card = DatasetCard.load(out)
    assert card.splits == {"train": 8, "validation": 4, "test": 4}
    irrg, ndsm = card.modalities
    assert (irrg.product, irrg.bands) == ("IRRG orthophoto", ("infrared", "red", "green"))
    assert (ndsm.product, ndsm.unit, ndsm.source.scale) == ("normalised height model (lastools)", "m", 0.1)
    assert (card.legend.names, card.legend.colors) == (NAMES[:5], COLORS[:5])
    assert card.class_pixels["test"][-1] == 2 * 2 * 48 * 48 - SIDE * SIDE  # padding alone is ignored
    assert sorted(card.inputs) == ["1_DSM_normalisation.zip", "3_Ortho_IRRG.zip", "5_Labels_all.zip"]
    assert card.ground_sampling_distance == 0.05
    assert "isprs.org" in card.source
    assert card.licence
    label = TileSource(out, "validation", card)[0]["label"]
    expected = LabelRule(clutter="merge:tree").decode(colors["2_11"][:48, :48], "x")
    assert np.array_equal(label, expected)


def test_official_ids():
    assert (len(POTSDAM.train), len(POTSDAM.test), len(VAIHINGEN.train), len(VAIHINGEN.test)) == (
        24,
        14,
        16,
        17,
    )
    assert not set(POTSDAM.train) & set(POTSDAM.test)
    assert NAMES[5] == "clutter"
