"""Scenes and mixtures under the promises of test_pipeline: one position, any hosts and workers; unreadable tiles."""

import dataclasses
import itertools
import os
import shutil

import numpy as np
import pytest
from conftest import write_mini
from stream_case import take, write_mixture
from test_pipeline import assert_same, joined
from tiny_run import Fake, fake_variables

from dis2_jax.config import DataConfig
from dis2_jax.data.memory import resident_bytes
from dis2_jax.data.opening import open_tiles
from dis2_jax.data.pipeline import eval_batches, open_train_stream
from dis2_jax.evaluation.evaluate import evaluate_split
from dis2_jax.evaluation.results import Evaluation
from dis2_jax.evaluation.scoring.measure import measure_split
from dis2_jax.evaluation.scoring.ruler import MeasureOptions
from dis2_jax.evaluation.tables.scores import text_table
from dis2_jax.schema import DatasetCard, Dis2Error

DATA = DataConfig(batch_size=4, crop=(16, 16), photometric=0.1, rotate_degrees=10.0, scale=(0.8, 1.25))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A mixture of the miniature dataset with scenes, whose index lies beside it; only to be read."""
    return write_mixture(tmp_path_factory.mktemp("both"))


def dataset(folder, kind):
    """``mini`` (prepared), ``index`` (scenes) or ``mixture`` (both)."""
    return folder.parent / kind


@pytest.mark.parametrize("kind", ["mini", "index", "mixture"])
def test_global_batches_do_not_depend_on_hosts_workers_or_stops(folder, kind):
    """Stopped at 2 and 5, on 1, 2 and 4 hosts, with 0, 1 and 3 workers: the same tiles in the same order."""
    where = dataset(folder, kind)
    whole, _ = take(where, DATA, n=9)
    assert len({b["label"].tobytes() for b in whole}) == 9
    for hosts, workers, position in ((1, 3, 0), (2, 1, 2), (4, 0, 5)):
        data = dataclasses.replace(DATA, workers=workers)
        shares = [
            take(where, data, n=9 - position, position=position, process_index=i, process_count=hosts)[0]
            for i in range(hosts)
        ]
        assert_same([joined(s) for s in zip(*shares, strict=True)], whole[position:])


@pytest.mark.parametrize("kind", ["index", "mixture"])
def test_evaluation_sees_every_tile_once_on_any_hosts(folder, kind):
    where = dataset(folder, kind)
    card = DatasetCard.load(where)
    options = {"split": "validation", "batch_size": 4}
    whole = list(eval_batches(where, card, DATA, **options))
    index = np.concatenate([b["index"][b["valid"]] for b in whole])
    assert index.tolist() == list(range(card.splits["validation"]))
    for hosts in (2, 4):
        shares = [
            list(eval_batches(where, card, DATA, **options, process_index=i, process_count=hosts))
            for i in range(hosts)
        ]
        assert_same([joined(s) for s in zip(*shares, strict=True)], whole)


def test_scores_are_the_same_to_the_last_digit_for_any_batch_size(folder):
    """Every measure: confusion, boundaries, calibration, intervals, whole scenes."""
    where = dataset(folder, "index")
    card = DatasetCard.load(where)
    texts = [
        measure_split(
            Fake(),
            fake_variables(),
            str(where),
            card,
            DATA,
            split="validation",
            batch_size=b,
            options=MeasureOptions(),
        ).evaluation.to_json()
        for b in (1, 5, 8)
    ]
    assert texts[0] == texts[1] == texts[2]
    assert '"scenes"' in texts[0]


# Tiles that cannot be read


@pytest.fixture
def broken(folder, tmp_path):
    """A copy whose scene a2 is cut off after it was indexed."""
    shutil.copytree(folder.parent, tmp_path / "copy")
    index = tmp_path / "copy/index/scene_index.json"
    index.write_text(index.read_text().replace(str(folder.parent), str(tmp_path / "copy")))
    path = tmp_path / "copy/rgb/a2.tif"
    os.truncate(path, path.stat().st_size // 2)
    return tmp_path / "copy/index"


@pytest.mark.parametrize("workers", [0, 1])
def test_a_scene_cut_off_after_indexing_names_file_and_window(broken, workers):
    with pytest.raises(
        Dis2Error, match=r"rgb/a2\.tif .*\[draw \d+ of split 'train' \(row \d+, column \d+\)\]"
    ) as e:
        take(broken, dataclasses.replace(DATA, workers=workers), n=9)
    assert "\n" not in str(e.value)


def test_skips_are_counted_logged_bounded_and_the_same_everywhere(broken, caplog):
    data = dataclasses.replace(DATA, on_error="skip")
    whole, health = take(broken, data, n=9)
    skipped = int(health["skipped_tiles"])
    assert skipped > 3
    lines = [r.getMessage() for r in caplog.records if "skipped" in r.getMessage()]
    assert len(lines) == skipped
    assert lines[2].startswith("skipped (3 of at most 100): ")
    assert "rgb/a2.tif" in lines[2]
    assert all("ndsm" in b["image"] and b["available"][:, 1].all() for b in whole), "only a1 is left"
    for hosts, workers in ((2, 0), (1, 2)):
        data = dataclasses.replace(data, workers=workers)
        shares = [
            take(broken, data, n=5, position=4, process_index=i, process_count=hosts) for i in range(hosts)
        ]
        assert_same([joined(s) for s in zip(*(s for s, _ in shares), strict=True)], whole[4:])
    few = dataclasses.replace(data, workers=0, max_skips=2)
    with pytest.raises(
        Dis2Error, match=r"3 tiles could not be read, more than data\.max_skips = 2; the last: .*a2\.tif"
    ):
        take(broken, few, n=9)


def test_evaluation_leaves_out_what_it_must_skip(broken, caplog):
    card = DatasetCard.load(broken)
    with pytest.raises(Dis2Error, match=r"rgb/a2\.tif .*record \d+ of split 'train'"):
        list(eval_batches(broken, card, DATA, split="train", batch_size=4))
    data = dataclasses.replace(DATA, on_error="skip")
    index = [b["index"][b["valid"]] for b in eval_batches(broken, card, data, split="train", batch_size=4)]
    found = np.concatenate(index).tolist()
    lost = len(caplog.records)
    assert found[:12] == list(range(12))
    assert len(found) + lost == card.splits["train"]
    assert 0 < lost <= 6


def test_scores_name_the_tiles_that_could_not_be_read(broken):
    data = dataclasses.replace(DATA, on_error="skip")
    card = DatasetCard.load(broken)
    read = [b["index"][b["valid"]] for b in eval_batches(broken, card, data, split="train", batch_size=4)]
    unread = sorted(set(range(card.splits["train"])) - set(np.concatenate(read).tolist()))
    what = (Fake(), fake_variables(), str(broken), card, data)
    measured = measure_split(*what, split="train", batch_size=4, options=MeasureOptions()).evaluation
    source = open_tiles(broken, "train", card)
    assert measured.unread == tuple(source.tile_id(i) for i in unread)
    assert Evaluation.from_json(measured.to_json()) == measured
    assert f"{len(unread)} tiles could not be read and are in no score: a2" in text_table(measured)
    counted = evaluate_split(*what, split="train", batch_size=4).evaluation
    assert counted.unread == tuple(f"record {i}" for i in unread)


def test_a_flipped_byte_in_a_shard_can_be_skipped(tmp_path):
    out = write_mini(tmp_path / "mini")
    (shard,) = out.glob("mini-train*")
    raw = bytearray(shard.read_bytes())
    raw[15000] ^= 0xFF
    shard.write_bytes(raw)
    batches, health = take(out, dataclasses.replace(DATA, on_error="skip"), n=5)
    assert health["skipped_tiles"] == 2
    index = np.concatenate([b["index"] for b in batches])
    assert len(set(index)) == 9, "two epochs of ten tiles, one of which is never there"


@pytest.mark.parametrize("workers", [0, 1])
def test_a_shard_cut_off_while_it_is_read_is_named_through_a_mixture(folder, tmp_path, workers):
    shutil.copytree(folder.parent, tmp_path / "copy")
    where = tmp_path / "copy/mixture"
    (shard,) = (tmp_path / "copy/mini").glob("mini-train*")
    data = dataclasses.replace(DATA, workers=workers)
    with open_train_stream(where, DatasetCard.load(where), data, seed=0) as stream:
        next(stream)
        os.truncate(shard, shard.stat().st_size // 3)
        with pytest.raises(Dis2Error, match=rf"mini/{shard.name}: record \d+ is corrupt"):
            list(itertools.islice(stream, 60))


def test_nothing_readable_is_an_error_not_a_hang(broken):
    for name in ("rgb/a1.tif", "rgb/a2.tif"):
        path = broken.parent / name
        os.truncate(path, path.stat().st_size // 3)
    with pytest.raises(Dis2Error, match=r"; 8 other tiles tried in its place cannot be read either"):
        take(broken, dataclasses.replace(DATA, on_error="skip"), n=3)


def test_memory_stays_flat(folder):
    """Over many epochs of both kinds of member: handles, caches and batches in flight do not pile up."""
    card = DatasetCard.load(folder)
    with open_train_stream(folder, card, DATA, seed=0) as stream:

        def after(n):
            for _ in itertools.islice(stream, n):
                pass
            return resident_bytes()["main"]

        start = after(60)
        assert stream.steps_per_epoch < 20
        assert after(240) - start < 16 * 2**20
        assert set(stream.health()) == {"skipped_tiles", "memory_mib/main", "memory_mib/readers"}
