"""Preparing in parts: the same bytes from any engine, killed or not; inputs watched; faults told in one line."""

import dataclasses
import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numbers_case
import numpy as np
import pytest
from folder_case import CARD, scene
from hypothesis import given
from hypothesis import strategies as st
from numbers_case import Numbers, files, run, wait_for, write_source

from dis2_jax.data.builders.cutting import Rect, cut_bands, cut_tiles
from dis2_jax.data.builders.folder import find_folder
from dis2_jax.data.builders.statistics import ChannelMoments
from dis2_jax.data.builders.synthetic_city import SyntheticCity, SyntheticCityOptions
from dis2_jax.data.inspect import inspect_dataset
from dis2_jax.data.prepare import prepare
from dis2_jax.data.preparing import inputs as input_files
from dis2_jax.data.preparing.engines import InProcess, Processes, local_engine
from dis2_jax.data.preparing.parts import JobSummary, RecordNote
from dis2_jax.data.preparing.shards import plan_shards
from dis2_jax.data.source import TileSource
from dis2_jax.schema import INPUTS_FILE, DatasetCard, Dis2Error


@pytest.fixture
def source(tmp_path):
    return write_source(tmp_path / "source")


@pytest.fixture
def wanted(source, tmp_path):
    """What one undisturbed process makes."""
    run(source, tmp_path / "wanted")
    return files(tmp_path / "wanted")


def test_processes_write_the_same_bytes(source, wanted, tmp_path):
    prepared = run(source, tmp_path / "d", engine=Processes(3))
    assert files(tmp_path / "d") == wanted
    assert sum(".array_record-" in name for name in wanted) > 3
    assert prepared.card.splits == {"train": 20, "validation": 3}
    assert prepared.notes == ("made of numbers", "1 tiles were dropped: they were told to be")  # and no jax
    assert list(prepared.card.inputs) == [p.name for p in sorted(source.iterdir())]
    assert inspect_dataset(tmp_path / "d").card == prepared.card
    assert sorted(p.name for p in tmp_path.iterdir()) == ["d", "source", "wanted"]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_fault_costs_only_its_job(source, wanted, tmp_path, workers):
    bad = source / "train-5.txt"
    bad.write_text("5 fault")
    with pytest.raises(
        Dis2Error, match=r"a faulty file; \d of 8 jobs are done and kept in .*\.d\.partial"
    ) as e:
        run(source, tmp_path / "d", engine=local_engine(workers))
    assert "\n" not in str(e.value)
    assert not (tmp_path / "d").exists()
    bad.write_text("5")
    prepared = run(source, tmp_path / "d")
    assert files(tmp_path / "d") == wanted
    assert any("jobs were there from an unfinished run" in n for n in prepared.notes)


def test_a_dead_worker_is_told_with_its_job(source, wanted, tmp_path):
    (source / "train-5.txt").write_text("5 die")
    with pytest.raises(
        Dis2Error, match=r"a worker process died \(killed by SIGKILL\) at job train/train-5; "
    ):
        run(source, tmp_path / "d", engine=Processes(2))
    (source / "train-5.txt").write_text("5")
    run(source, tmp_path / "d")
    assert files(tmp_path / "d") == wanted


KILLED = """
import sys
from pathlib import Path
from dis2_jax.data.preparing.engines import Processes
from numbers_case import run
if __name__ == "__main__":
    run(Path(sys.argv[1]), sys.argv[2], engine=Processes(2))
"""


def children(pid):
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(p) for p in found]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_killed_it_leaves_no_process_and_goes_on(source, wanted, tmp_path):
    (source / "train-5.txt").write_text("5 slow")
    script = tmp_path / "killed.py"
    script.write_text(KILLED)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen([sys.executable, script, source, tmp_path / "d"], env=environment) as process:
        wait_for(lambda: len(list((tmp_path / ".d.partial").glob("*.json"))) >= 6)
        workers = children(process.pid)
        process.kill()
    assert len(workers) >= 2
    wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers), seconds=10)
    (source / "train-5.txt").write_text("5")
    prepared = run(source, tmp_path / "d")
    assert files(tmp_path / "d") == wanted
    assert any(n.startswith(("6 of 8 jobs", "7 of 8 jobs")) for n in prepared.notes)


def interrupted(source, out):
    """A run that finished five jobs."""
    fine = (source / "train-5.txt").read_text()
    (source / "train-5.txt").write_text(f"{fine} fault")
    with pytest.raises(Dis2Error, match="5 of 8 jobs are done"):
        run(source, out)
    (source / "train-5.txt").write_text(fine)
    return out.with_name(f".{out.name}.partial")


