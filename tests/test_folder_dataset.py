"""Bring your own: cutting covers every pixel, files are matched and checked, every mistake has its line."""

import tomllib

import numpy as np
import pytest
from folder_case import CARD, edit, prepare, read, scene
from hypothesis import given
from hypothesis import strategies as st
from raster_files import write_raster

from dis2_jax.data.builders.card_parser import load_card
from dis2_jax.data.builders.cutting import Rect, count_tiles, cut_tiles, split_scene
from dis2_jax.data.builders.example_card import EXAMPLE_CARD
from dis2_jax.data.builders.folder_card import FolderLabel
from dis2_jax.data.builders.folder_scenes import match_files
from dis2_jax.data.builders.label_codes import LabelCoder
from dis2_jax.data.places import load_places
from dis2_jax.data.rasters import nodata_mask
from dis2_jax.schema import IGNORE, Dis2Error

SIZES = st.integers(1, 120)


@given(SIZES, SIZES, st.sampled_from([16, 32, 48]), st.integers(0, 15), st.integers(0, 9))
def test_tiles_cover_every_pixel(height, width, tile, overlap, offset):
    rect = Rect(offset, 2 * offset, height, width)
    seen = np.zeros((height, width), int)
    tiles = list(cut_tiles(rect, (tile, tile), overlap=overlap))
    for t in tiles:
        assert 0 < t.height <= tile
        assert 0 < t.width <= tile
        part = seen[t.row - offset :, t.col - 2 * offset :][: t.height, : t.width]
        assert part.shape == (t.height, t.width)
        part += 1
    assert seen.min() == 1
    assert overlap or seen.max() == 1
    assert len(tiles) == count_tiles(rect, (tile, tile), overlap=overlap)


def random_boxes(draw):
    """Disjoint boxes: cells of a 4 x 4 grid."""
    cells = draw(
        st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), unique=True, min_size=1, max_size=16)
    )
    boxes = [(r / 4, c / 4, (r + 1) / 4, (c + 1) / 4) for r, c in cells]
    half = draw(st.integers(1, len(boxes)))
    return {"validation": boxes[:half], "test": boxes[half:]}


@given(st.data(), SIZES, SIZES)
def test_regions_partition_the_scene(data, height, width):
    seen = np.zeros((height, width), int)
    for rects in split_scene((height, width), random_boxes(data.draw)).values():
        for r in rects:
            assert r.height > 0
            assert r.width > 0
            seen[r.row : r.row + r.height, r.col : r.col + r.width] += 1
    assert (seen == 1).all()


def test_the_rest_of_a_strip_is_one_rectangle():
    rects = split_scene((100, 80), {"validation": [(0, 0.75, 0.5, 1)], "test": [(0.5, 0.75, 1, 1)]})
    assert rects["train"] == [Rect(0, 0, 100, 60)]


@given(st.lists(st.integers(-5, 300), min_size=3, unique=True))
def test_integer_codes(codes):
    *named, ignored = codes
    coder = LabelCoder.of(FolderLabel("*", tuple((c,) for c in named), (ignored,)))
    source = np.array([codes, codes[::-1]])
    expected = {c: k for k, c in enumerate(named)} | {ignored: IGNORE}
    assert coder.encode(source).tolist() == [[expected[c] for c in row] for row in source.tolist()]
    assert coder.unknown(np.append(codes, [999, 999])) == {999: 2}
    assert coder.unknown(np.append(codes, [999, 999]), nodata=999.0) == {}
    assert coder.encode(np.array([999, -99])).tolist() == [IGNORE, IGNORE]


def test_nodata():
    x = np.array([[[0, 0], [0, 5], [5, 5]]])
    assert nodata_mask(x.astype(np.uint8), 0).tolist() == [[True, False, False]]
    assert nodata_mask(x.astype(np.int16), 0).tolist() == [[True, True, False]]
    assert nodata_mask(x / np.where(x == 5, 1, np.nan), np.nan).tolist() == [[True, True, False]]
    lowest = float(np.finfo(np.float32).min)
    assert nodata_mask(np.full((1, 1, 1), lowest, np.float32), lowest).all()


