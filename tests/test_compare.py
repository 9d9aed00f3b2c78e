"""dis2 compare: grouping by seed, differences with paired intervals, refusals; on evaluations made by hand."""

import dataclasses
import json
import statistics

import numpy as np
import pytest

from dis2_jax import config_file
from dis2_jax.cli.main import main
from dis2_jax.config import Config
from dis2_jax.evaluation.comparison.compare import compare_runs
from dis2_jax.evaluation.comparison.statistics import AVERAGE, WORST
from dis2_jax.evaluation.comparison.tables import markdown_comparison, text_comparison
from dis2_jax.evaluation.results import Evaluation, ScenarioResult
from dis2_jax.evaluation.scoring.bootstrap import class_counts_of
from dis2_jax.evaluation.scoring.measures import read_confusion
from dis2_jax.evaluation.scoring.metrics import summarize
from dis2_jax.evaluation.scoring.tile_table import TileScores, TileTable
from dis2_jax.schema import Dis2Error

CLASSES = ("ground", "building", "tree")
TILES = 12
NAMES = (("rgb+ndsm", "full"), ("rgb", "student"), ("ndsm", "student"))


def tile_confusions(seed, scenario, *, better=0.0, reference=0):
    """``[T, K, K]``: the same references in every run, hits that depend on the run's seed."""
    totals = np.random.default_rng(reference).integers(20, 400, (TILES, 3))
    g = np.random.default_rng([seed, len(scenario)])
    share = np.clip(g.normal(0.6 + better, 0.05, (TILES, 3)), 0, 1)
    hit = (totals * share).astype(np.int64)
    wrong = totals - hit
    m = np.zeros((TILES, 3, 3), np.int64)
    for k in range(3):
        m[:, k, k] = hit[:, k]
        m[:, k, (k + 1) % 3] = wrong[:, k]
    return m


def make(
    folder, *, seed, tiles=True, split="test", classes=CLASSES, config=None, stem="", names=NAMES, **options
):
    """A workdir with an evaluation and its table of tiles."""
    confusions = {n: tile_confusions(seed, n, **options) for n, _ in names}
    rows = tuple(
        ScenarioResult(n, kind, tuple(n.split("+")), TILES, read_confusion(confusions[n].sum(0)), classes)
        for n, kind in names
    )
    found = Evaluation("mini", split, classes, rows, step=9, checkpoint="best", recipe="ours", seed=seed)
    (folder / "evaluation").mkdir(parents=True)
    (folder / "evaluation" / f"evaluation{stem}.json").write_text(found.to_json())
    if tiles:
        table = {
            n: TileScores(
                np.arange(TILES),
                class_counts_of(m),
                class_counts_of(m),
                np.zeros((TILES, 3, 4), np.int64),
            )
            for n, m in confusions.items()
        }
        text = TileTable(classes, tuple(f"t{i}" for i in range(TILES)), table).to_csv()
        (folder / "evaluation" / f"tiles{stem}.csv").write_text(text)
    config = config or Config()
    config = dataclasses.replace(config, train=dataclasses.replace(config.train, seed=seed))
    config_file.write(config, folder)
    return folder


def other_config(**loss):
    return dataclasses.replace(Config(), loss=dataclasses.replace(Config().loss, **loss))


@pytest.fixture
def runs(tmp_path):
    """Three seeds of one setting, two of another."""
    ours = [make(tmp_path / f"ours{s}", seed=s, better=0.1) for s in (0, 1, 2)]
    plain = [make(tmp_path / f"plain{s}", seed=s, config=other_config(distillation=0.0)) for s in (0, 1, 2)]
    return ours, plain


def miou(seed, scenario, tiles=slice(None), **options):
    return summarize(tile_confusions(seed, scenario, **options)[tiles].sum(0), CLASSES).miou


