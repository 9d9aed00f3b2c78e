"""The input pipeline: position, resume, hosts, workers, epochs, padding, refusals. Numpy only."""

import dataclasses
import itertools
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import numpy as np
import pytest
from conftest import MINI_WITHOUT_NDSM, write_mini

from dis2_jax.config import DataConfig
from dis2_jax.data.pipeline import eval_batches, load_batch, open_train_stream
from dis2_jax.data.preparing import run_job
from dis2_jax.data.source import TileSource
from dis2_jax.schema import DatasetCard, Dis2Error
from dis2_jax.training.prefetch import device_prefetch

DATA = DataConfig(
    batch_size=4, crop=(16, 16), photometric=0.1, rotate_degrees=10.0, scale=(0.8, 1.25), flip=True
)


def take(dataset, card, data=DATA, *, n, seed=0, **options):
    with open_train_stream(dataset, card, data, seed=seed, **options) as stream:
        batches = list(itertools.islice(stream, n))
        assert stream.position == options.get("position", 0) + n
    return batches


def assert_same(a, b):
    np.testing.assert_equal(a, b)  # compares nested dicts of arrays exactly, NaN equal to NaN


def joined(shares):
    """Put the hosts' shares of one global batch together."""
    return {
        "image": {k: np.concatenate([s["image"][k] for s in shares]) for k in shares[0]["image"]},
        **{k: np.concatenate([s[k] for s in shares]) for k in ("label", "available", "valid", "index")},
    }


def test_batches_have_the_promised_shapes(mini_dataset, mini_card):
    (batch,) = take(mini_dataset, mini_card, n=1)
    assert {k: (v.shape, v.dtype) for k, v in batch["image"].items()} == {
        "rgb": ((4, 16, 16, 3), np.float32),
        "ndsm": ((4, 16, 16, 1), np.float32),
    }
    assert (batch["label"].shape, batch["label"].dtype) == ((4, 16, 16), np.int32)
    assert (batch["available"].shape, batch["available"].dtype) == ((4, 2), bool)
    assert (batch["valid"].dtype, batch["valid"].tolist()) == (bool, [True] * 4)
    assert (batch["index"].shape, batch["index"].dtype) == ((4,), np.int32)
    assert set(np.unique(batch["label"])) <= {0, 1, 2, 255}


def test_images_match_their_labels_after_augmentation(mini_dataset, mini_card):
    """Buildings and trees are metres above the ground in the stored tiles, so they must be in the batches."""
    data = dataclasses.replace(DATA, normalize="none")
    for batch in take(mini_dataset, mini_card, data, n=5):
        there = batch["available"][:, 1]
        height, label = batch["image"]["ndsm"][there, ..., 0], batch["label"][there]
        if (label == 0).any():
            assert np.median(height[label == 0]) < 2
        assert np.median(height[(label == 1) | (label == 2)]) > 4


def test_resume_at_any_position_continues_exactly(mini_dataset, mini_card):
    whole = take(mini_dataset, mini_card, n=9)  # 3.6 epochs of 10 tiles
    for position in (1, 4, 7):
        assert_same(take(mini_dataset, mini_card, n=9 - position, position=position), whole[position:])
    other = take(mini_dataset, mini_card, n=1, seed=1)[0]
    assert not np.array_equal(other["label"], whole[0]["label"])


@pytest.mark.parametrize("hosts", [2, 4])
def test_any_number_of_hosts_makes_the_same_global_batches(mini_dataset, mini_card, hosts):
    whole = take(mini_dataset, mini_card, n=6)
    shares = [
        take(mini_dataset, mini_card, n=4, position=2, process_index=i, process_count=hosts)
        for i in range(hosts)
    ]
    assert shares[0][0]["label"].shape[0] == 4 // hosts
    assert_same([joined(s) for s in zip(*shares, strict=True)], whole[2:])


def test_a_closed_stream_says_so(mini_dataset, mini_card):
    stream = open_train_stream(mini_dataset, mini_card, DATA, seed=0)
    next(stream)
    for _ in range(2):
        stream.close()
    with pytest.raises(ValueError, match="closed train stream"):
        next(stream)


