"""Evaluation over a split: exact counts, absent modalities, zero-filled baselines, tables."""

import csv
import dataclasses
import io
import json

import numpy as np
import pytest
from tiny_run import Fake, fake_variables, make_run

from dis2_jax.cli.main import main
from dis2_jax.config import DataConfig
from dis2_jax.data.pipeline import eval_batches
from dis2_jax.evaluation.evaluate import check_size, evaluate_split, rows_of
from dis2_jax.evaluation.results import Evaluation, ScenarioResult
from dis2_jax.evaluation.run import matching_card
from dis2_jax.evaluation.scoring.metrics import confusion_matrix
from dis2_jax.evaluation.tables import scores
from dis2_jax.schema import Dis2Error, Scenario
from dis2_jax.sharding.mesh import data_mesh


def by_hand(dataset, card, *, split, scenario, zeros=()):
    """Confusion of one scenario, tile by tile in numpy."""
    weights = fake_variables()["params"][scenario]
    total, tiles = np.zeros((3, 3), np.int64), 0
    for batch in eval_batches(dataset, card, DataConfig(), split=split, batch_size=1):
        there = [m for m in scenario.split("+") if m not in zeros]
        if not all(batch["available"][0, card.modality_names.index(m)] for m in there):
            continue
        x = [batch["image"][m][0] * (m in there) for m in scenario.split("+")]
        predicted = (np.concatenate(x, -1) @ weights).argmax(-1)
        total += confusion_matrix(batch["label"][0], predicted, num_classes=3)
        tiles += 1
    return total, tiles


def run(dataset, card, **options):
    options = {"split": "train", "batch_size": 4, **options}
    return evaluate_split(Fake(), fake_variables(), str(dataset), card, DataConfig(), **options).evaluation


def test_counts_equal_a_loop_over_tiles(mini_dataset, mini_card):
    result = run(mini_dataset, mini_card, baselines=True)
    names = [s.name for s in result.scenarios]
    assert names == [
        "rgb+ndsm",
        "rgb",
        "ndsm",
        "rgb (full model, ndsm zero-filled)",
        "ndsm (full model, rgb zero-filled)",
    ]
    wanted = [("rgb+ndsm", ()), ("rgb", ()), ("ndsm", ()), ("rgb+ndsm", ("ndsm",)), ("rgb+ndsm", ("rgb",))]
    for got, (scenario, zeros) in zip(result.scenarios, wanted, strict=True):
        total, tiles = by_hand(mini_dataset, mini_card, split="train", scenario=scenario, zeros=zeros)
        np.testing.assert_array_equal(got.confusion, total)
        assert got.tiles == tiles
    assert [s.tiles for s in result.scenarios] == [9, 10, 9, 10, 9], "one train tile has no height"
    assert result.scenario("rgb").metrics.pixels == 10 * 31 * 32, "the ignored row is not counted"


def test_batch_size_and_mesh_change_nothing(mini_dataset, mini_card):
    one = run(mini_dataset, mini_card)
    assert run(mini_dataset, mini_card, batch_size=3) == one
    assert run(mini_dataset, mini_card, batch_size=7, mesh=data_mesh()) == one


def test_no_scenario_compiles_twice(mini_dataset, mini_card, monkeypatch):
    first = run(mini_dataset, mini_card, split="validation")
    monkeypatch.setattr(Fake, "predict", lambda *_, **__: pytest.fail("traced again"))
    assert run(mini_dataset, mini_card, split="validation") == first
    again = run(mini_dataset, mini_card, split="validation", baselines=True)
    assert again.real == first.scenarios, "baselines use the compiled full branch"