def test_statistics_equal_a_direct_computation(runs):
    ours, plain = runs
    found = compare_runs([*ours, *plain], baseline=plain, samples=200)
    assert [len(g.group.runs) for g in found.groups] == [3, 3]
    assert found.groups[1].group.differs == ("loss.distillation = 0.1",)
    a = [miou(s, "rgb", better=0.1) for s in (0, 1, 2)]
    b = [miou(s, "rgb") for s in (0, 1, 2)]
    own = found.groups[1].rows["rgb"]["miou"]
    assert (own.mean, own.deviation, own.runs) == (
        pytest.approx(statistics.fmean(a)),
        pytest.approx(np.std(a, ddof=1)),
        3,
    )
    assert found.groups[0].rows["rgb"]["miou"].difference is None
    gaps = [x - y for x, y in zip(a, b, strict=True)]
    assert own.difference.mean == pytest.approx(statistics.fmean(gaps))
    assert (own.difference.deviation, own.difference.pairs) == (pytest.approx(np.std(gaps, ddof=1)), 3)
    drawn = np.random.default_rng(0).integers(0, TILES, (200, TILES))
    wanted = [
        np.mean([miou(s, "rgb", t, better=0.1) for s in (0, 1, 2)])
        - np.mean([miou(s, "rgb", t) for s in (0, 1, 2)])
        for t in drawn
    ]
    assert own.difference.interval == pytest.approx(np.quantile(wanted, [0.025, 0.975]))
    assert own.difference.certain
    average = found.groups[1].rows[AVERAGE]["miou"]
    worst = found.groups[1].rows[WORST]["miou"]
    per_run = [[miou(s, n, better=0.1) for n, _ in NAMES] for s in (0, 1, 2)]
    assert average.mean == pytest.approx(np.mean(per_run))
    assert worst.mean == pytest.approx(np.mean(np.min(per_run, axis=1)))
    assert average.difference.interval is not None
    iou = found.groups[1].rows["ndsm"]["iou/building"]
    each = [
        summarize(tile_confusions(s, "ndsm", better=0.1).sum(0), CLASSES).classes[1].iou for s in (0, 1, 2)
    ]
    assert iou.mean == pytest.approx(statistics.fmean(each))
    assert iou.difference.interval is not None


def test_a_run_against_itself_differs_by_nothing(tmp_path):
    a = make(tmp_path / "a", seed=3)
    b = make(tmp_path / "b", seed=3, config=other_config(side=0.5))
    found = compare_runs([a, b], samples=50)
    difference = found.groups[1].rows["rgb"]["miou"].difference
    assert (difference.mean, difference.interval, difference.pairs) == (0.0, (0.0, 0.0), 1)
    assert not difference.certain


def test_test_time_augmentation_is_another_setting(tmp_path):
    a, b = (make(tmp_path / name, seed=3) for name in "ab")
    path = b / "evaluation" / "evaluation.json"
    path.write_text(dataclasses.replace(Evaluation.load(path), tta=True).to_json())
    assert [g.group.differs for g in compare_runs([a, b], samples=50).groups] == [
        (),
        ("test-time augmentation = True",),
    ]


def test_runs_without_tiles_have_no_interval(tmp_path, runs):
    old = make(tmp_path / "old", seed=7, tiles=False, config=other_config(side=0.0))
    found = compare_runs([*runs[0], old])
    assert found.groups[1].rows["rgb"]["miou"].difference.interval is None
    assert any("no intervals" in n for n in found.notes)
    assert any("not paired by seed" in n for n in found.notes)


def test_same_seed_twice_and_missing_scenarios_are_told(tmp_path):
    a = make(tmp_path / "a", seed=3)
    b = make(tmp_path / "b", seed=3, names=NAMES[:2])
    found = compare_runs([a, b])
    assert len(found.groups) == 1
    assert found.groups[0].rows["ndsm"]["miou"].runs == 1
    assert any("seeds 3, 3" in n for n in found.notes)
    assert any("not in every run" in n and "ndsm" in n for n in found.notes)