def test_the_example_card_is_a_card(tmp_path):
    (tmp_path / "card.toml").write_text(EXAMPLE_CARD)
    card = load_card(tmp_path / "card.toml")
    assert [m.name for m in card.modalities] == ["rgb", "ndsm"]
    assert card.modalities[1].optional
    assert card.legend.codes == (1, 2)
    for commented in ("split.list", "split.region"):  # what is commented out must parse too
        lines = EXAMPLE_CARD.split(f"\n# [{commented}]")[1].split("\n\n")[0].splitlines()[1:]
        table = tomllib.loads(
            "\n".join(line.removeprefix("# ") for line in lines if line.startswith("# ") and "=" in line)
        )
        assert table


@pytest.fixture
def root(tmp_path):
    (tmp_path / "card.toml").write_text(CARD)
    for name in ("a1", "a2", "b1"):
        scene(tmp_path, name)
    return tmp_path


def test_values_arrive_scaled_padded_and_named(root):
    rgb, dsm, label = scene(root, "b1")
    card = prepare(root).card
    assert card.splits == {"train": 12, "validation": 6}
    assert card.legend.codes == ()  # "high" has two codes
    tiles = read(root, "validation")
    whole = tiles["b1_y00016_x00016"]
    assert np.array_equal(whole["image"]["rgb"], rgb[16:32, 16:])
    assert np.array_equal(whole["image"]["dsm"], (dsm[16:32, 16:] * 0.5 + 1.0).astype(np.float32))
    assert np.array_equal(whole["label"], label[16:32, 16:] > 1)
    edge = tiles["b1_y00032_x00000"]
    assert (edge["label"][8:] == IGNORE).all()
    assert np.array_equal(edge["image"]["rgb"][8:], rgb[32:40, :16][::-1])
    pixels = sum(int((label == c).sum()) for c in (1, 2, 5))
    assert sum(card.class_pixels["validation"][:2]) == pixels
    assert card.class_pixels["validation"][2] == 6 * 256 - pixels


def test_padding_stays_out_of_the_statistics(root):
    images = [scene(root, name)[0] for name in ("a1", "a2")]
    card = prepare(root).card
    pixels = np.concatenate([x.reshape(-1, 3) for x in images])
    np.testing.assert_allclose(card.modality("rgb").mean, pixels.mean(0), rtol=1e-9)
    np.testing.assert_allclose(card.modality("rgb").std, pixels.std(0), rtol=1e-9)


def test_training_and_test_tiles_overlap_as_asked(root):
    edit(root, "tile = 16", "tile = 16\noverlap = 8")
    assert prepare(root).card.splits == {"train": 2 * 4 * 3, "validation": 6}
    edit(root, "overlap = 8", "overlap = 8\ntest_overlap = 4")
    edit(root, '["a*"]', '["a1"]\ntest = ["a2"]')
    assert prepare(root, "with_test").card.splits == {"train": 12, "validation": 6, "test": 3 * 3}


def test_places_of_tiles_are_kept_without_padding(root):
    label = scene(root, "b1")[2]
    prepare(root)
    count = len(read(root, "validation"))
    places = load_places(root / "out", "validation", tiles=count)
    seen = np.zeros(label.shape, int)
    for tile, p in zip(read(root, "validation").values(), places, strict=True):
        at = (slice(p.row, p.row + p.height), slice(p.col, p.col + p.width))
        assert np.array_equal(tile["label"][: p.height, : p.width], label[at] > 1)
        seen[at] += 1
    assert (seen == 1).all()
    assert {p.scene for p in places} == {"b1"}


def test_an_optional_modality_may_lack_files(root):
    scene(root, "a3", height=False)
    (root / "dsm/dsm_a3.tif").unlink(missing_ok=True)
    prepared = prepare(root)
    assert "dsm is missing in 1 of 4 scenes" in prepared.notes
    assert {i[:2]: t["available"].tolist() for i, t in read(root, "train").items()} == {
        "a1": [True, True],
        "a2": [True, True],
        "a3": [True, False],
    }


