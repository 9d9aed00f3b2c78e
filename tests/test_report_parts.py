"""What a report is made from: chosen tiles, joined logs, figures, and what a training records of itself."""

from __future__ import annotations

import functools
import importlib.resources
import json
import logging
import math
import re

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from report_case import make_workdir
from tiny_run import Fake, fake_variables

from dis2_jax.config import Config, DataConfig, TrainConfig
from dis2_jax.evaluation.evaluate import evaluate_split
from dis2_jax.evaluation.report.drawing.curves import moving_mean, thin
from dis2_jax.evaluation.report.drawing.render import to_array
from dis2_jax.evaluation.report.drawing.style import SERIES, drawing, ink_on, new_figure, short
from dis2_jax.evaluation.report.history import read_history
from dis2_jax.evaluation.report.inputs import read_inputs
from dis2_jax.evaluation.report.pick import pick_tiles
from dis2_jax.evaluation.report.sections.provenance import provenance
from dis2_jax.evaluation.report.sections.text import duration, quantity
from dis2_jax.evaluation.scoring.tile_table import TileCounts
from dis2_jax.evaluation.validate import SplitValidator
from dis2_jax.schema import Dis2Error
from dis2_jax.sharding.mesh import data_mesh
from dis2_jax.training import environment
from dis2_jax.training.environment import SessionLog, read_sessions
from dis2_jax.training.step import counted_flops

HARDWARE = {"backend": "cpu", "device": "cpu", "devices": 2, "processes": 1}


@st.composite
def tile_counts(draw):
    """Two scenarios over up to 12 tiles of 3 classes; the second lacks some tiles."""
    g = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    total = draw(st.integers(1, 12))
    reference = g.integers(0, 5, (total, 3)) * g.integers(0, 2, (total, 3))
    found = {}
    for name, lost in (("a+b", 0.0), ("a", draw(st.sampled_from([0.0, 0.4, 1.0])))):
        kept = np.flatnonzero(g.random(total) >= lost)
        hit = g.integers(0, reference + 1)
        counts = np.stack([hit, reference, hit + g.integers(0, 4, (total, 3))], axis=1)[kept]
        if len(kept):
            found[name] = TileCounts(tuple(f"t{r}" for r in kept), counts, tuple(int(r) for r in kept))
    return found


def naive_scores(tiles):
    """Record -> (mean over scenarios of mIoU, classes in the reference, scenarios)."""
    found: dict[int, list[float]] = {}
    classes = {}
    for own in tiles.values():
        for record, (hit, reference, predicted) in zip(own.records, own.counts, strict=True):
            ious = [h / (r + p - h) for h, r, p in zip(hit, reference, predicted, strict=True) if r]
            if ious:
                found.setdefault(record, []).append(sum(ious) / len(ious))
                classes[record] = len(ious)
    return {r: (sum(m) / len(m), classes[r], len(m)) for r, m in found.items()}


@settings(max_examples=80)
@given(tile_counts(), st.integers(1, 4))
def test_picked_tiles_keep_the_rule(tiles, count):
    picked = pick_tiles(tiles, ["a+b", "a"], count=count)
    scores = naive_scores(tiles)
    assert len({p.record for p in picked}) == len(picked)
    assert bool(picked) == bool(scores)
    if not scores:
        return
    wanted = [r for r, (_, k, s) in scores.items() if k > 1 and s == 2]
    wanted = wanted or [r for r, (_, _, s) in scores.items() if s == 2] or list(scores)
    assert {p.record for p in picked} <= set(wanted)
    for p in picked:
        assert p.score == pytest.approx(scores[p.record][0])
        assert p.tile_id == f"t{p.record}"
    groups = {g: [p.score for p in picked if p.group == g] for g in ("best", "typical", "worst")}
    each = min(count, max(1, len(wanted) // 3))
    assert [len(groups[g]) for g in ("best", "worst")] == [
        min(each, len(wanted)),
        min(each, max(len(wanted) - each, 0)),
    ]
    ranked = sorted((scores[r][0] for r in wanted), reverse=True)
    assert groups["best"] == pytest.approx(ranked[: len(groups["best"])])
    assert groups["worst"] == pytest.approx(ranked[::-1][: len(groups["worst"])])
    middle = np.median(ranked)
    rest = ranked[len(groups["best"]) : len(ranked) - len(groups["worst"])]
    near = sorted(abs(s - middle) for s in rest)[: len(groups["typical"])]
    assert sorted(abs(s - middle) for s in groups["typical"]) == pytest.approx(near)


def test_resumed_logs_are_joined(tmp_path):
    def line(step, loss, kind="train", **more):
        return json.dumps({"step": step, "kind": kind, "loss": loss, **more})

    lines = [
        line(2, 5.0, tiles_per_second=None),
        line(4, 4.0, tiles_per_second=8.0),
        line(6, 3.0),
        '{"step": 7, "ki',
        line(6, 2.5, tiles_per_second=10.0),  # the step was done again after a kill
        line(8, float("nan")),
        line(6, 0.0, kind="validation", mean_miou=0.4),
        line(8, 0.0, kind="validation", mean_miou=0.4),
        line(4, 0.0, kind="validation", mean_miou=None),
        '{"step": 9}',
    ]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines))
    history = read_history(tmp_path)
    loss = history.curves("train")[0]
    assert (loss.steps.tolist(), loss.values.tolist()) == ([2, 4, 6], [5.0, 4.0, 2.5])
    assert history.speeds.tolist() == [8.0, 10.0]
    assert history.best_step == 6, "the older of two equals, as checkpoints are kept"
    assert read_history(tmp_path / "none").curves("train") == ()