def test_an_epoch_is_every_tile_once_and_never_in_the_same_order(mini_dataset, mini_card):
    index = np.concatenate([b["index"] for b in take(mini_dataset, mini_card, n=10)])
    epochs = index.reshape(4, 10)
    assert (np.sort(epochs, axis=1) == np.arange(10)).all()
    assert len({tuple(e) for e in epochs}) == 4


def test_the_same_tile_is_augmented_anew_in_each_epoch(mini_dataset, mini_card):
    batches = take(mini_dataset, mini_card, n=10)
    rows = [(i, b["image"]["rgb"][r]) for b in batches for r, i in enumerate(b["index"])]
    seen = [x for i, x in rows if i == 0]
    assert len(seen) == 4
    assert len({x.tobytes() for x in seen}) == 4


def test_samples_per_epoch_draws_a_new_subset_each_epoch(mini_dataset, mini_card):
    data = dataclasses.replace(DATA, samples_per_epoch=6, batch_size=2)
    with open_train_stream(mini_dataset, mini_card, data, seed=0) as stream:
        assert stream.steps_per_epoch == 3
        index = np.concatenate([next(stream)["index"] for _ in range(3 * 20)]).reshape(20, 6)
    assert all(len(set(epoch)) == 6 for epoch in index)
    assert len({tuple(sorted(epoch)) for epoch in index}) > 10
    assert set(index.ravel()) == set(range(10))
    for samples, steps in ((0, 3), (10, 3), (12, 3), (40, 10)):
        data = dataclasses.replace(DATA, samples_per_epoch=samples)
        with open_train_stream(mini_dataset, mini_card, data, seed=0) as stream:
            assert stream.steps_per_epoch == steps


@pytest.mark.parametrize("batch_size", [1, 2, 3, 4, 7])
def test_evaluation_sees_every_tile_once_in_order(mini_dataset, mini_card, batch_size):
    batches = list(eval_batches(mini_dataset, mini_card, DATA, split="validation", batch_size=batch_size))
    assert all(len(b["index"]) == batch_size for b in batches)
    valid = np.concatenate([b["valid"] for b in batches])
    index = np.concatenate([b["index"] for b in batches])
    assert index[valid].tolist() == [0, 1, 2, 3]
    for b in batches:
        pad = ~b["valid"]
        assert (b["label"][pad] == 255).all()
        assert (b["index"][pad] == -1).all()
        assert not b["available"][pad].any()
        assert all((x[pad] == 0).all() for x in b["image"].values())
    source = TileSource(mini_dataset, "validation", mini_card)
    tile = source[int(batches[0]["index"][0])]
    np.testing.assert_array_equal(batches[0]["label"][0], tile["label"])
    rgb = mini_card.modality("rgb")
    np.testing.assert_allclose(
        batches[0]["image"]["rgb"][0], (tile["image"]["rgb"] - np.array(rgb.mean)) / rgb.std, atol=1e-5
    )


@pytest.mark.parametrize("hosts", [2, 4])
def test_evaluation_hosts_share_the_tiles_and_make_equally_many_batches(mini_dataset, mini_card, hosts):
    options = {"split": "test", "batch_size": 4}
    whole = list(eval_batches(mini_dataset, mini_card, DATA, **options))
    shares = [
        list(eval_batches(mini_dataset, mini_card, DATA, **options, process_index=i, process_count=hosts))
        for i in range(hosts)
    ]
    assert {len(s) for s in shares} == {len(whole)}
    assert_same([joined(s) for s in zip(*shares, strict=True)], whole)


def test_chosen_tiles_equal_evaluation(mini_dataset, mini_card):
    (whole,) = eval_batches(mini_dataset, mini_card, DATA, split="validation", batch_size=4)
    chosen = load_batch(mini_dataset, mini_card, DATA, split="validation", indices=[3, 1])
    assert_same(chosen["image"]["ndsm"], whole["image"]["ndsm"][[3, 1]])
    assert chosen["index"].tolist() == [3, 1]
    with pytest.raises(Dis2Error, match=r"has tiles 0\.\.3, not 4"):
        load_batch(mini_dataset, mini_card, DATA, split="validation", indices=[4])