def test_progress_and_stopping(mini_dataset, mini_card):
    seen = []
    run(mini_dataset, mini_card, on_batch=lambda *counts: seen.append(counts))
    assert seen == [(4, 10), (8, 10), (10, 10)]

    def stop(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(mini_dataset, mini_card, on_batch=stop)


def test_output_that_is_not_finite_is_an_error(mini_dataset, mini_card):
    variables = fake_variables()
    variables["params"]["ndsm"][0, 0] = np.nan
    with pytest.raises(Dis2Error, match=r"scenario ndsm: .* pixels could not be counted"):
        evaluate_split(
            Fake(), variables, str(mini_dataset), mini_card, DataConfig(), split="test", batch_size=2
        )


def test_wrong_modalities_and_tile_sizes_are_refused(mini_dataset, mini_card):
    with pytest.raises(Dis2Error, match="the model reads ndsm, rgb but the dataset has rgb, ndsm"):
        rows_of(Fake(modalities=(("ndsm", 1), ("rgb", 3))), mini_card, baselines=False)
    odd = dataclasses.replace(mini_card, tile=(32, 40))
    with pytest.raises(Dis2Error, match="multiples of 16"):
        run(mini_dataset, odd)
    with pytest.raises(Dis2Error, match="tie it to 64 x 64"):
        check_size(Fake(position="table", tile=(64, 64)), (32, 32))


def test_baseline_names_of_three_modalities(mini_card):
    model = Fake(modalities=(("rgb", 3), ("ndsm", 1), ("sar", 2)), students=(("ndsm",), ("rgb", "sar")))
    sar = dataclasses.replace(mini_card.modalities[1], name="sar", channels=2)
    card = dataclasses.replace(mini_card, modalities=(*mini_card.modalities, sar))
    rows = rows_of(model, card, baselines=True)
    assert rows[-2].name == "ndsm (full model, rgb+sar zero-filled)"
    assert rows[-1].branch == Scenario(("rgb", "ndsm", "sar"))


CLASSES = ("ground", "building", "tree")
MEASURES = ("eroded", "boundary", "intervals", "calibration", "scenes")


def result(name, kind, confusion, tiles=5):
    available = tuple(name.split(" ")[0].split("+"))
    return ScenarioResult(name, kind, available, tiles, confusion, CLASSES)


@pytest.fixture
def evaluation():
    """Tree is absent; ndsm is worst; the baseline is worse still, and does not count."""
    rows = (
        result("rgb+ndsm", "full", ((90, 10, 0), (0, 100, 0), (0, 0, 0)), tiles=4),
        result("rgb", "student", ((80, 20, 0), (10, 90, 0), (0, 0, 0))),
        result("ndsm", "student", ((50, 30, 20), (10, 90, 0), (0, 0, 0))),
        result("rgb (full model, ndsm zero-filled)", "baseline", ((0, 100, 0), (0, 100, 0), (0, 0, 0))),
    )
    return Evaluation("mini", "test", CLASSES, rows, step=40, checkpoint="best", recipe="ours", seed=3)


def test_summary_numbers(evaluation):
    full, rgb, ndsm = (s.metrics.miou for s in evaluation.real)
    assert full == pytest.approx((90 / 100 + 100 / 110) / 2)
    assert evaluation.mean_miou == pytest.approx((full + rgb + ndsm) / 3)
    assert evaluation.worst.name == "ndsm"
    assert evaluation.gap(evaluation.worst) == pytest.approx(full - ndsm)


def test_json_round_trip(evaluation, tmp_path):
    path = tmp_path / "evaluation.json"
    path.write_text(evaluation.to_json())
    assert Evaluation.load(path) == evaluation
    old = json.loads(evaluation.to_json())  # as versions before the further measures wrote it
    for row in [old, *old["scenarios"]]:
        for key in ("average", "excluded", "no_scenes", "excluded_pixels", *MEASURES):
            row.pop(key, None)
    path.write_text(json.dumps(old))
    assert Evaluation.load(path) == evaluation
    path.write_text(evaluation.to_json()[:100])
    with pytest.raises(Dis2Error, match="not an evaluation"):
        Evaluation.load(path)
    with pytest.raises(Dis2Error, match="dis2 evaluate"):
        Evaluation.load(tmp_path / "none.json")


def test_no_tile_at_all_is_no_number(evaluation):
    empty = result("ndsm", "student", ((0,) * 3,) * 3, tiles=0)
    e = dataclasses.replace(evaluation, scenarios=(*evaluation.scenarios[:2], empty))
    assert e.gap(empty) is None
    assert e.worst.name == "rgb"
    assert Evaluation.from_json(e.to_json()) == e
    assert "ndsm 0" in scores.text_table(e)


def test_text_table(evaluation):
    lines = scores.text_table(evaluation).splitlines()
    starred = [line for line in lines if " * " in line]
    assert len(starred) == 1
    assert starred[0].split()[:5] == ["ndsm", "*", "0.455", "0.692", "-"]
    assert any("tree is absent" in line and "20 px in ndsm" in line for line in lines)
    assert any("rgb+ndsm 4" in line for line in lines), "fewer tiles than the others"


@pytest.mark.parametrize("classes", [2, 6, 40])
def test_text_table_keeps_to_the_width(classes):
    names = tuple(f"a_rather_long_class_name_{i}" for i in range(classes))
    rows = tuple(
        ScenarioResult(n, k, tuple(n.split("+")), 9, ((7,) * classes,) * classes, names)
        for n, k in (("s1_before+s2_before+s1_after", "full"), ("s1_before", "student"))
    )
    text = scores.text_table(Evaluation("d", "test", names, rows), width=100)
    assert max(len(line) for line in text.splitlines()) <= 100
    for head in ("mIoU", "kappa", "gap"):
        assert head in text


def test_csv_and_markdown_hold_the_same_numbers(evaluation):
    rows = list(csv.DictReader(io.StringIO(scores.csv_table(evaluation))))
    assert [r["scenario"] for r in rows] == [s.name for s in evaluation.scenarios]
    for row, s in zip(rows, evaluation.scenarios, strict=True):
        assert float(row["miou"]) == s.metrics.miou
        assert (row["iou/tree"], row["predicted/tree"]) == ("", str(s.metrics.classes[2].predicted))
    assert [r["worst"] for r in rows] == ["0", "0", "1", "0"]
    lines = scores.markdown_table(evaluation).splitlines()
    table = [line for line in lines if line.startswith("|")]
    assert len(table) == 4 * (2 + len(evaluation.scenarios)), "IoU, F1, precision, recall"
    assert any(line.startswith("| **ndsm** (worst) | 0.455 | 0.692 | - |") for line in table)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory, mini_dataset, mini_card):
    folder = tmp_path_factory.mktemp("run")
    make_run(folder, card=mini_card, dataset=mini_dataset, step=12, eval_batch_size=2, panels=2, seed=6)
    return folder


