"""The sweep over degraded inputs on a linear stand-in: counts by hand, and what earlier calls leave."""

import dataclasses

import numpy as np
import pytest
from PIL import Image
from tiny_run import Fake, fake_variables, stand_in_run

from dis2_jax.cli.main import main
from dis2_jax.data.normalize import normalize
from dis2_jax.evaluation.chosen import Choice, complete, open_study
from dis2_jax.evaluation.degrade import sweep as sweeping
from dis2_jax.evaluation.degrade.kinds import degrade, plan_conditions
from dis2_jax.evaluation.degrade.results import CLEAN, Degraded
from dis2_jax.evaluation.degrade.sensor import Sensor
from dis2_jax.evaluation.degrade.sweep import spoiled_input, sweep
from dis2_jax.evaluation.degrade.tables import text_report
from dis2_jax.evaluation.evaluate import evaluate_split
from dis2_jax.evaluation.scoring.metrics import confusion_matrix
from dis2_jax.schema import Dis2Error


@pytest.fixture
def workdir(tmp_path, monkeypatch, mini_dataset, mini_card):
    """Folder of a run whose network is the stand-in."""
    run = stand_in_run(Fake(), card=mini_card, dataset=mini_dataset)
    monkeypatch.setattr("dis2_jax.evaluation.chosen.load_eval_variables", lambda *_: run)
    return tmp_path


def study(workdir, **choice):
    return open_study(workdir, Choice(**{"split": "train", **choice}))


def measure(workdir, *, students=True, kinds=("noise",), severities=(0.5, 2.0), only=(), **choice):
    s = study(workdir, **choice)
    conditions = plan_conditions(s.card.modalities, kinds=kinds, severities=severities, only=only)
    return sweep(s, conditions, students=students)


def test_counts_equal_a_loop_over_tiles(workdir):
    found = measure(workdir)
    s = study(workdir)
    assert found.tiles == 9, "one train tile has no height"
    assert found.curves == (
        ("noise", "rgb", "rgb+ndsm"),
        ("noise", "rgb", "rgb"),
        ("noise", "ndsm", "rgb+ndsm"),
        ("noise", "ndsm", "ndsm"),
    )
    by_name = {(c.modality.name, c.severity): c for c in plan_conditions(s.card.modalities, kinds=["noise"])}
    for row in found.rows:
        total = np.zeros((3, 3), np.int64)
        for i in range(10):
            tile = s.source[i]
            if not tile["available"].all():
                continue
            parts = []
            for name in row.branch.split("+"):
                m = s.card.modality(name)
                x = np.array(tile["image"][name], np.float32)
                if row.modality == name:
                    sensor = Sensor.of(m, tile["image"][name].dtype, "card")
                    x = degrade(x, by_name[name, row.severity], sensor, seed=0, tile=i)
                parts.append(normalize(x, m, "card"))
            predicted = (np.concatenate(parts, -1) @ fake_variables()["params"][row.branch]).argmax(-1)
            total += confusion_matrix(tile["label"].astype(int), predicted, num_classes=3)
        np.testing.assert_array_equal(row.confusion, total, err_msg=f"{row.kind} {row.modality} {row.branch}")


def test_batch_size_and_order_change_nothing(workdir):
    one = measure(workdir, kinds=("cloud", "stale"), severities=())
    assert measure(workdir, kinds=("cloud", "stale"), severities=(), batch_size=7) == one
    s = study(workdir)
    turned = dataclasses.replace(s, indices=s.indices[::-1])
    conditions = plan_conditions(s.card.modalities, kinds=["cloud", "stale"])
    assert sweep(turned, conditions) == one


def test_all_missing_is_the_zero_filled_baseline_of_evaluate(workdir, mini_dataset, mini_card):
    found = measure(workdir, kinds=("partial",), severities=(1.0,), split="test", students=False)
    s = study(workdir, split="test")
    evaluation = evaluate_split(
        s.model, s.variables, str(mini_dataset), mini_card, s.data, split="test", batch_size=2, baselines=True
    ).evaluation
    wanted = {r.available: r.confusion for r in evaluation.scenarios if r.kind == "baseline"}
    rows = {r.modality: r for r in found.rows if r.kind == "partial"}
    assert rows["ndsm"].confusion == wanted[("rgb",)]
    assert rows["rgb"].confusion == wanted[("ndsm",)]
    for s in evaluation.real:
        assert found.clean[s.name].confusion == s.confusion


