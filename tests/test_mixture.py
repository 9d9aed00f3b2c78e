"""Mixtures: classes under one legend, absent modalities, equal tiles, shares of a batch, joint statistics."""

import dataclasses
from collections import Counter

import numpy as np
import pytest
from conftest import MINI_SPEC, mini_tiles, write_mini
from stream_case import take, write_mixture

from dis2_jax.config import DataConfig
from dis2_jax.data.builders.tiles import Tile
from dis2_jax.data.builders.writer import write_dataset
from dis2_jax.data.mixture.build import mix_datasets
from dis2_jax.data.mixture.parser import EXAMPLE, load_recipe
from dis2_jax.data.opening import open_tiles
from dis2_jax.schema import IGNORE, ClassLegend, DatasetCard, Dis2Error, Modality

SAR = """
name = "joint"
tile = 16
modalities = ["sar", "rgb", "ndsm"]
[[member]]
dir = "mini"
weight = 3
[[member]]
dir = "radar"
weight = 1
[member.modalities]
sar = "vv"
[member.classes]
water = "ground"
forest = "tree"
cloud = "ignore"
[[class]]
name = "tree"
[[class]]
name = "ground"
color = [1, 2, 3]
"""


def write_radar(out):
    """Tiles of 40 x 24 with modalities rgb and vv; classes forest, water, cloud, building."""
    legend = ClassLegend(
        ("forest", "water", "cloud", "building"), ((0, 99, 0), (0, 0, 9), (8, 8, 8), (7, 7, 7))
    )
    spec = dataclasses.replace(
        MINI_SPEC,
        name="radar",
        modalities=(MINI_SPEC.modalities[0], Modality("vv", 2, kind="sar", unit="dB")),
        dtypes=("uint8", "float32"),
        legend=legend,
        tile=(48, 32),
    )
    g = np.random.default_rng(4)

    def tiles(split, n):
        for i in range(n):
            rgb = g.integers(0, 256, (48, 32, 3)).astype(np.uint8)
            vv = g.normal(-12, 2, (48, 32, 2)).astype(np.float32)
            yield Tile(f"{split}{i}", {"rgb": rgb, "vv": vv}, g.integers(0, 4, (48, 32)).astype(np.uint8))

    write_dataset(spec, {"train": tiles("t", 5), "validation": tiles("v", 2)}, out)


@pytest.fixture(scope="module")
def joint(tmp_path_factory):
    root = tmp_path_factory.mktemp("mixture")
    write_mini(root / "mini")
    write_radar(root / "radar")
    (root / "mixture.toml").write_text(SAR)
    notes = mix_datasets(root / "mixture.toml", root / "joint").notes
    assert "mini: 75 % of a batch; absent: sar; ignored classes: building" in notes
    assert "radar: 25 % of a batch; absent: ndsm; ignored classes: cloud, building" in notes
    assert notes[2].endswith(
        "no tile trains the full branch: give the members' sets students, model.students = 'rgb+ndsm,sar+rgb'"
    )
    return root / "joint"


def test_the_joint_card(joint):
    card = DatasetCard.load(joint)
    mini, radar = (DatasetCard.load(joint.parent / n) for n in ("mini", "radar"))
    assert card.modality_names == ("sar", "rgb", "ndsm")
    assert card.legend.names == ("tree", "ground")
    assert card.legend.colors == (mini.legend.colors[2], (1, 2, 3))
    per = {"mini": 4, "radar": 6}
    assert card.splits == {
        "train": 10 * per["mini"] + 5 * per["radar"],
        "validation": 4 * per["mini"] + 2 * per["radar"],
        "test": 3 * per["mini"],
        **{f"{s}-mini": n * per["mini"] for s, n in mini.splits.items()},
        **{f"{s}-radar": n * per["radar"] for s, n in radar.splits.items()},
    }
    assert dataclasses.replace(card.modality("sar"), name="vv") == radar.modality("vv")
    a, b = mini.modality("rgb"), radar.modality("rgb")
    mean = 0.75 * np.array(a.mean) + 0.25 * np.array(b.mean)
    second = 0.75 * (np.square(a.std) + np.square(a.mean)) + 0.25 * (np.square(b.std) + np.square(b.mean))
    np.testing.assert_allclose(card.modality("rgb").mean, mean)
    np.testing.assert_allclose(card.modality("rgb").std, np.sqrt(second - mean**2))