def test_nodata_is_filled_ignored_and_where_it_is_all_absent(root):
    _, dsm, label = scene(root, "b1")
    dsm[:16, :16] = -9999
    dsm[20, 20] = -9999
    write_raster(root / "dsm/dsm_b1.tif", dsm)
    prepare(root)
    tiles = read(root, "validation")
    empty, hole = tiles["b1_y00000_x00000"], tiles["b1_y00016_x00016"]
    assert empty["available"].tolist() == [True, False]
    assert np.array_equal(empty["label"], label[:16, :16] > 1)
    assert hole["label"][4, 4] == IGNORE
    assert (hole["label"] == IGNORE).sum() == 1
    good = np.delete(dsm[16:32, 16:].ravel(), 4 * 16 + 4) * 0.5 + 1.0
    assert hole["image"]["dsm"][4, 4, 0] == pytest.approx(good.mean(), rel=1e-6)


def test_tiles_without_a_label_are_dropped_and_counted(root):
    _, _, label = scene(root, "a1")
    label[:16, :16] = 9
    write_raster(root / "label/a1_gt.png", label)
    prepared = prepare(root)
    assert prepared.card.splits["train"] == 11
    assert "1 tiles were dropped: every label in them is ignored" in prepared.notes
    for name in ("a1", "a2"):
        write_raster(root / f"label/{name}_gt.png", np.full((40, 32), 9, np.uint8))
    with pytest.raises(Dis2Error, match="split 'train' of 'toy' is empty"):
        prepare(root, "again")


def test_rgb_labels_and_palette_labels(root):
    colors = {1: (255, 255, 255), 2: (0, 0, 255), 5: (0, 255, 0), 9: (0, 0, 0)}
    edit(root, "code = 1", "code = [255, 255, 255]")
    edit(root, "codes = [2, 5]", "codes = [[0, 0, 255], [0, 255, 0]]")
    edit(root, "ignore = [9]", "ignore = [0, 0, 0]")
    table = np.zeros((10, 3), np.uint8)
    for code, color in colors.items():
        table[code] = color
    expected = {}
    for name in ("a1", "a2", "b1"):
        label = scene(root, name)[2]
        label[0, 0] = 9
        expected[name] = label
        path = root / f"label/{name}_gt.png"
        if name == "a1":
            write_raster(path, label, palette=colors)
        else:
            write_raster(path, table[label])
    card = prepare(root).card
    assert card.legend.colors == ((255, 255, 255), (0, 0, 255))
    for name, split in (("a1", "train"), ("b1", "validation")):
        label = read(root, split)[f"{name}_y00000_x00000"]["label"]
        wanted = (expected[name][:16, :16] > 1).astype(int)
        wanted[0, 0] = IGNORE
        assert np.array_equal(label, wanted)


def test_split_by_list_and_by_region(root):
    edit(root, 'pattern]\ntrain = ["a*"]\nvalidation = ["b*"]', 'list]\ntrain = "t.txt"\nvalidation = ["a1"]')
    (root / "t.txt").write_text("# mine\na2\n\n")
    prepared = prepare(root, "listed")
    assert prepared.card.splits == {"train": 6, "validation": 6}
    assert "1 scenes are in no split: b1" in prepared.notes
    edit(
        root,
        'list]\ntrain = "t.txt"\nvalidation = ["a1"]',
        "region]\nvalidation = [0, 0, 0.4, 1]\ntest=[0.8,0,1,1]",
    )
    card = prepare(root, "regions").card
    assert card.splits == {"train": 3 * 2, "validation": 3 * 2, "test": 3 * 2}
    for split, height in {"train": 16, "validation": 16, "test": 8}.items():
        assert sum(card.class_pixels[split][:2]) == 3 * height * 32