def test_only_complete_tiles_are_spoiled(workdir):
    s = study(workdir, batch_size=12)
    ((tiles, batch),) = s.batches()
    (condition,) = plan_conditions(s.card.modalities, kinds=["noise"], only=["ndsm"], severities=[1.0])
    out = spoiled_input(s, tiles, batch, condition)
    changed = (out != batch["image"]["ndsm"]).any((1, 2, 3))
    np.testing.assert_array_equal(changed, complete(batch))
    assert changed.sum() == 9


def test_progress_counts_tiles_times_lines(workdir):
    seen = []
    s = study(workdir, tiles=3)
    conditions = plan_conditions(s.card.modalities, kinds=["shift"], only=["rgb"], severities=[1.0])
    sweep(s, conditions, on_line=lambda *n: seen.append(n))
    assert seen[-1] == (15, 15), "3 clean branches, and 2 that use rgb"


def test_command_keeps_the_curves_of_earlier_calls(workdir, capsys):
    folder = workdir / "evaluation"
    base = ["degrade", "--workdir", str(workdir)]
    assert main([*base, "--kind", "noise", "--modality", "rgb", "--severity", "0.5,1"]) == 0
    first = Degraded.load(folder / "degraded.json")
    assert text_report(first).strip() in capsys.readouterr().out
    assert (first.split, first.tiles, first.step, first.seed) == ("test", 3, 12, 6)
    assert {r.kind for r in first.rows} == {CLEAN, "noise"}
    for name in ("degraded.png", "degraded-classes.png"):
        with Image.open(folder / name) as picture:
            assert min(picture.size) > 200
    assert (folder / "degraded.svg").read_text().count("<svg") == 1

    assert main([*base, "--kind", "noise,stale", "--modality", "ndsm"]) == 0
    both = Degraded.load(folder / "degraded.json")
    assert {(k, m) for k, m, _ in both.curves} == {("noise", "rgb"), ("noise", "ndsm"), ("stale", "ndsm")}
    assert [r for r in both.rows if r.modality == "rgb"] == [r for r in first.rows if r.modality == "rgb"]
    assert "2 curves of earlier calls" in capsys.readouterr().out
    assert "![degraded.png](degraded.png)" in (folder / "degraded.md").read_text()

    assert main([*base, "--kind", "shift", "--no-students", "--tiles", "2"]) == 0
    other = Degraded.load(folder / "degraded.json")
    assert {k for k, _, _ in other.curves} == {"shift"}, "other tiles: nothing to join"
    assert {b for _, _, b in other.curves} == {"rgb+ndsm"}


def interrupted_after(conditions, monkeypatch, arguments):
    """Run the command and interrupt it when so many conditions are done; the clean one counts."""
    begun = []
    measure = sweeping._measured

    def measuring(*a):
        if len(begun) == conditions:
            raise KeyboardInterrupt
        begun.append(1)
        return measure(*a)

    with monkeypatch.context() as patch:
        patch.setattr(sweeping, "_measured", measuring)
        status = main(arguments)
    return status, len(begun)


def test_an_interrupted_command_goes_on_after_the_last_finished_severity(workdir, capsys, monkeypatch):
    base = ["degrade", "--workdir", str(workdir), "--modality", "rgb", "--tiles", "2", "--batch-size", "1"]
    noise = [*base, "--kind", "noise", "--severity", "0.5,1,2"]
    path = workdir / "evaluation" / "degraded.unfinished.jsonl"
    results = workdir / "evaluation" / "degraded.json"
    assert main(noise) == 0
    whole = results.read_bytes()
    results.unlink()
    assert not path.exists()
    assert interrupted_after(3, monkeypatch, noise) == (130, 3)
    assert "the same command goes on after 3 finished" in capsys.readouterr().err
    path.write_text(path.read_text() + '{"point": ["noise", "rgb", 2.0], "ro')  # and the machine died
    assert not results.exists()

    assert interrupted_after(9, monkeypatch, [*base, "--kind", "shift", "--severity", "1"]) == (0, 1)
    assert {k for k, _, _ in Degraded.load(results).curves} == {"shift"}, "no unfinished curve in the results"
    results.unlink()
    assert interrupted_after(9, monkeypatch, noise) == (0, 2), "the clean one, and severity 2"
    assert results.read_bytes() == whole
    assert not path.exists()