def test_long_curves_are_thinned_and_smoothed_without_a_bias():
    steps = np.arange(10_000.0)
    x, y = thin(steps, 3 * steps)
    assert 300 < len(x) <= 400
    np.testing.assert_allclose(y, 3 * x)
    np.testing.assert_allclose(moving_mean(y), y)
    assert moving_mean(y[:20]) is None


def luminance(color):
    parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return float(np.dot([0.2126, 0.7152, 0.0722], linear))


def contrast(a, b):
    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)


def test_colours_stand_out():
    """WCAG: 4.5 for text, 3 for lines, in both themes; text in cells on every shade."""
    css = (importlib.resources.files("dis2_jax.evaluation.report") / "templates/style.css").read_text()
    light, dark = css.split("prefers-color-scheme: dark")[:2]
    for part in (light, dark[: dark.index("* {")]):
        value = dict(pair.split(": ") for pair in re.findall(r"--\w+: #\w{6}", part))
        for name in ("--ink", "--muted", "--accent"):
            for paper in ("--page", "--card"):
                assert contrast(value[name], value[paper]) >= 4.5, (name, paper)
        assert contrast(value["--ink"], value["--mark"]) >= 4.5
        for i in range(len(SERIES)):
            assert contrast(value[f"--s{i}"], value["--card"]) >= 3, i
    for shade in np.linspace(0, 1, 65):
        color = matplotlib.colormaps["cividis"](shade)
        drawn = "#" + "".join(f"{round(255 * c):02x}" for c in color[:3])
        assert contrast(ink_on(color), drawn) >= 4.5


@given(st.text(max_size=60), st.integers(3, 30))
def test_short_labels_fit_and_can_be_drawn(text, most):
    cut = short(text, most)
    assert len(cut) <= max(most, 3)
    assert not any(ord(c) < 32 for c in cut)


def test_text():
    assert [duration(s) for s in (0.0356, 7.31, 95, 3725)] == ["35.6 ms", "7.3 s", "1 min 35 s", "1 h 2 min"]
    assert quantity(9.692e9, "FLOP") == "9.69 GFLOP"
    assert quantity(12.0, "B") == "12 B"


def test_validation_draws_what_the_report_shows(mini_dataset, mini_card):
    config = Config(data=DataConfig(dir=str(mini_dataset)), train=TrainConfig(panels=2))
    validation = SplitValidator(config, mini_card)(
        Fake(), fake_variables(), mesh=data_mesh(), on_batch=lambda *_: None
    )
    rows = ("rgb+ndsm", "rgb", "ndsm")
    wanted = {"scores", "gaps", "panels", "best_typical_worst"}
    assert set(validation.images) == wanted | {f"{k}/{r}" for k in ("confusion", "calibration") for r in rows}
    for picture in validation.images.values():
        assert picture.dtype == np.uint8
        assert picture.shape[-1] == 3
        assert (picture[0, 0] == 255).all()
        assert picture.std() > 10
    what = (Fake(), fake_variables(), str(mini_dataset), mini_card, DataConfig())
    plain = evaluate_split(*what, split="validation", batch_size=4).evaluation
    assert validation.metric == plain.mean_miou
    assert validation.scalars == {"mean_miou": plain.mean_miou} | {
        f"miou/{s.name}": s.metrics.miou for s in plain.real
    }