def test_command_writes_tables_and_panels(workdir, capsys):
    assert main(["evaluate", "--workdir", str(workdir)]) == 0
    out = capsys.readouterr().out
    folder = workdir / "evaluation"
    written = ["evaluation.json", "evaluation.csv", "evaluation.md", "tiles.csv", "panels/test-1.png"]
    assert out.splitlines()[-5:] == [str(folder / name) for name in written]
    assert all((folder / name).is_file() for name in written)
    found = Evaluation.load(folder / "evaluation.json")
    assert (found.split, found.step, found.checkpoint, found.seed) == ("test", 12, "best", 6)
    assert [s.tiles for s in found.scenarios] == [3] * 5
    assert scores.text_table(found).strip() in out

    arguments = ["evaluate", "--workdir", str(workdir), "--split", "validation", "--checkpoint", "12"]
    assert main([*arguments, "--no-baselines", "--panels", "0", "--batch-size", "2"]) == 0
    found = Evaluation.load(folder / "evaluation-validation.json")
    assert [s.tiles for s in found.scenarios] == [4] * 3
    assert not (folder / "panels" / "validation-1.png").exists()

    capsys.readouterr()
    assert main([*arguments, "--no-baselines", "--panels", "1", "--tta"]) == 0
    assert "; test-time augmentation; recipe ours" in capsys.readouterr().out
    turned = Evaluation.load(folder / "evaluation-validation-tta.json")
    assert turned.tta
    assert not found.tta
    assert (folder / "panels" / "validation-tta-1.png").exists()
    assert [s.metrics.pixels for s in turned.scenarios] == [s.metrics.pixels for s in found.scenarios]
    assert [s.confusion for s in turned.scenarios] != [s.confusion for s in found.scenarios]

    arguments += ["--exclude", "tree", "--erode", "1", "--boundary-tolerance", "2", "--bootstrap", "20"]
    assert main([*arguments, "--no-baselines", "--panels", "0", "--batch-size", "2", "--details"]) == 0
    out = capsys.readouterr().out
    found = Evaluation.load(folder / "evaluation-validation-without-tree.json")
    assert (folder / "tiles-validation-without-tree.csv").is_file()
    full = found.full
    assert (full.eroded.radius, full.boundary.tolerance, full.intervals.samples) == (1, 2, 20)
    assert "Excluded: tree." in out
    assert "No scene-level score" in out
    assert "Accuracy (pixels) by confidence" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--checkpoint", "newest"], "--checkpoint 'newest': write best, last or a step"),
        (["--checkpoint", "7"], "has no step 7"),
        (["--split", "tst"], "no split 'tst' (did you mean 'test'?)"),
        (["--exclude", "tre"], "no class 'tre' (did you mean 'tree'?)"),
        (["--erode", "-1"], "--erode -1: it must be at least 0"),
        (["--panels", "-1"], "--panels -1: it must be at least 0"),
        (["--batch-size", "0"], "--batch-size 0: it must be at least 1"),
        (["--dataset", "/nowhere"], "dataset /nowhere not found"),
        (["--datset", "x"], "unknown argument '--datset' (did you mean '--dataset'?)"),
    ],
)
def test_bad_arguments_are_one_line(workdir, capsys, arguments, message):
    assert main(["evaluate", "--workdir", str(workdir), *arguments]) == 2
    err = capsys.readouterr().err.strip().splitlines()[-1]
    assert err.startswith("dis2: error: ")
    assert message in err


def test_another_dataset_must_agree(mini_dataset, mini_card, tmp_path):
    def other(**changes):
        folder = tmp_path / "other"
        folder.mkdir(exist_ok=True)
        (folder / "dataset_card.json").write_text(dataclasses.replace(mini_card, **changes).to_json())
        return matching_card(str(folder), mini_card)

    rgb, ndsm = mini_card.modalities
    legend = dataclasses.replace(mini_card.legend, names=("ground", "house", "tree"))
    with pytest.raises(Dis2Error, match="no modality 'ndsm'"):
        other(modalities=(rgb, dataclasses.replace(ndsm, name="sar")))
    with pytest.raises(
        Dis2Error, match=r"has rgb\[3\]\+ndsm\[2\] where the run was trained on rgb\[3\]\+ndsm\[1\]"
    ):
        other(modalities=(rgb, dataclasses.replace(ndsm, channels=2)))
    with pytest.raises(Dis2Error, match="has classes ground, house, tree; the run was trained on"):
        other(legend=legend)
    shifted = dataclasses.replace(ndsm, mean=(99.0,))
    card, is_other = other(modalities=(rgb, shifted), splits={"test": 7})
    assert is_other
    assert card.splits == {"test": 7}
    assert card.modality("ndsm") == ndsm, "normalised as in training"
    assert matching_card(str(mini_dataset), mini_card) == (mini_card, False)