def test_ids_come_from_every_star(root):
    for name in ("x/p_1_2.tif", "x/y/p_3_4.tif"):
        write_raster(root / name, np.zeros((2, 2), np.uint8))
    assert list(match_files(root, "x/**/p_*_*.tif", "files")) == ["1_2", "3_4"]
    assert list(match_files(root, "rgb/*.pn[g]", "files")) == ["a1", "a2", "b1"]


def test_unknown_codes_are_listed_or_ignored(root):
    _, _, label = scene(root, "b1")
    label[0, :3] = 7
    label[1, 0] = 8
    write_raster(root / "label/b1_gt.png", label)
    with pytest.raises(
        Dis2Error, match=r"outside the legend: 7 \(3 pixels\), 8 \(1 pixels\), such as in .*b1_gt\.png"
    ):
        prepare(root)
    edit(root, "ignore = [9]", 'ignore = [9]\nunknown = "ignore"')
    prepared = prepare(root)
    assert prepared.card.class_pixels["validation"][2] == 6 * 256 - 40 * 32 + 4
    assert any("7 (3 pixels), 8 (1 pixels)" in n for n in prepared.notes)


def test_a_label_of_floats_may_call_nan_its_nodata(root):
    for name in ("a1", "a2", "b1"):
        _, _, label = scene(root, name)
        write_raster(root / f"label/{name}_gt.tif", label.astype(np.float32))
    edit(root, "label/*_gt.png", "label/*_gt.tif")
    whole = prepare(root, "whole").card.class_pixels["validation"]
    label = label.astype(np.float32)
    label[:2, :4] = np.nan
    write_raster(root / "label/b1_gt.tif", label)
    with pytest.raises(Dis2Error, match=r"b1_gt\.tif holds numbers that are not integers"):
        prepare(root)
    write_raster(root / "label/b1_gt.tif", label, nodata=np.nan)
    assert prepare(root).card.class_pixels["validation"][2] == whole[2] + 8


def spoil(path):
    path.write_bytes(path.read_bytes()[:-200])


def as_nan(root):
    write_raster(root / "dsm/dsm_a1.tif", np.full((40, 32), np.nan, np.float32))