def test_two_at_a_time_are_refused_where_they_would_write_the_same_files(workdir, capsys, monkeypatch):
    base = ["degrade", "--workdir", str(workdir), "--modality", "rgb", "--tiles", "1", "--severity", "1"]
    statuses = []
    measure = sweeping._measured

    def measuring(*arguments):
        if not statuses:
            statuses.append(None)
            statuses.append(main([*base, "--kind", "shift"]))
            statuses.append(main([*base, "--kind", "shift", "--split", "validation"]))
        return measure(*arguments)

    monkeypatch.setattr(sweeping, "_measured", measuring)
    assert main([*base, "--kind", "noise"]) == 0
    assert statuses == [None, 2, 0]
    assert "degraded.* is in use by another `dis2 degrade`" in capsys.readouterr().err
    assert {k for k, _, _ in Degraded.load(workdir / "evaluation" / "degraded.json").curves} == {"noise"}
    assert main([*base, "--kind", "shift"]) == 0, "the lock died with the call"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--tiles", "1"], "with another --tiles (2 there, 1 now)"),
        (["--tiles", "2", "--seed", "1"], "with another --seed (0 there, 1 now)"),
        ("weights", "with another weights"),
        ("garbage", "cannot be read"),
    ],
)
def test_an_unfinished_call_of_other_options_is_not_lost_unasked(
    workdir, capsys, monkeypatch, mini_dataset, mini_card, options, message
):
    base = ["degrade", "--workdir", str(workdir), "--kind", "noise"]
    same = ["--tiles", "2"]
    assert interrupted_after(2, monkeypatch, [*base, *same])[0] == 130
    path = workdir / "evaluation" / "degraded.unfinished.jsonl"
    if options == "garbage":
        path.write_text("{}\n")
    if options == "weights":
        variables = {"params": {k: 2 * v for k, v in fake_variables()["params"].items()}}
        run = stand_in_run(Fake(), card=mini_card, dataset=mini_dataset)._replace(variables=variables)
        monkeypatch.setattr("dis2_jax.evaluation.chosen.load_eval_variables", lambda *_: run)
    before = path.read_bytes()
    assert main([*base, *(options if isinstance(options, list) else same)]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("dis2: error: ")
    assert message in line
    assert "delete" in line
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--kind", "clouds"], "no kind 'clouds' (did you mean 'cloud'?)"),
        (["--modality", "ndms"], "no modality 'ndms' (did you mean 'ndsm'?)"),
        (["--kind", "stale", "--modality", "rgb"], "stale befalls modalities of kind height: rgb is optical"),
        (["--severity", "1"], "give one --kind with it"),
        (["--kind", "shift", "--severity", "one"], "--severity 'one': write numbers"),
        (["--batch-size", "0"], "--batch-size 0: it must be at least 1"),
        (["--sverity", "1"], "unknown argument '--sverity' (did you mean '--severity'?)"),
    ],
)
def test_bad_arguments_are_one_line(workdir, capsys, arguments, message):
    assert main(["degrade", "--workdir", str(workdir), *arguments]) == 2
    err = capsys.readouterr().err.strip().splitlines()[-1]
    assert err.startswith("dis2: error: ")
    assert message in err


def test_a_broken_older_file_is_named_and_stays(workdir, capsys):
    path = workdir / "evaluation" / "degraded-validation.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text("{")
    assert main(["degrade", "--workdir", str(workdir), "--split", "validation", "--kind", "shift"]) == 2
    assert "degraded-validation.json: not results of degraded inputs" in capsys.readouterr().err
    assert path.read_text() == "{"


def test_output_that_is_not_finite_is_an_error(workdir):
    variables = {"params": {**fake_variables()["params"], "rgb": np.full((3, 3), np.nan, np.float32)}}
    s = dataclasses.replace(study(workdir), variables=variables)
    with pytest.raises(Dis2Error, match=r"scenario rgb: .* not finite"):
        sweep(s, ())