def test_filler_of_an_absent_modality_never_shows(mini_dataset, tmp_path, monkeypatch):
    """A dataset whose filler is NaN and inf gives the same batches as one whose filler is zero."""
    plain = run_job.record

    def poisoned(spec, tile):
        r = plain(spec, tile)
        for m, there in zip(spec.modalities, r["available"], strict=True):
            if not there:
                r["image"][m.name][::2] = np.nan
                r["image"][m.name][1::2] = np.inf
        return r

    monkeypatch.setattr(run_job, "record", poisoned)
    dirty = write_mini(tmp_path / "dirty")
    card = DatasetCard.load(dirty)
    source = TileSource(dirty, "train", card)
    assert np.isnan(source[MINI_WITHOUT_NDSM]["image"]["ndsm"]).any()
    batches = take(dirty, card, n=5)
    assert_same(batches, take(mini_dataset, card, n=5))
    absent = [b for b in batches if MINI_WITHOUT_NDSM in b["index"]]
    assert len(absent) == 2
    for b in absent:
        row = b["index"].tolist().index(MINI_WITHOUT_NDSM)
        assert b["available"][row].tolist() == [True, False]
        assert (b["image"]["ndsm"][row] == 0).all()
        assert (b["label"][row] != 255).any()
    raw = dataclasses.replace(DATA, normalize="none")
    b = load_batch(dirty, card, raw, split="train", indices=[MINI_WITHOUT_NDSM])
    assert (b["image"]["ndsm"] == 0).all()


def test_a_selection_of_modalities_decodes_only_those(mini_dataset, mini_card):
    """With the height alone, the tile that lacks it has no input at all: everything in it is ignored."""
    card = dataclasses.replace(mini_card, modalities=mini_card.modalities)
    object.__setattr__(
        card, "modalities", (mini_card.modality("ndsm"),)
    )  # cards of one modality cannot be made
    source = TileSource(mini_dataset, "train", card)
    assert source[0]["image"].keys() == {"ndsm"}
    assert source[MINI_WITHOUT_NDSM]["available"].tolist() == [False]
    b = load_batch(mini_dataset, card, DATA, split="train", indices=[0, MINI_WITHOUT_NDSM])
    assert (b["label"][0] != 255).any()
    assert (b["label"][1] == 255).all()


