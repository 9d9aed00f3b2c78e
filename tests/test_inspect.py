"""``dis2 data``: the commands' output, the contact sheet, and damaged datasets told in one line."""

import argparse
import shutil

import numpy as np
import pytest

from dis2_jax.cli import data as cli
from dis2_jax.data.inspect import (
    SHEET_FILE,
    describe,
    draw_contact_sheet,
    inspect_dataset,
    paint_label,
    stretch,
)
from dis2_jax.schema import IGNORE, ClassLegend, DatasetCard, Dis2Error, Modality


def run(*argv):
    parser = argparse.ArgumentParser(prog="dis2")
    cli.add_parser(parser.add_subparsers())
    arguments, rest = parser.parse_known_args(["data", *map(str, argv)])
    return arguments.func(arguments, rest)


@pytest.fixture
def copy(mini_dataset, tmp_path):
    return shutil.copytree(mini_dataset, tmp_path / "copy")


def shard(folder, split="train"):
    return next(folder.glob(f"*-{split}.array_record-*"))


def test_inspect_counts_what_is_there(mini_dataset, mini_card):
    from conftest import MINI_SPLITS

    inspection = inspect_dataset(mini_dataset)
    assert {k: r.tiles for k, r in inspection.splits.items()} == MINI_SPLITS
    assert inspection.splits["train"].available == (MINI_SPLITS["train"], MINI_SPLITS["train"] - 1)
    assert {k: r.class_pixels for k, r in inspection.splits.items()} == mini_card.class_pixels
    text = describe(inspection)
    for word in ("32 x 32", "building", "ndsm", "with ndsm", "(ignored)", "red"):
        assert word in text


def test_prepare_and_inspect_commands(tmp_path, capsys):
    from PIL import Image

    out = tmp_path / "city"
    scenes = ("--train-scenes", 1, "--validation-scenes", 1, "--test-scenes", 0)
    run("prepare", "synthetic_city", "--out", out, *scenes, "--scene", 64, "--tile", 32)
    assert "4 train, 4 validation tiles" in capsys.readouterr().out
    run("inspect", out, "--rows", 2)
    assert str(out / SHEET_FILE) in capsys.readouterr().out
    with Image.open(out / SHEET_FILE) as sheet:
        assert min(sheet.size) > 300
        assert np.asarray(sheet.convert("L")).std() > 10
    assert DatasetCard.load(out).splits == {"train": 4, "validation": 4}


def test_example_card_command(capsys):
    from dis2_jax.data.builders.example_card import EXAMPLE_CARD

    run("prepare", "folder", "--example-card")
    assert capsys.readouterr().out == EXAMPLE_CARD


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("prepare", "synthetic_city", "--out", "x", "--sceen", "64"), "did you mean '--scene'"),
        (("prepare", "folder", "--source", "x", "--out", "y"), "--card is missing"),
        (("prepare", "folder", "--source", "x"), "--out is missing"),
        (("prepare", "synthetic_city", "--out", "x", "--workers", "-1"), "--workers -1"),
        (("prepare", "synthetic_city", "--out", "x", "--engine-options", "a"), "write KEY=VALUE"),
        (("prepare", "synthetic_city", "--out", "x", "--engine-options", "a=b"), "the local engine has none"),
        (("inspect", "nowhere"), "nowhere/dataset_card.json not found"),
        (("inspect", "nowhere", "--rows", "0"), "--rows 0"),
    ],
)
def test_bad_commands(argv, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Dis2Error, match=message):
        run(*argv)
    assert list(tmp_path.iterdir()) == []


def cut(folder):
    path = shard(folder)
    path.write_bytes(path.read_bytes()[:-70_000])


def flip(folder):
    path = shard(folder)
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 0x10
    path.write_bytes(content)


def swap(folder):
    shutil.copy(shard(folder, "validation"), shard(folder))


@pytest.mark.parametrize("spoil", [cut, flip, swap, lambda f: shard(f).unlink()])
def test_damaged_shards_are_named_in_one_line(copy, spoil):
    spoil(copy)
    with pytest.raises(Dis2Error, match=r"mini-train\.array_record-00000-of-00001") as error:
        inspect_dataset(copy)
    assert "\n" not in str(error.value)


def test_a_damaged_list_of_checksums_is_named(copy):
    (copy / "SHA256SUMS").write_text("nothing of the kind")
    with pytest.raises(Dis2Error, match=r"SHA256SUMS is damaged"):
        inspect_dataset(copy)


def test_a_sheet_of_a_kind_that_cannot_be_drawn(mini_dataset, mini_card, tmp_path):
    with pytest.raises(Dis2Error, match=r"sheet\.foo .*name a \.png with --sheet"):
        draw_contact_sheet(mini_dataset, mini_card, tmp_path / "sheet.foo", rows=1)


def test_a_card_that_lies_is_found(copy):
    path = copy / "dataset_card.json"
    card = DatasetCard.load(copy)
    first = card.class_pixels["train"][0]
    path.write_text(card.to_json().replace(str(first), str(first + 1), 1))
    with pytest.raises(Dis2Error, match="not those its card counted"):
        inspect_dataset(copy)


def test_pictures():
    legend = ClassLegend(("a", "b"), ((1, 2, 3), (4, 5, 6)))
    painted = paint_label(np.array([[0, 1, IGNORE]], np.uint8), legend)
    assert painted[0, :2].tolist() == [[1, 2, 3], [4, 5, 6]]
    for channels, dtype in ((1, "float32"), (2, "int16"), (3, "uint8"), (12, "uint16")):
        x = np.arange(64 * channels).reshape(8, 8, channels).astype(dtype)
        (picture,) = stretch([x], Modality("m", channels))
        assert (picture.shape, picture.dtype) == ((8, 8, 3), np.uint8)
        assert picture.min() == 0
        assert picture.max() == 255
    flat = stretch([np.full((4, 4, 1), 7.0, np.float32)], Modality("m", 1))
    assert np.isfinite(flat).all()