def test_changed_inputs_are_read_again_and_touched_ones_are_not(source, wanted, tmp_path):
    interrupted(source, tmp_path / "d")
    os.utime(source / "train-1.txt", (1, 1))
    (source / "train-2.txt").write_text("77")
    prepared = run(source, tmp_path / "d")
    assert "4 of 8 jobs were there from an unfinished run" in prepared.notes
    assert "1 jobs were made again: their inputs have changed, or their parts were damaged" in prepared.notes
    run(source, tmp_path / "again")
    assert files(tmp_path / "d") == files(tmp_path / "again") != wanted


def test_parts_made_with_other_options_are_thrown_away(source, tmp_path):
    @dataclasses.dataclass(frozen=True)
    class Other(Numbers):
        options = "other numbers"

    interrupted(source, tmp_path / "d")
    notes = prepare(Other(source), tmp_path / "d").notes
    assert "5 jobs of an unfinished run with other options or files were thrown away" in notes


def test_an_input_that_changes_while_it_is_read_is_refused(source, tmp_path, monkeypatch):
    monkeypatch.setattr(numbers_case, "harm", lambda text: (source / "train-0.txt").write_text("1"))
    with pytest.raises(Dis2Error, match=r"train-0\.txt was changed while it was read"):
        run(source, tmp_path / "d")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["source"]


@pytest.mark.parametrize("how", ["flipped", "cut"])
def test_a_damaged_part_is_found_and_made_again(source, wanted, tmp_path, how):
    folder = interrupted(source, tmp_path / "d")
    part = next(folder.glob("*.part"))
    content = part.read_bytes()
    part.write_bytes(content[:-1] + (bytes([content[-1] ^ 1]) if how == "flipped" else b""))
    if how == "flipped":
        with pytest.raises(Dis2Error, match=rf"{part.name} \(tile 'train-\d-\d'\) is not what was written"):
            run(source, tmp_path / "d")
    run(source, tmp_path / "d")
    assert files(tmp_path / "d") == wanted


def test_a_full_disk_is_told_in_one_line_and_nothing_is_lost(source, wanted, tmp_path, monkeypatch):
    calls = []

    def fsync(descriptor):
        calls.append(descriptor)
        if len(calls) == 6:
            raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        with pytest.raises(Dis2Error, match=r"No space left on device\): make room.*; 2 of 8 jobs are done"):
            run(source, tmp_path / "d")
    run(source, tmp_path / "d")
    assert files(tmp_path / "d") == wanted


def test_two_at_once_are_refused(source, tmp_path, monkeypatch):
    def second(text):
        with pytest.raises(Dis2Error, match="in use by another `dis2 data prepare`"):
            run(source, tmp_path / "d")

    monkeypatch.setattr(numbers_case, "harm", second)
    run(source, tmp_path / "d")


def test_many_inputs_are_listed_beside_the_card(source, tmp_path, monkeypatch):
    few = run(source, tmp_path / "few").card
    monkeypatch.setattr("dis2_jax.data.preparing.finish._LISTED_INPUTS", 4)
    monkeypatch.setattr(input_files, "_REMEMBERED", 0)
    many = run(source, tmp_path / "many").card
    assert list(many.inputs) == [INPUTS_FILE]
    assert json.loads((tmp_path / "many" / INPUTS_FILE).read_text()) == few.inputs
    assert dataclasses.replace(many, inputs={}) == dataclasses.replace(few, inputs={})


def test_a_card_without_inputs_still_loads(mini_card):
    old = json.loads(mini_card.to_json())
    del old["inputs"]
    for m in old["modalities"]:
        del m["product"]
    assert DatasetCard.from_json(json.dumps(old)) == mini_card


def test_a_shard_of_another_dataset_is_found(source, tmp_path):
    for name, number in (("a", 0), ("b", 1)):
        (source / "train-0.txt").write_text(str(number))
        run(source, tmp_path / name)
    shard = next((tmp_path / "a").glob("*-train.array_record-00000-*"))
    shard.write_bytes((tmp_path / "b" / shard.name).read_bytes())
    with pytest.raises(Dis2Error, match=rf"{shard.name} is not the file that was prepared"):
        inspect_dataset(tmp_path / "a")