def test_command_prints_and_writes(runs, tmp_path, capsys):
    ours, plain = runs
    arguments = ["compare", *map(str, ours), "--baseline", *map(str, plain), "--out", str(tmp_path / "out")]
    assert main(arguments) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[-2:] == [
        str(tmp_path / "out" / "comparison.md"),
        str(tmp_path / "out" / "comparison.json"),
    ]
    assert max(len(line) for line in out.splitlines()[:-2]) <= 100
    found = compare_runs(ours, baseline=plain)
    assert text_comparison(found).strip() in out
    written = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert written["baseline"] == found.groups[0].group.name
    stored = written["groups"][1]["scenarios"]["rgb"]["miou"]
    assert stored["mean"] == found.groups[1].rows["rgb"]["miou"].mean
    assert stored["difference"]["interval"] == list(found.groups[1].rows["rgb"]["miou"].difference.interval)
    assert [r["seed"] for r in written["groups"][0]["runs"]] == [0, 1, 2]
    markdown = (tmp_path / "out" / "comparison.md").read_text()
    assert markdown == markdown_comparison(found)
    assert "F1 of #2" in markdown


def test_which_evaluation_a_workdir_stands_for(tmp_path):
    a = make(tmp_path / "a", seed=0)
    b = make(tmp_path / "b", seed=1, split="validation", stem="-validation")
    c = make(tmp_path / "c", seed=2, split="validation")
    assert compare_runs([b, c], split="validation").groups[0].group.seeds == (1, 2)
    with pytest.raises(Dis2Error, match=f"not evaluated yet: {b}; run dis2 evaluate --workdir {b}$"):
        compare_runs([a, b])
    with pytest.raises(Dis2Error, match=f"run dis2 evaluate --workdir {a} --split validation$"):
        compare_runs([a, b], split="validation")


def test_refusals_name_both(tmp_path, runs, capsys):
    ours, _ = runs
    legend = make(tmp_path / "legend", seed=0, classes=("ground", "house", "tree"))
    split = make(tmp_path / "split", seed=0, split="validation")
    tiles = make(tmp_path / "tiles", seed=0, reference=1)
    for other, message in (
        (legend, "classes of {a}: ground, building, tree; of {b}: ground, house, tree"),
        (split, "split of {a}: test; of {b}: validation"),
        (tiles, "{a} and {b} were not scored on the same tiles (scenario rgb+ndsm: 12 and 12 tiles"),
    ):
        assert main(["compare", str(ours[0]), str(other)]) == 2
        err = capsys.readouterr().err.splitlines()
        a, b = (p / "evaluation" / "evaluation.json" for p in (ours[0], other))
        assert len(err) == 1
        assert message.format(a=a, b=b) in err[0]
    for arguments, message in (
        ([ours[0]], "name at least two runs"),
        ([ours[0], ours[0]], "is given twice"),
        ([ours[0], tmp_path / "nowhere"], "nowhere not found"),
        ([ours[0], ours[1], "--bootstrap", "-1"], "--bootstrap -1: it must be at least 0"),
        ([ours[0], "--baseline", ours[1], runs[1][0]], "differ in more than the seed"),
    ):
        assert main(["compare", *map(str, arguments)]) == 2
        assert message in capsys.readouterr().err


def test_a_table_of_another_evaluation_is_refused(tmp_path, runs):
    ours, plain = runs
    (ours[0] / "evaluation" / "tiles.csv").write_text((plain[0] / "evaluation" / "tiles.csv").read_text())
    with pytest.raises(Dis2Error, match="the evaluation beside it disagree"):
        compare_runs(ours)
    (ours[0] / "evaluation" / "tiles.csv").write_text("a,b\n1,2\n")
    with pytest.raises(Dis2Error, match="is not a table of tiles"):
        compare_runs(ours)
