"""The OMBRIA builder on a miniature of the original layout, and on the real chips where they are."""

from pathlib import Path

import numpy as np
import pytest
from raster_files import write_raster

from dis2_jax.data.builders import ombria
from dis2_jax.data.builders.ombria import OmbriaOptions, find_ombria, is_clouded
from dis2_jax.data.prepare import prepare
from dis2_jax.data.source import TileSource
from dis2_jax.schema import Dis2Error

REAL = Path(__file__).parents[2] / "shared/data/ombria"
CLOUDED = "0007"
RNG = np.random.default_rng(0)


def chip_path(root, sensor, split, moment, chip):
    return root / f"Ombria{sensor}" / split / moment.upper() / f"{sensor}_{moment}_{chip}.png"


@pytest.fixture
def root(tmp_path, monkeypatch):
    """Six training and two test chips of 32 x 32; one is clouded after the flood."""
    monkeypatch.setattr(ombria, "CHIP", (32, 32))
    for split, chips in {"train": range(2, 8), "test": (8, 9)}.items():
        for number in chips:
            chip = f"{number:04d}"
            mask = (255 * (RNG.random((32, 32)) < 0.4)).astype(np.uint8)
            for sensor, channels in (("S1", 1), ("S2", 3)):
                for moment in ("before", "after"):
                    x = RNG.integers(0, 120, (32, 32, channels), dtype=np.uint8)
                    if (sensor, moment, chip) == ("S2", "after", CLOUDED):
                        x = x // 6 + np.array([90, 150, 140], np.uint8)
                    write_raster(chip_path(tmp_path, sensor, split, moment, chip), x)
                write_raster(chip_path(tmp_path, sensor, split, "mask", chip), mask)
    return tmp_path


def test_chips_arrive_unchanged_with_clouds_absent(root):
    out = root / "out"
    prepared = prepare(find_ombria(OmbriaOptions(root, holdout=2)), out)
    card = prepared.card
    assert card.modality_names == ("s1_before", "s2_before", "s1_after", "s2_after")
    assert [m.kind for m in card.modalities] == ["sar", "optical", "sar", "optical"]
    assert card.splits == {"train": 4, "validation": 2, "test": 2}
    assert "1 chips: 0007" in prepared.notes[0]
    seen = {}
    for split in card.splits:
        folder = "test" if split == "test" else "train"
        for tile in TileSource(out, split, card):
            seen[tile["tile_id"]] = split
            clouded = tile["tile_id"] == CLOUDED
            assert tile["available"].tolist() == [True, True, True, not clouded]
            for name, x in tile["image"].items():
                sensor, moment = name.upper().split("_")
                source = ombria.read_raster(chip_path(root, sensor, folder, moment.lower(), tile["tile_id"]))
                assert np.array_equal(x, np.zeros_like(x) if clouded and name == "s2_after" else source)
            mask = ombria.read_raster(chip_path(root, "S1", folder, "mask", tile["tile_id"]))[..., 0]
            assert np.array_equal(tile["label"], mask // 255)
    assert sorted(seen) == [f"{i:04d}" for i in range(2, 10)]
    assert seen["0008"] == seen["0009"] == "test"


def test_the_holdout_depends_on_the_ids_alone(root):
    first = find_ombria(OmbriaOptions(root, holdout=2)).ids
    assert find_ombria(OmbriaOptions(root, holdout=2)).ids == first
    assert set(first["validation"]) < set(find_ombria(OmbriaOptions(root, holdout=3)).ids["validation"])


def test_clouds_can_be_kept(root):
    assert find_ombria(OmbriaOptions(root, holdout=2, keep_clouds=True)).clouded == ()


def test_bare_ground_is_no_cloud():
    x = np.full((8, 8, 3), (180, 120, 110), np.uint8)
    assert not is_clouded(x)
    assert is_clouded(x[..., ::-1])
    assert not is_clouded(np.full((8, 8, 3), 20, np.uint8))


def remove(root):
    chip_path(root, "S2", "train", "after", "0003").unlink()


def other_size(root):
    write_raster(chip_path(root, "S1", "train", "before", "0003"), np.zeros((32, 16), np.uint8))


def other_mask(root):
    path = chip_path(root, "S2", "train", "mask", "0003")
    write_raster(path, np.zeros((32, 32), np.uint8))


def odd_mask(root):
    for sensor in ("S1", "S2"):
        write_raster(chip_path(root, sensor, "test", "mask", "0008"), np.eye(32, dtype=np.uint8) * 7)


def cut(root):
    path = chip_path(root, "S2", "test", "before", "0008")
    path.write_bytes(path.read_bytes()[:-100])


def odd_name(root):
    (root / "OmbriaS1/train/MASK/mask3.png").write_bytes(b"")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (remove, r"S2_after_0003\.png is missing, its counterparts are there"),
        (other_size, r"S1_before_0003\.png is uint8 \[32, 16, 1\]"),
        (other_mask, r"S1_mask_0003\.png and .*S2_mask_0003\.png differ in \d+ pixels"),
        (odd_mask, r"S1_mask_0008\.png holds codes outside 0 and 255: 7 \(32 pixels\)"),
        (cut, r"S2_before_0008\.png is cut off"),
        (odd_name, r"mask3\.png: a name like S1_mask_0001\.png is wanted"),
    ],
)
def test_bad_files_are_named_and_nothing_is_written(root, spoil, message):
    spoil(root)
    with pytest.raises(Dis2Error, match=message):
        prepare(find_ombria(OmbriaOptions(root, holdout=2)), root / "out")
    assert not (root / "out").exists()


def test_wrong_source_or_holdout(root, tmp_path):
    with pytest.raises(Dis2Error, match="--source is the folder that holds OmbriaS1"):
        find_ombria(OmbriaOptions(tmp_path / "nowhere"))
    with pytest.raises(Dis2Error, match="--holdout 6"):
        find_ombria(OmbriaOptions(root, holdout=6))


@pytest.mark.skipif(not REAL.is_dir(), reason="the OMBRIA chips are not at ../shared/data/ombria")
def test_real_chips_have_the_documented_clouds():
    chips = find_ombria(OmbriaOptions(REAL))
    assert chips.clouded == ("0224", "0252", "0253", "0254", "0256")
    assert {k: len(v) for k, v in chips.ids.items()} == {"train": 272, "validation": 48, "test": 70}
    assert not set(chips.clouded) & set(chips.ids["test"])