def test_bands_of_a_scene_make_the_same_tiles(tmp_path, monkeypatch):
    """The folder builder with jobs of one row of tiles."""
    (tmp_path / "card.toml").write_text(CARD.replace("tile = 16", "tile = 16\noverlap = 4"))
    for name in ("a1", "a2", "b1"):
        scene(tmp_path, name, size=(70, 40))
    whole = prepare(find_folder(tmp_path, tmp_path / "card.toml"), tmp_path / "whole").card
    monkeypatch.setattr(cut_bands, "__kwdefaults__", cut_bands.__kwdefaults__ | {"tiles": 1})
    dataset = find_folder(tmp_path, tmp_path / "card.toml")
    assert len(dataset.jobs()) > 9
    banded = prepare(dataset, tmp_path / "banded", engine=Processes(2)).card
    for split in whole.splits:
        pair = (TileSource(tmp_path / n, split, c) for n, c in (("whole", whole), ("banded", banded)))
        for a, b in zip(*pair, strict=True):
            assert a["tile_id"] == b["tile_id"]
            assert np.array_equal(a["label"], b["label"])
            assert all(np.array_equal(a["image"][n], b["image"][n]) for n in a["image"])


@given(
    st.integers(1, 200), st.integers(1, 200), st.sampled_from([16, 48]), st.integers(0, 15), st.integers(1, 9)
)
def test_bands_are_cut_like_the_whole(height, width, tile, overlap, tiles):
    rect = Rect(3, 5, height, width)
    bands = list(cut_bands(rect, (tile, tile), overlap=overlap, tiles=tiles))
    cut = [t for band in bands for t in cut_tiles(band, (tile, tile), overlap=overlap)]
    assert cut == list(cut_tiles(rect, (tile, tile), overlap=overlap))


def summary(sizes):
    records = tuple(RecordNote(f"t{i}", n, f"{i:024x}", None) for i, n in enumerate(sizes))
    return JobSummary(records, (1, 2, 3), {}, {}, {}, {})


@given(st.lists(st.lists(st.integers(1, 50), max_size=6), min_size=1, max_size=8), st.integers(1, 120))
def test_shards_hold_every_record_in_order(jobs, shard_bytes):
    plans = plan_shards("s", {n: summary(sizes) for n, sizes in enumerate(jobs)}, shard_bytes=shard_bytes)
    taken = []
    for plan in plans:
        own = [(s.job, i) for s in plan.slices for i in range(s.start, s.stop)]
        assert own
        assert sum(jobs[j][i] for j, i in own) <= shard_bytes or len(own) == 1
        assert all(s.offset == sum(jobs[s.job][: s.start]) for s in plan.slices)
        taken += own
    assert taken == [(j, i) for j, sizes in enumerate(jobs) for i in range(len(sizes))]


@given(st.lists(st.floats(-1e9, 1e9), min_size=2, max_size=2), st.integers(0, 2**40))
def test_moments_survive_json_to_the_last_bit(values, count):
    moments = ChannelMoments(2, count)
    moments.mean[:], moments.m2[:] = values, np.square(values)
    back = ChannelMoments.of_list(json.loads(json.dumps(moments.to_list())))
    assert (back.count, back.mean.tolist(), back.m2.tolist()) == (count, values, np.square(values).tolist())


def test_the_command_stops_at_ctrl_c_and_goes_on(tmp_path):
    options = SyntheticCityOptions(train_scenes=400, scene=64, tile=16)
    command = [sys.executable, "-m", "dis2_jax", "data", "prepare", "synthetic_city", "--out", tmp_path / "d"]
    command += ["--train-scenes", "400", "--scene", "64", "--tile", "16", "--workers", "2"]
    # A shell's background jobs ignore Ctrl-C, and so would their children. Undone after the fork
    # (no `preexec_fn`): JAX warns of Python code that runs in a forked process.
    hears = "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); os.execv(sys.argv[1], sys.argv[1:])"
    command = [sys.executable, "-c", hears, *command]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        wait_for(lambda: any((tmp_path / ".d.partial").glob("*.json")))
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the workers too
        _, told = process.communicate(timeout=60)
    assert process.returncode == 130
    assert told.rstrip().endswith("dis2: interrupted; run the same command again to go on")
    assert "Traceback" not in told
    notes = prepare(SyntheticCity(options), tmp_path / "d").notes
    assert any("jobs were there from an unfinished run" in n for n in notes)
    prepare(SyntheticCity(options), tmp_path / "alone")
    assert files(tmp_path / "d") == files(tmp_path / "alone")


def test_workers_are_counted():
    assert local_engine(0) == local_engine(1) == InProcess()
    assert local_engine(2) == Processes(2)
    with pytest.raises(Dis2Error, match="--workers -1"):
        local_engine(-1)
