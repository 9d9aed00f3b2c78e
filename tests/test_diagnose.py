"""Diagnostics on a stand-in whose student is the full branch itself, so that every number is known."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from tiny_run import Fake, fake_variables, stand_in_run

from dis2_jax.cli.main import main
from dis2_jax.data.pipeline import eval_batches
from dis2_jax.evaluation.chosen import Choice, choose_tiles, open_study
from dis2_jax.evaluation.diagnostics.attention import attention_on, overlay
from dis2_jax.evaluation.diagnostics.cka import StreamingCKA
from dis2_jax.evaluation.diagnostics.compare import compare_branches
from dis2_jax.evaluation.diagnostics.results import LEVELS, Diagnostics
from dis2_jax.evaluation.diagnostics.tables import text_report
from dis2_jax.evaluation.scoring.metrics import confusion_matrix
from dis2_jax.models.dis2 import BranchOutput
from dis2_jax.schema import Dis2Error

STAND_IN = 0.5
"""What compensation puts into a missing slot: this times the first available channel."""


class Linear(Fake):
    """Slots are the images, and every branch is the full one: logits are linear in all slots."""

    def slots(self, images, *, scenario, fill="compensation"):
        first = images[scenario.available[0]][..., :1]
        filled = []
        for name, channels in self.modalities:
            if name in scenario.available or fill == "specific":
                filled.append([images[name]])
            else:
                value = STAND_IN * first if fill == "compensation" else jnp.zeros_like(first)
                filled.append([jnp.repeat(value, channels, axis=-1)])
        return filled

    def answer(self, slots, *, scenario):
        x = jnp.concatenate([s[0] for s in slots], axis=-1)
        b, h, w, c = x.shape
        maps = [x.reshape(b, h // f, f, w // f, f, c).mean((2, 4)) for f in (2, 4, 8, 16)]
        logits = x @ self.variables["params"]["rgb+ndsm"]
        return BranchOutput(
            logits=logits,
            penultimate=x,
            side_logits=[],
            maps=maps,
            token=x.mean((1, 2)),
            attention=jnp.full((b, self.num_classes, h // 16, w // 16), 4.0),
        )


@pytest.fixture
def workdir(tmp_path, monkeypatch, mini_dataset, mini_card):
    """Folder of a run whose network is the stand-in."""
    run = stand_in_run(Linear(), card=mini_card, dataset=mini_dataset)
    monkeypatch.setattr("dis2_jax.evaluation.chosen.load_eval_variables", lambda *_: run)
    return tmp_path


def study(workdir, **choice):
    return open_study(workdir, Choice(**{"split": "train", **choice}))


def by_hand(dataset, card, config, fill):
    """Full-resolution features of the rgb student and the full branch on complete tiles, and its confusion."""
    weights = fake_variables()["params"]["rgb+ndsm"]
    sides, total = [], np.zeros((3, 3), np.int64)
    for batch in eval_batches(dataset, card, config, split="train", batch_size=1):
        if not batch["available"].all():
            continue
        rgb, ndsm = batch["image"]["rgb"][0], batch["image"]["ndsm"][0]
        missing = {"compensation": STAND_IN * rgb[..., :1], "zeros": 0 * ndsm, "specific": ndsm}[fill]
        x, y = (np.concatenate([rgb, part], -1) for part in (missing, ndsm))
        sides.append((x.reshape(-1, 4), y.reshape(-1, 4)))
        total += confusion_matrix(batch["label"][0], (x @ weights).argmax(-1), num_classes=3)
    x, y = (np.concatenate(s).astype(np.float64) for s in zip(*sides, strict=True))
    return x, y, total


@pytest.mark.parametrize("fill", ["compensation", "zeros", "specific"])
def test_equals_the_whole_matrices(workdir, mini_dataset, mini_card, fill):
    s = study(workdir)
    found = compare_branches(s, positions=10_000, pictures=0).diagnostics
    x, y, total = by_hand(mini_dataset, mini_card, s.data, fill)
    assert found.tiles == 9, "one train tile has no height"
    np.testing.assert_array_equal(found.score("rgb", fill).confusion, total)
    got = found.similarity("rgb", "penultimate", fill)
    size = np.linalg.norm(y, axis=1)
    wanted = (np.linalg.norm(x - y, axis=1) / size).mean()
    assert got.relative_l2 == pytest.approx(wanted, rel=1e-4, abs=1e-7)
    cosine = (x * y).sum(1) / (np.linalg.norm(x, axis=1) * size)
    assert got.cosine_distance == pytest.approx((1 - cosine).mean(), rel=1e-4, abs=1e-6)
    x, y = x - x.mean(0), y - y.mean(0)
    cka = np.sum((x.T @ y) ** 2) / np.sqrt(np.sum((x.T @ x) ** 2) * np.sum((y.T @ y) ** 2))
    assert got.cka == pytest.approx(cka, rel=1e-6)
    assert got.distance_positions == got.cka_positions == 9 * 32 * 32
    if fill == "specific":
        for level in LEVELS:
            same = found.similarity("rgb", level, fill)
            assert same.cka == pytest.approx(1)
            assert same.relative_l2 == 0
            assert same.cosine_distance == pytest.approx(0, abs=1e-6)
        assert found.score("rgb", fill).confusion == found.full.confusion


def test_batch_size_changes_nothing_and_positions_are_seeded(workdir):
    one = compare_branches(study(workdir), positions=20, pictures=0).diagnostics
    other = compare_branches(study(workdir, batch_size=7), positions=20, pictures=0).diagnostics
    assert other.scores == one.scores
    for a, b in zip(one.similarities, other.similarities, strict=True):
        values = [dataclasses.asdict(s) for s in (a, b)]
        assert values[0] == {
            k: pytest.approx(v, abs=1e-6) if isinstance(v, float) else v for k, v in values[1].items()
        }
    assert one.similarity("rgb", "f1").cka_positions == 9 * 20
    assert one.similarity("rgb", "f4").cka_positions == 9 * 4, "all there are"
    seeded = compare_branches(study(workdir, seed=1), positions=20, pictures=0).diagnostics
    assert seeded.scores == one.scores
    assert seeded.similarity("rgb", "f1").cka != one.similarity("rgb", "f1").cka


def test_memory_does_not_grow_with_tiles():
    cka = StreamingCKA()
    sizes = []
    for _ in range(3):
        cka.add(np.random.default_rng(0).normal(size=(50, 4)), np.ones((50, 3)))
        sizes.append(
            sum(v.nbytes for s in cka._sums.values() for v in vars(s).values() if hasattr(v, "nbytes"))
        )
    assert len(set(sizes)) == 1


def test_tiles_of_a_seeded_order(workdir):
    assert sorted(choose_tiles(10, count=None, seed=0)) == list(range(10))
    assert choose_tiles(10, count=4, seed=0) == choose_tiles(10, count=None, seed=0)[:4]
    assert choose_tiles(10, count=10, seed=1) != choose_tiles(10, count=10, seed=0)
    seen = []
    found = compare_branches(study(workdir, tiles=5), pictures=2, on_batch=lambda *n: seen.append(n))
    assert seen == [(2, 5), (4, 5), (5, 5)]
    assert len(found.examples) == 2
    assert {e.index for e in found.examples} <= set(study(workdir, tiles=5).indices)
    assert set(found.examples[0].attention) == {"rgb+ndsm", "rgb", "ndsm"}


def test_output_that_is_not_finite_is_an_error(workdir):
    spoiled = {"params": {**fake_variables()["params"]}}
    spoiled["params"]["rgb+ndsm"] = np.full((4, 3), np.nan, np.float32)
    with pytest.raises(Dis2Error, match=r"scenario rgb\+ndsm: .* not finite on 2048 pixels"):
        compare_branches(dataclasses.replace(study(workdir, split="test"), variables=spoiled))


def test_overlay_and_share_on_a_class():
    attention = np.array([[0.4, 0.1], [0.4, 0.1]])
    picture = np.full((8, 8, 3), 100, np.uint8)
    drawn = overlay(picture, attention, (255, 0, 0))
    assert drawn[0, 0].tolist() == [round(50 * 0.1 + 255 * 0.9), 5, 5]
    assert (drawn[:, :4, 0] > drawn[:, 4:, 0]).all()
    mask = np.zeros((8, 8), bool)
    mask[:4, :4] = True
    assert attention_on(attention, mask) == pytest.approx(0.4)
    mask[:4, :2] = False
    assert attention_on(attention, mask) == pytest.approx(0.2), "half of a cell"


def test_command(workdir, capsys):
    folder = workdir / "evaluation"
    (folder / "attention").mkdir(parents=True)
    old = folder / "attention" / "diagnostics-test-tile-77.png"
    old.touch()
    assert main(["diagnose", "--workdir", str(workdir), "--pictures", "2"]) == 0
    out = capsys.readouterr().out
    found = Diagnostics.load(folder / "diagnostics.json")
    assert (found.split, found.tiles, found.step, found.seed) == ("test", 3, 12, 6)
    assert text_report(found).strip() in out
    assert len(found.attention) == 2
    for name in found.attention:
        with Image.open(folder / name) as picture:
            assert min(picture.size) > 500
    assert not old.exists(), "of an earlier diagnosis"
    told = (folder / "diagnostics.md").read_text()
    assert all(f"]({name})" in told for name in found.attention)
    assert main(["diagnose", "--workdir", str(workdir), "--split", "validation", "--pictures", "0"]) == 0
    assert Diagnostics.load(folder / "diagnostics-validation.json").tiles == 4
    assert all((folder / name).exists() for name in found.attention)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tiles", "0"], "--tiles 0: it must be at least 1"),
        (["--positions", "0"], "--positions 0: it must be at least 1"),
        (["--pictures", "-1"], "--pictures -1: it must be at least 0"),
        (["--seed", "-1"], "--seed -1: it must not be negative"),
        (["--split", "tst"], "no split 'tst' (did you mean 'test'?)"),
        (["--tlies", "3"], "unknown argument '--tlies' (did you mean '--tiles'?)"),
    ],
)
def test_bad_arguments_are_one_line(workdir, capsys, arguments, message):
    assert main(["diagnose", "--workdir", str(workdir), *arguments]) == 2
    err = capsys.readouterr().err.strip().splitlines()[-1]
    assert err.startswith("dis2: error: ")
    assert message in err


def test_no_complete_tile(workdir, mini_card):
    s = study(workdir)
    alone = next(i for i in range(10) if not s.source[i]["available"].all())
    with pytest.raises(Dis2Error, match="none of the 1 tiles read has every modality"):
        compare_branches(dataclasses.replace(s, indices=(alone,)))