def listed_in_binary(root):
    edit(root, 'pattern]\ntrain = ["a*"]', 'list]\ntrain = "ids.txt"')
    (root / "ids.txt").write_bytes(b"\xff\xfea1")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda r: (r / "rgb/a2.png").unlink(),
            r"scene 'a2' .* has no rgb file.*rgb/a2\.png is missing.*optional = true",
        ),
        (
            lambda r: write_raster(r / "rgb/a2.png", np.zeros((8, 8, 3), np.uint8)),
            r"a2_gt\.png is 40 x 32 .*a2\.png is 8 x 8",
        ),
        (
            lambda r: write_raster(r / "rgb/a2.png", np.zeros((40, 32, 1), np.uint8)),
            r"a1\.png has 3 bands but .*a2\.png has 1",
        ),
        (lambda r: spoil(r / "rgb/a1.png"), r"rgb/a1\.png is cut off"),
        (as_nan, r"dsm_a1\.tif holds 256 NaN or inf"),
        (
            lambda r: (
                write_raster(
                    r / "label/a1_gt.tif", np.zeros((40, 32), np.uint8), crs="EPSG:32633", origin=(9, 9)
                )
                and edit(r, "label/*_gt.png", "label/*_gt.*")
            ),
            "have the same scene id",
        ),
        (
            lambda r: edit(r, "rgb/*.png", "img/*.png"),
            r"'img/\*\.png' matches no file in .*there are .*\*\.png \(3\)",
        ),
        (lambda r: edit(r, '["b*"]', '["c*"]'), "leaves split 'validation' empty; the scenes are a1, a2, b1"),
        (lambda r: edit(r, "code = 1", "code = [1, 2, 3]"), "all integers or all colours"),
        (lambda r: edit(r, "codes = [2, 5]", "codes = [1, 5]"), "label code 1 is given twice"),
        (lambda r: edit(r, '[[class]]\nname = "high"\ncodes = [2, 5]\n', ""), "at least 2 classes, not 1"),
        (lambda r: edit(r, "tile = 16", "tile = 40"), "multiples of 16"),
        (lambda r: edit(r, "tile = 16", "tile = 16\noverlap = 16"), "overlap = 16"),
        (lambda r: edit(r, "tile = 16", "tile = 16\ntest_overlap = -1"), "test_overlap = -1"),
        (
            lambda r: edit(r, "tile = 16", "tile = 16\noverlaps = 4"),
            r"unknown key overlaps \(did you mean 'overlap'\?\)",
        ),
        (lambda r: edit(r, 'kind = "optical"', 'kind = "optic"'), "did you mean 'optical'"),
        (lambda r: edit(r, 'kind = "optical"', "bands = [4]"), r"has 3 bands, no band 4"),
        (lambda r: edit(r, "scale = 0.5", 'scale = "half"'), r"\[modality 2\] scale = 'half': int or float"),
        (lambda r: edit(r, "scale = 0.5", "scale = 0"), r"\[modality 2\] scale = 0: every value"),
        (lambda r: edit(r, "scale = 0.5", "scale = inf"), r"\[modality 2\] scale = inf: a finite number"),
        (lambda r: edit(r, "offset = 1.0", "offset = nan"), r"\[modality 2\] offset = nan: a finite number"),
        (
            lambda r: edit(r, "tile = 16", "tile = 16\nground_sampling_distance = nan"),
            "ground_sampling_distance = nan: metres per pixel",
        ),
        (lambda r: edit(r, 'name = "high"', 'name = " "'), r"\[class 2\] name is empty"),
        (listed_in_binary, r"ids\.txt cannot be read as text"),
        (lambda r: edit(r, "[split.pattern]", "[split.patern]"), "did you mean 'pattern'"),
        (lambda r: edit(r, '["a*"]', '["a*"'), "is not a TOML file"),
        (lambda r: edit(r, 'files = "rgb/*.png"', 'files = "rgb/a1.png"'), r"a `\*` must stand where"),
        (lambda r: edit(r, 'name = "dsm"', 'name = "rgb"'), "modality names repeat: rgb, rgb"),
        (
            lambda r: edit(r, 'name = "dsm"', 'name = "a/b"'),
            r"card\.toml: modality name 'a/b': use lower-case",
        ),
        (lambda r: (r / "card.toml").unlink(), "--example-card"),
    ],
)
def test_every_mistake_has_its_line(root, change, message):
    change(root)
    with pytest.raises(Dis2Error, match=message) as error:
        prepare(root)
    assert "\n" not in str(error.value)
    assert not (root / "out").exists()


@pytest.mark.parametrize(
    ("region", "message"),
    [
        ("validation = [0, 0, 0.5, 1]\ntest = [0.4, 0, 1, 1]", "overlap"),
        ("validation = [0.5, 0, 0.5, 1]", "top < bottom"),
        ("validation = [0, 0, 1, 1]", "split 'train' empty"),
        ("test = [0, 0, 0.5, 1]", "validation is missing"),
        ("validation = [[0, 0, 0.5, 1], 3]", r"validation = 3: \[top, left, bottom, right\]"),
    ],
)
def test_bad_regions(root, region, message):
    edit(root, 'pattern]\ntrain = ["a*"]\nvalidation = ["b*"]', f"region]\n{region}")
    with pytest.raises(Dis2Error, match=message):
        prepare(root)


def test_georeferences_that_disagree(root):
    for name in ("a1", "a2", "b1"):
        (root / f"rgb/{name}.png").unlink()
        write_raster(
            root / f"rgb/{name}.tif", np.zeros((40, 32, 3), np.uint8), crs="EPSG:32633", origin=(5, 0)
        )
    edit(root, "rgb/*.png", "rgb/*.tif")
    with pytest.raises(Dis2Error, match=r"rgb/a1\.tif and .*dsm_a1\.tif lie up to 5\.0 pixels apart"):
        prepare(root)