def test_records_cover_every_pixel_of_every_tile_once(joint):
    card = DatasetCard.load(joint)
    source = open_tiles(joint, "train", card)
    pixels = Counter(
        {
            "mini": sum(int(np.isin(t.label, (0, 2)).sum()) for t in mini_tiles("train")),
            "radar": 0,
        }
    )
    radar = open_tiles(joint.parent / "radar", "train", DatasetCard.load(joint.parent / "radar"))
    pixels["radar"] = sum(int((radar[i]["label"] < 2).sum()) for i in range(5))
    found = Counter()
    for i in range(len(source)):
        tile = source[i]
        assert (tile["index"], tile["label"].shape) == (i, (16, 16))
        member = source.tile_id(i).split("-")[0]
        found[member] += int((tile["label"] != IGNORE).sum())
        assert (
            tile["available"].tolist()
            in ([[False, True, True], [False, True, False]], [[True, True, False]])[member == "radar"]
        )
    assert found == pixels
    whole, part = radar[1], source[40 + 6 + 3]
    assert source.tile_id(40 + 6 + 3) == "radar-t1+16+16"
    np.testing.assert_array_equal(part["image"]["sar"], whole["image"]["vv"][16:32, 16:])
    lut = np.array([0, 1, IGNORE, IGNORE])
    np.testing.assert_array_equal(part["label"], lut[whole["label"][16:32, 16:]])


def test_every_stretch_of_training_has_the_right_shares(joint):
    batches, _ = take(joint, DataConfig(batch_size=8), n=30)
    for b in batches:
        assert b["available"][:, 0].sum() == 2
        assert (b["image"]["sar"][~b["available"][:, 0]] == 0).all()
    drawn = Counter(np.concatenate([b["index"] for b in batches]).tolist())
    assert set(drawn) == set(range(10 * 4 + 5 * 6)), "every draw of both"
    radar = [drawn[i] for i in range(40, 70)]
    assert (min(radar), max(radar)) == (2, 2), (
        "60 of 30 draws: two epochs of that member, without replacement"
    )


def test_one_member_alone(joint):
    card = DatasetCard.load(joint)
    alone = open_tiles(joint, "validation-radar", card)
    both = open_tiles(joint, "validation", card)
    assert len(alone) == 12
    for i in range(12):
        np.testing.assert_equal({**alone[i], "index": 0}, {**both[16 + i], "index": 0})


def test_scenes_as_members_keep_their_places(tmp_path):
    folder = write_mixture(tmp_path)
    card = DatasetCard.load(folder)
    assert open_tiles(folder, "validation", card).places() is None, "the miniature dataset knows of no scenes"
    places = open_tiles(folder, "validation-scenes", card).places()
    assert places == tuple(
        dataclasses.replace(p, scene=f"scenes-{p.scene}")
        for p in open_tiles(tmp_path / "index", "validation", DatasetCard.load(tmp_path / "index")).places()
    )


def test_mistakes_are_told(tmp_path):
    write_mini(tmp_path / "mini")
    write_radar(tmp_path / "radar")
    recipe = tmp_path / "mixture.toml"

    def refused(match, old="", new=""):
        assert old in SAR
        recipe.write_text(SAR.replace(old, new) if old else SAR)
        with pytest.raises(Dis2Error, match=match) as e:
            mix_datasets(recipe, tmp_path / "out")
        assert "\n" not in str(e.value)
        assert not (tmp_path / "out").exists()

    refused("'radar' has no class 'watre' .did you mean 'water'", "water = ", "watre = ")
    refused("no modality 'vw' in 'radar' .did you mean 'vv'", '"vv"', '"vw"')
    refused("no member has a class 'trees' .did you mean 'tree'", '"tree"\n[[class', '"trees"\n[[class')
    refused(
        r"tile = \[48, 48\] is larger than the smallest tile of a member, \[32, 32\]",
        "tile = 16",
        "tile = 48",
    )
    refused("weight = 0: it must be above 0", "weight = 3", "weight = 0")
    refused("weight = inf: it must be above 0 and finite", "weight = 3", "weight = inf")
    refused("name = 'Our Mix': use lower-case", '"joint"', '"Our Mix"')
    refused(r"modalities = \[1\]: names are wanted", '["sar", "rgb", "ndsm"]', "[1]")
    refused(r"\[member 2\] modalities: 'vv' gets two names", 'sar = "vv"', 'sar = "vv"\nradar = "vv"')
    refused("class names repeat: tree, tree", 'name = "ground"', 'name = "tree"')
    refused(r"unknown key wieght|unknown key \[member 1\] wieght", "weight = 3", "wieght = 3")
    swapped = 'sar = "rgb"\nrgb = "vv"'
    refused("'rgb' is not the same in 'mini' and 'radar' .channels: 3 and 2", 'sar = "vv"', swapped)
    refused("radarr/dataset_card.json not found", '"radar"', '"radarr"')
    recipe.write_text(SAR)
    mix_datasets(recipe, tmp_path / "out")
    recipe.write_text(SAR.replace('"mini"', '"out"'))
    with pytest.raises(Dis2Error, match="'out' is a mixture itself"):
        mix_datasets(recipe, tmp_path / "again")
    card = DatasetCard.load(tmp_path / "out")
    text = (tmp_path / "radar/dataset_card.json").read_text()
    (tmp_path / "radar/dataset_card.json").write_text(text.replace('"radar"', '"radar2"'))
    with pytest.raises(Dis2Error, match="radar has changed since it was mixed"):
        open_tiles(tmp_path / "out", "train", card)
    (tmp_path / "example.toml").write_text(EXAMPLE)
    assert [m.name for m in load_recipe(tmp_path / "example.toml").members] == ["city", "floods_2022"]
