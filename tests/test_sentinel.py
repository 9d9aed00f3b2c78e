"""SEN12MS, the 2020 data fusion contest and TerraMind's examples: published names, bands, schemes and splits."""

import pickle
from pathlib import Path

import numpy as np
import pytest
from published_files import pack, write_patches
from raster_files import write_raster

from dis2_jax.data.builders import sentinel_dataset
from dis2_jax.data.builders.land_cover import code_table
from dis2_jax.data.builders.scene_jobs import Dropped
from dis2_jax.data.builders.sentinel_dataset import SentinelOptions, find_sentinel
from dis2_jax.data.builders.terramind_mini import TerramindOptions, find_terramind
from dis2_jax.data.builders.tiles import record
from dis2_jax.data.rasters import read_raster
from dis2_jax.schema import IGNORE, Dis2Error

TERRAMIND = Path(__file__).parents[2] / "shared/data/terramind_examples"
SCENES = (("ROIs1158_spring", "1"), ("ROIs1158_spring", "44"), ("ROIs1158_spring", "15"))
IGBP_TO_CONTEST = (0, 1, 1, 1, 1, 1, 2, 2, 3, 3, 4, 5, 6, 7, 6, 8, 9, 10)
"""The contest's own table: code of the ten classes for each IGBP code."""


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Patches of 32 pixels, two to a job."""
    monkeypatch.setattr(sentinel_dataset, "PATCH", (32, 32))
    monkeypatch.setattr(sentinel_dataset, "PER_JOB", 2)


def sen12ms(source, **changes):
    given = {"name": "sen12ms", "label": "lc", "scheme": "simplified", "tile": 32}
    return SentinelOptions(source, **given | changes)


def dfc2020(source, **changes):
    return sen12ms(source, **{"name": "dfc2020", "label": "dfc", "scheme": "contest", "holdout": 1} | changes)


def patches(root, scenes=SCENES, label="lc", codes=range(1, 18), **more):
    return write_patches(root, scenes, (30, 7), label=label, codes=list(codes), side=32, **more)


def everything(dataset):
    dataset = pickle.loads(pickle.dumps(dataset))
    tiles = {}
    for job in dataset.jobs():
        items = list(dataset.tiles(job))
        assert len(items) == dataset.tile_count(job)
        for t in items:
            assert not isinstance(t, Dropped)
            record(dataset.spec, t)
            tiles.setdefault(job.split, {})[t.place.scene] = t
    return tiles


@pytest.mark.parametrize("packed", [False, True])
def test_sen12ms_bands_units_and_classes(tmp_path, packed):
    arrays = patches(tmp_path / "sen12ms", dem=True)
    if packed:
        pack(tmp_path / "sen12ms" / "ROIs1158_spring", inner=True)
    dataset = find_sentinel(sen12ms(tmp_path / "sen12ms", s2_bands=("B04", "b3", "B02", "B8A"), dem=True))
    tiles = everything(dataset)
    assert {s: sorted(own) for s, own in tiles.items()} == {
        "train": ["ROIs1158_spring_1_p30", "ROIs1158_spring_1_p7"],
        "validation": ["ROIs1158_spring_44_p30", "ROIs1158_spring_44_p7"],
        "test": ["ROIs1158_spring_15_p30", "ROIs1158_spring_15_p7"],
    }
    s1, s2, dem = dataset.spec.modalities
    assert (s1.bands, s1.unit, s2.bands, s2.unit) == (
        ("VV", "VH"),
        "dB",
        ("B04", "B03", "B02", "B8A"),
        "reflectance",
    )
    assert (s2.source.bands, s2.source.scale, dem.unit) == ((4, 3, 2, 9), 1e-4, "m")
    for own in tiles.values():
        for patch, tile in own.items():
            x = arrays[patch]
            assert np.array_equal(tile.images["s1"], x["s1"])
            assert np.allclose(tile.images["s2"], x["s2"][..., [3, 2, 1, 8]] / 10_000, atol=1e-7)
            assert np.array_equal(tile.images["dem"][..., 0], x["dem"])
            assert np.array_equal(tile.label, np.array(IGBP_TO_CONTEST)[x["lc"][..., 0]] - 1)


def test_schemes():
    codes = np.arange(18)
    ten = np.array(IGBP_TO_CONTEST)
    simplified, contest, igbp = (code_table(s, "igbp") for s in ("simplified", "contest", "igbp"))
    assert simplified.decode(codes).tolist() == [IGNORE, *(ten[1:] - 1)]
    assert igbp.decode(codes).tolist() == [IGNORE, *range(17)]
    scored = {1: 0, 2: 1, 4: 2, 5: 3, 6: 4, 7: 5, 9: 6, 10: 7}
    assert contest.decode(codes).tolist() == [scored.get(c, IGNORE) for c in ten.tolist()]
    assert code_table("contest", "dfc").decode(np.arange(11)).tolist() == [
        scored.get(c, IGNORE) for c in range(11)
    ]
    assert [len(t.legend) for t in (simplified, contest, igbp)] == [10, 8, 17]
    assert contest.legend.names == code_table("contest", "dfc").legend.names
    with pytest.raises(Dis2Error, match="needs --label lc"):
        code_table("igbp", "dfc")


def test_the_contest_is_split_as_it_was_or_by_city(tmp_path):
    contest = (("ROIs0000_validation", "0"), ("ROIs0000_test", "0"))
    patches(tmp_path / "contest", contest, label="dfc", codes=(1, 2, 4, 10))
    dataset = find_sentinel(dfc2020(tmp_path / "contest"))
    tiles = everything(dataset)
    assert {s: len(own) for s, own in tiles.items()} == {"train": 1, "validation": 1, "test": 2}
    assert all("ROIs0000_test" in name for name in tiles["test"])
    assert "held out for validation" in dataset.notes()[0]
    cities = [("ROIs0000_winter", c) for c in ("KippaRing", "MexicoCity")] + [
        ("ROIs0000_summer", "Chabarovsk")
    ]
    patches(tmp_path / "cities", cities, label="dfc", codes=(1, 3, 7))
    splits = {s: {p.scene for p in own} for s, own in find_sentinel(dfc2020(tmp_path / "cities")).patches}
    assert splits == {
        "train": {"ROIs0000_winter_KippaRing"},
        "validation": {"ROIs0000_summer_Chabarovsk"},
        "test": {"ROIs0000_winter_MexicoCity"},
    }
    with pytest.raises(Dis2Error, match="again under the seasons"):
        find_sentinel(dfc2020(tmp_path))
    one = find_sentinel(dfc2020(tmp_path, only=("ROIs0000_test_*", "ROIs0000_validation_*")))
    assert {s for s, _ in one.patches} == {"train", "validation", "test"}


def test_splits_by_published_lists_and_by_patterns(tmp_path):
    patches(tmp_path)
    lines = {"train": ("1_p30", "1_p7", "999_p1"), "val": ("44_p7",), "test": ("15_p30",)}
    for name, ids in lines.items():
        text = "".join("ROIs1158_spring_s2_{}_{}.tif\n".format(*i.split("_")) for i in ids)
        (tmp_path / f"{name}_list.txt").write_text(text)
    splits = {s: [p.id for p in own] for s, own in find_sentinel(sen12ms(tmp_path, lists=tmp_path)).patches}
    assert splits == {
        "train": ["ROIs1158_spring_1_p7", "ROIs1158_spring_1_p30"],
        "validation": ["ROIs1158_spring_44_p7"],
        "test": ["ROIs1158_spring_15_p30"],
    }
    chosen = find_sentinel(sen12ms(tmp_path, validation=("*_1",), test=()))
    assert {s: {p.scene[-2:] for p in own} for s, own in chosen.patches} == {
        "train": {"44", "15"},
        "validation": {"_1"},
    }


def test_a_missing_sensor_is_absent_and_nan_is_nodata(tmp_path):
    patches(tmp_path)
    (tmp_path / "ROIs1158_spring" / "s1_1" / "ROIs1158_spring_s1_1_p7.tif").unlink()
    path = tmp_path / "ROIs1158_spring" / "s1_1" / "ROIs1158_spring_s1_1_p30.tif"
    x = read_raster(path)
    x[3, 4, 1] = np.nan
    write_raster(path, x)
    dataset = find_sentinel(sen12ms(tmp_path))
    assert "1 patches lack s1: it is absent there" in dataset.notes()
    train = everything(dataset)["train"]
    assert set(train["ROIs1158_spring_1_p7"].images) == {"s2"}
    tile = train["ROIs1158_spring_1_p30"]
    assert tile.label[3, 4] == IGNORE
    assert (tile.label == IGNORE).sum() == 1
    assert not tile.valid["s1"][3, 4]


def unknown_code(root):
    path = root / "ROIs1158_spring" / "lc_1" / "ROIs1158_spring_lc_1_p7.tif"
    x = read_raster(path)
    x[0, :3, 0] = 99
    write_raster(path, x)


def few_bands(root):
    path = root / "ROIs1158_spring" / "s2_1" / "ROIs1158_spring_s2_1_p7.tif"
    write_raster(path, read_raster(path)[..., :12])


def packed_tar(root):
    for path in root.rglob("*_lc_*.tif"):
        path.unlink()
    (root / "ROIs1158_spring_lc.tar.gz").write_bytes(b"")


def bad_list(root):
    (root / "train_list.txt").write_text("something\n")
    (root / "val_list.txt").write_text("ROIs1158_spring_s2_44_p7.tif\n")


@pytest.mark.parametrize(
    ("fault", "changes", "said"),
    [
        (unknown_code, {}, r"lc_1_p7.tif holds codes outside 0 to 17: 99 \(3 pixels\)"),
        (few_bands, {}, "s2_1_p7.tif has 12 bands"),
        (packed_tar, {}, "ROIs1158_spring_lc.tar.gz is packed: unpack it"),
        (bad_list, {"lists": True}, "train_list.txt line 1: 'something'"),
        (None, {"s2_bands": ("B02", "B8B")}, "--s2-bands B8B: no such band.*did you mean 'B8A'"),
        (None, {"s2_bands": ("B02", "b2")}, "a band is named twice"),
        (None, {"validation": ("spring",)}, "--validation spring: no such scene"),
        (None, {"only": ("ROIs9*",)}, r"--only ROIs9\*: no such scene; there are ROIs"),
        (None, {"only": ("*_1", "*_15")}, "the validation split is empty"),
        (None, {"scheme": "all"}, "--scheme all: choose from"),
        (None, {"dem": True}, "--dem: .* holds no heights"),
        (None, {"label": "dfc"}, "holds no labelled patch"),
    ],
)
def test_faults_are_told_with_file_and_way_out(tmp_path, fault, changes, said):
    patches(tmp_path)
    if fault:
        fault(tmp_path)
    changes = changes | ({"lists": tmp_path} if "lists" in changes else {})
    with pytest.raises(Dis2Error, match=said):
        everything(find_sentinel(sen12ms(tmp_path, **changes)))


def test_terramind_examples_in_their_layout(tmp_path):
    g = np.random.default_rng(0)
    ids = ("a", "b", "c")
    made = {}
    for i in ids:
        made[i] = {
            "S2L2A": g.integers(0, 9000, (32, 32, 12), dtype=np.int16),
            "S1RTC": g.normal(-12, 3, (32, 32, 2)),
            "DEM": g.integers(0, 900, (32, 32), dtype=np.int16),
            "LULC": g.integers(0, 10, (32, 32), dtype=np.uint8),
        }
        for folder, x in made[i].items():
            write_raster(tmp_path / folder / f"{i}.tif", x, crs="EPSG:32632", origin=(5e5, 5e6), pixel=10.0)
    options = TerramindOptions(tmp_path, validation=("b",), test=("c",), s2_bands=("B04", "B12"), tile=32)
    tiles = everything(find_terramind(options))
    assert [list(own) for own in tiles.values()] == [["a"], ["b"], ["c"]]
    tile, x = tiles["test"]["c"], made["c"]
    assert np.allclose(tile.images["s2"], x["S2L2A"][..., [3, 11]] / 10_000)
    assert np.allclose(tile.images["s1"], x["S1RTC"], atol=1e-5)
    assert np.array_equal(tile.images["dem"][..., 0], x["DEM"])
    assert np.array_equal(tile.label, np.where(x["LULC"] == 0, IGNORE, x["LULC"] - 1))
    with pytest.raises(Dis2Error, match="--test d: no such scene"):
        find_terramind(TerramindOptions(tmp_path, validation=("b",), test=("d",)))
    (tmp_path / "DEM" / "a.tif").unlink()
    with pytest.raises(Dis2Error, match=r"DEM/a\.tif not found"):
        find_terramind(options)


@pytest.mark.skipif(not TERRAMIND.is_dir(), reason="the real scenes are not here")
def test_the_real_terramind_scenes():
    dataset = find_terramind(TerramindOptions(TERRAMIND))
    assert [(j.split, j.id) for j in dataset.jobs()] == [
        ("train", "282D_485L_3_3"),
        ("train", "433D_629L_3_1"),
        ("train", "609U_541L_3_0"),
        ("validation", "637U_59R_1_3"),
        ("test", "38D_378R_2_3"),
    ]
    snow = list(dataset.tiles(dataset.jobs()[2]))
    assert dataset.spec.legend.names[int(snow[0].label[0, 0])] == "snow_ice"
    assert 0.4 < snow[0].images["s2"][..., :4].mean() < 1.0