def test_array_is_drawn_on_white():
    with drawing():
        figure = new_figure(1, 1)
    assert to_array(figure, dpi=50).shape == (50, 50, 3)


def test_sessions_are_added_up(tmp_path, monkeypatch):
    now = iter([100.0, 100.0, 130.0, 150.0, 500.0, 500.0, 560.0])
    monkeypatch.setattr(environment.time, "monotonic", lambda: next(now))
    first = SessionLog(tmp_path, step=0, batch_size=4, hardware=HARDWARE)
    first.note_flops("rgb", 2e9)
    first.update(step=10)
    first.update(step=20)
    second = SessionLog(tmp_path, step=15, batch_size=4, hardware=HARDWARE)  # five steps were lost
    second.update(step=30)
    a, b = read_sessions(tmp_path)
    assert (a.first_step, a.last_step, a.seconds, a.flops_per_step) == (0, 20, 50.0, {"rgb": 2e9})
    assert (b.first_step, b.last_step, b.seconds, b.tile_steps) == (15, 30, 60.0, 60)
    assert a.versions["jax"] == jax.__version__
    assert a.devices == 2
    assert not list(tmp_path.glob("*.partial"))
    (tmp_path / "environment.json").write_text("{")
    with pytest.raises(Dis2Error, match=r"environment.json is damaged"):
        read_sessions(tmp_path)


def test_report_tells_only_what_was_recorded(tmp_path):
    workdir = tmp_path / "run"
    make_workdir(workdir)

    def facts():
        section = provenance(read_inputs(workdir, say=lambda _: None))
        return {name: v for b in section.blocks if b.kind == "facts" for name, v in b.items}, section

    told, section = facts()
    assert set(told) == {"Speed", "Step"}, "from metrics.jsonl; nothing else was recorded"
    assert told["Speed"].startswith("10.5 tiles/s (median of 12 windows")
    assert told["Step"] == f"{8000 / 10.5:.3g} ms for 8 tiles"
    assert section.blocks[-1].kind == "missing"

    SessionLog(workdir, step=0, batch_size=8, hardware=HARDWARE).update(step=9)
    log = SessionLog(workdir, step=6, batch_size=8, hardware=HARDWARE)
    log.note_flops("rgb, ndsm", 9.692e9)
    log.update(step=12)
    told, section = facts()
    assert told["Tile-steps"].startswith("120 ")
    assert told["Done twice"].startswith("3 steps")
    assert told["FLOPs per step"].startswith("9.69 GFLOP (full and rgb, ndsm")
    speed = quantity(9.692e9 / (8 / 10.5), "FLOP/s")
    assert told["Arithmetic speed"] == speed
    assert told["Energy"] == "not measured"
    assert f"jax {jax.__version__}" in told["Versions"]
    assert section.blocks[-1].caption == "Sessions"


def test_checkout_is_this_one_or_none(tmp_path):
    commit, modified = environment.checkout()
    assert commit is None or (len(commit) == 40 and isinstance(modified, bool))
    assert environment._git(tmp_path, "rev-parse", "HEAD") is None


def test_flops_are_counted_without_a_second_compilation(caplog):
    """The way the loop calls its step: static scenarios, donated state, arrays on a mesh."""

    @functools.partial(jax.jit, static_argnums=2, donate_argnums=0)
    def step(state, batch, scenarios):
        return state @ batch["x"] * len(scenarios), {"loss": jnp.sum(state)}

    mesh = data_mesh()
    put = functools.partial(
        jax.device_put, device=jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    )
    batch = {"x": put(np.eye(32, dtype=np.float32))}
    with jax.log_compiles(), caplog.at_level(logging.WARNING):
        state, _ = step(put(np.eye(32, dtype=np.float32)), batch, ("rgb",))
        before = sum("XLA compilation of jit(step)" in r.message for r in caplog.records)
        flops = counted_flops(step, state, batch, ("rgb",))
        after = sum("XLA compilation of jit(step)" in r.message for r in caplog.records)
    assert (before, after) == (1, 1)
    assert flops is not None
    assert math.isclose(flops, 2 * 32**3, rel_tol=0.1)
    assert counted_flops(lambda *_: None, state, batch, ("rgb",)) is None