def test_sources_are_read_from_many_threads_and_shards(tmp_path, mini_dataset, mini_card, monkeypatch):
    monkeypatch.setattr("dis2_jax.data.source.MAX_OPEN_SHARDS", 2)
    shards = write_mini(tmp_path / "shards", shard_bytes=5000)
    assert len(list(shards.glob("mini-train*"))) > 4
    source, whole = TileSource(shards, "train", mini_card), TileSource(mini_dataset, "train", mini_card)
    results = {}

    def read(k):
        results[k] = [source[i]["label"] for i in np.random.default_rng(k).permutation(10)]

    threads = [threading.Thread(target=read, args=(k,)) for k in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    for k in range(8):
        want = [whole[i]["label"] for i in np.random.default_rng(k).permutation(10)]
        np.testing.assert_array_equal(results[k], want)
    assert_same(take(shards, mini_card, n=3), take(mini_dataset, mini_card, n=3))


# Refusals


def test_unknown_and_empty_splits(mini_dataset, mini_card, tmp_path):
    data = dataclasses.replace(DATA, train_split="trian")
    with pytest.raises(Dis2Error, match=r"no split 'trian' \(did you mean 'train'\?\); it has train, valid"):
        open_train_stream(mini_dataset, mini_card, data, seed=0)
    out = write_mini(tmp_path / "mini")
    edit_card(out, lambda d: d["splits"].update(test=0))
    with pytest.raises(Dis2Error, match="split 'test' is empty"):
        eval_batches(out, mini_card, DATA, split="test", batch_size=2)
    with pytest.raises(Dis2Error, match=r"dataset_card\.json not found: make the dataset"):
        open_train_stream(tmp_path / "nothing", mini_card, DATA, seed=0)


def edit_card(folder: Path, change) -> None:
    path = folder / "dataset_card.json"
    d = json.loads(path.read_text())
    change(d)
    path.write_text(json.dumps(d))


def test_a_dataset_that_disagrees_with_the_card(mini_dataset, mini_card, tmp_path):
    rgb, ndsm = mini_card.modalities

    def opened(match, folder=mini_dataset, **changes):
        with pytest.raises(Dis2Error, match=match):
            TileSource(folder, "train", dataclasses.replace(mini_card, **changes))

    opened("'rgb' has 3 channels, not 4", modalities=(dataclasses.replace(rgb, channels=4), ndsm))
    opened(
        "no modality 'nsdm'.*did you mean 'ndsm'", modalities=(rgb, dataclasses.replace(ndsm, name="nsdm"))
    )
    opened("in the order rgb, ndsm", modalities=(ndsm, rgb))
    opened("has tiles of", tile=(64, 64))
    legend = dataclasses.replace(mini_card.legend, names=("ground", "building", "car"))
    opened("has classes ground, building, tree, not ground, building, car", legend=legend)

    out = write_mini(tmp_path / "mini")
    edit_card(out, lambda d: d.update(tile=[64, 64]))
    opened(r"records hold image/ndsm of shape \(32, 32, 1\), its card says \(64, 64, 1\)", out, tile=(64, 64))
    edit_card(out, lambda d: d.update(tile=[32, 32], splits={"train": 9}))
    opened("'train' has 10 records, its card says 9", out)
    (out / "features.json").write_text("{}")
    opened("mini", out)


def test_sizes_that_cannot_work(mini_dataset, mini_card):
    with pytest.raises(
        Dis2Error, match=r"data\.crop = \(48, 16\) is larger than the dataset's 32 x 32 tiles"
    ):
        open_train_stream(mini_dataset, mini_card, dataclasses.replace(DATA, crop=(48, 16)), seed=0)
    with pytest.raises(Dis2Error, match=r"batch_size = 4: it must be a multiple of the 3 hosts"):
        open_train_stream(mini_dataset, mini_card, DATA, seed=0, process_count=3)
    bare = tuple(dataclasses.replace(m, mean=(), std=()) for m in mini_card.modalities)
    with pytest.raises(Dis2Error, match="0 means"):
        open_train_stream(mini_dataset, dataclasses.replace(mini_card, modalities=bare), DATA, seed=0)


@pytest.mark.parametrize("damage", ["cut", "emptied", "missing"])
def test_a_damaged_shard_is_found_on_opening(mini_card, tmp_path, damage):
    out = write_mini(tmp_path / "mini")
    (shard,) = out.glob("mini-train*")
    if damage == "cut":
        os.truncate(shard, shard.stat().st_size // 2)
    elif damage == "emptied":
        os.truncate(shard, 0)
    else:
        shard.unlink()
    with pytest.raises(Dis2Error, match=f"{shard.name}.* is (corrupt or cut off|missing)") as e:
        open_train_stream(out, mini_card, DATA, seed=0)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_flipped_byte_names_shard_and_record(mini_card, tmp_path, workers):
    out = write_mini(tmp_path / "mini")
    (shard,) = out.glob("mini-train*")
    raw = bytearray(shard.read_bytes())
    raw[15000] ^= 0xFF
    shard.write_bytes(raw)
    data = dataclasses.replace(DATA, workers=workers)
    with pytest.raises(Dis2Error, match=rf"{shard.name}: record \d+ is corrupt"):
        take(out, mini_card, data, n=3)


def test_a_label_outside_the_legend_names_shard_and_record(mini_dataset, mini_card):
    source = TileSource(mini_dataset, "train", mini_card)
    legend = dataclasses.replace(mini_card.legend, names=("a", "b"), colors=mini_card.legend.colors[:2])
    source.card = dataclasses.replace(mini_card, legend=legend)
    with pytest.raises(
        Dis2Error, match=r"mini-train.*: the label of record 0 holds 2, but the dataset has 2"
    ):
        source[0]


def run_script(body: str, dataset: Path) -> subprocess.Popen:
    header = f"""
        import multiprocessing, os, signal, threading, time
        from dis2_jax.config import DataConfig
        from dis2_jax.data.pipeline import open_train_stream
        from dis2_jax.schema import DatasetCard, Dis2Error
        folder = {str(dataset)!r}
        data = DataConfig(batch_size=4, workers=2)
        card = DatasetCard.load(folder)
        def running():
            return [p.pid for p in multiprocessing.active_children()]
    """
    script = dataset.parent / f"script-{threading.get_ident()}.py"
    script.write_text(
        textwrap.dedent(header)
        + "if __name__ == '__main__':\n"
        + textwrap.indent(textwrap.dedent(body), "    ")
    )
    return subprocess.Popen(
        [sys.executable, str(script)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def test_workers_survive_signals_and_a_killed_one_is_an_error(mini_dataset):
    """Ctrl-C and SIGTERM reach the whole process group: the workers go on, the main process decides."""
    body = """
        caught = []
        for s in (signal.SIGINT, signal.SIGTERM):  # handlers are not inherited by spawned processes
            signal.signal(s, lambda number, _: caught.append(number))
        def interrupt():
            while len(running()) < 2:
                time.sleep(0.01)
            os.killpg(os.getpgrp(), signal.SIGINT)  # the workers have only just been spawned
        threading.Thread(target=interrupt).start()
        with open_train_stream(folder, card, data, seed=0) as stream:
            next(stream)
            os.killpg(os.getpgrp(), signal.SIGTERM)
            for _ in range(20):
                next(stream)
            print("survived", caught, len(running()), flush=True)
            time.sleep(1)  # the readers are ahead and their pipes full: nothing may be left half written
            os.kill(running()[0], signal.SIGKILL)
            try:
                while True:
                    next(stream)
            except Dis2Error as e:
                print("error:", e, flush=True)
        print("left", running(), flush=True)
    """
    process = run_script(body, mini_dataset)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert "Exception ignored" not in err
    survived, error, left = out.splitlines()
    assert survived == f"survived {[int(signal.SIGINT), int(signal.SIGTERM)]} 2"
    assert error.startswith("error: a reader process died")
    assert "-9" in error
    assert left == "left []"


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="Linux only")
def test_nothing_of_what_was_made_ahead_is_left_in_memory(mini_dataset):
    body = """
        import pathlib, re
        with open_train_stream(folder, card, data, seed=0) as stream:
            next(stream)
            time.sleep(1)  # batches are made that nobody fetches
            maps = [pathlib.Path(f"/proc/{pid}/maps").read_text() for pid in running()]
            own = set(re.findall("/dev/shm/psm_[^ \\n]+", " ".join(maps)))
            waiting = [path for path in own if os.path.exists(path)]
        print(len(own) >= 6, len(waiting) >= 5, any(map(os.path.exists, own)))
    """
    process = run_script(body, mini_dataset)
    out, err = process.communicate(timeout=120)
    assert (process.returncode, out, err) == (0, "True True False\n", "")


def test_a_program_may_end_without_closing_its_streams(mini_dataset):
    body = """
        import dataclasses
        streams = [
            open_train_stream(folder, card, dataclasses.replace(data, workers=workers), seed=0)
            for workers in (0, 2)
        ]
        print([next(stream)["label"].shape[0] for stream in streams for _ in range(3)])
    """
    process = run_script(body, mini_dataset)
    out, err = process.communicate(timeout=120)
    assert (process.returncode, out, err) == (0, "[4, 4, 4, 4, 4, 4]\n", "")


# Prefetch to the device


def test_device_prefetch_keeps_order_and_counts():
    with device_prefetch(iter(range(5)), lambda x: x * 10, size=2) as it:
        assert next(it) == 0
        assert it.taken == 1
        assert list(it) == [10, 20, 30, 40]
        assert it.taken == 5
        with pytest.raises(StopIteration):
            next(it)


def test_device_prefetch_runs_ahead_by_its_size_only():
    made = []
    first = threading.Event()

    def source():
        for i in itertools.count():
            made.append(i)
            if i == 3:
                first.set()
            yield i

    with device_prefetch(source(), lambda x: x, size=2) as it:
        assert next(it) == 0
        assert first.wait(10)  # 0 taken, 1 and 2 ready, 3 waits to be put
    assert made == [0, 1, 2, 3]
    assert not any(t.name == "dis2-device-prefetch" for t in threading.enumerate())
    with pytest.raises(ValueError, match="closed"):
        next(it)


@pytest.mark.parametrize("where", ["source", "put"])
def test_device_prefetch_raises_where_the_element_would_have_been(where):
    def source():
        yield 1
        yield 2
        if where == "source":
            raise Dis2Error("broken")
        yield 3

    def put(x):
        if x == 3:
            raise Dis2Error("broken")
        return x

    with device_prefetch(source(), put) as it:
        assert [next(it), next(it)] == [1, 2]
        for _ in range(2):
            with pytest.raises(Dis2Error, match="broken"):
                next(it)
