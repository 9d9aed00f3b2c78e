"""Pictures: the right colours in the right place, titles that do not touch, the model's own maps."""

import dataclasses

import numpy as np
import pytest
from PIL import Image
from tiny_run import Fake, fake_variables

from dis2_jax.config import DataConfig
from dis2_jax.data.pipeline import load_batch
from dis2_jax.data.true_color import shown_bands
from dis2_jax.evaluation.evaluate import evaluate_split
from dis2_jax.evaluation.pictures import render
from dis2_jax.evaluation.pictures.examples import Example, make_examples, spread_tiles
from dis2_jax.evaluation.pictures.panels import draw_panels, panel_array, save_panels
from dis2_jax.schema import IGNORE, ClassLegend, DatasetCard, Dis2Error, Modality, Scenario
from dis2_jax.sharding.mesh import data_mesh

LEGEND = ClassLegend(("dry", "wet", "cloud"), ((250, 240, 200), (0, 0, 255), (0, 255, 0)))


def make(dataset, card, **options):
    options = {"split": "train", "count": 4, "batch_size": 4, **options}
    options["titles"] = spread_tiles(card, split=options["split"], count=options.pop("count"))
    return make_examples(Fake(), fake_variables(), str(dataset), card, DataConfig(), **options)


def test_examples_are_the_tiles_and_the_models_own_maps(mini_dataset, mini_card):
    examples = make(mini_dataset, mini_card, count=10, batch_size=4)
    assert [e.title for e in examples] == [f"train tile {i}" for i in range(10)]
    batch = load_batch(mini_dataset, mini_card, DataConfig(), split="train", indices=range(10))
    weights = fake_variables()["params"]
    for i, e in enumerate(examples):
        np.testing.assert_array_equal(e.reference, batch["label"][i])
        for name, got in e.predictions.items():
            if i == 2 and name != "rgb":
                assert got is None, "no height in this tile"
                continue
            x = np.concatenate([batch["image"][m][i] for m in name.split("+")], -1)
            np.testing.assert_array_equal(got, (x @ weights[name]).argmax(-1))
    assert set(examples[2].images) == {"rgb"}
    assert 0 <= examples[0].images["rgb"].min() <= examples[0].images["rgb"].max() <= 255.1, "physical units"


def test_examples_are_spread_and_never_repeat(mini_dataset, mini_card):
    assert [e.title for e in make(mini_dataset, mini_card, count=2)] == ["train tile 0", "train tile 9"]
    assert len(make(mini_dataset, mini_card, split="test", count=50)) == 3
    with pytest.raises(Dis2Error, match="no split 'tset'"):
        make(mini_dataset, mini_card, split="tset")


def test_examples_compile_nothing_after_an_evaluation(mini_dataset, mini_card, monkeypatch):
    options = {"split": "train", "batch_size": 5, "mesh": data_mesh()}
    evaluate_split(Fake(), fake_variables(), str(mini_dataset), mini_card, DataConfig(), **options)
    monkeypatch.setattr(Fake, "predict", lambda *_, **__: pytest.fail("traced again"))
    assert len(make(mini_dataset, mini_card, **options, count=6)) == 6


def test_class_and_error_colours():
    labels = np.full((32, 32), IGNORE)
    labels[:8], labels[8:16] = 0, 2
    picture = render.render_classes(labels, LEGEND)
    assert (picture[:8] == LEGEND.colors[0]).all()
    assert (picture[8:16] == LEGEND.colors[2]).all()
    assert len(np.unique(picture[16:].reshape(-1, 3), axis=0)) == 2, "hatched: two greys"
    prediction = np.zeros((32, 32), int)
    errors = render.render_errors(prediction, labels)
    assert (errors[:8] == render.CORRECT).all()
    assert (errors[8:16] == render.WRONG).all()
    np.testing.assert_array_equal(errors[16:], picture[16:])


@pytest.mark.parametrize(
    ("modality", "bands"),
    [
        (Modality("a", 3), (0, 1, 2)),
        (Modality("a", 4, bands=("B02", "B03", "B04", "B08")), (2, 1, 0)),
        (Modality("a", 4, kind="optical"), (0, 1, 2)),
        (Modality("a", 3, kind="sar"), (0,)),
        (Modality("a", 2, kind="optical"), (0,)),
    ],
)
def test_every_kind_of_raster_can_be_drawn(modality, bands):
    assert shown_bands(modality) == bands
    x = np.random.default_rng(0).normal(size=(20, 30, modality.channels))
    picture = render.render_modality(x, modality)
    assert (picture.shape, picture.dtype) == ((20, 30, 3), np.uint8)
    assert picture.min() < 60
    assert picture.max() > 200


def test_stretch_bears_outliers_and_flat_tiles():
    x = np.linspace(0, 1, 1000)
    x[-1] = 1e6
    assert render.stretch(x)[500] == pytest.approx(0.5, abs=0.02)
    assert (render.stretch(np.full((4, 4), 7.0)) == 0.5).all()
    x = np.zeros(1000)
    x[0] = 3
    assert (render.stretch(x)[:2] == (1, 0)).all()


def example(card, scenarios, size=(64, 96), title="test tile 12345"):
    g = np.random.default_rng(1)
    reference = np.kron(g.integers(0, 3, (size[0] // 16, size[1] // 16)), np.ones((16, 16))).astype(int)
    predictions = {s: reference.copy() for s in scenarios}
    reference[:5] = IGNORE
    predictions[scenarios[-1]] = None
    images = {m.name: g.normal(size=(*size, m.channels)) * 1000 for m in card.modalities}
    return Example(title=title, images=images, reference=reference, predictions=predictions)


def many_modalities():
    unit = "backscatter, decibels"
    modalities = tuple(
        Modality(f"sentinel{i}_{when}", i, kind="sar" if i == 2 else "optical", unit=unit)
        for i in (2, 12)
        for when in ("before", "after")
    )
    names = tuple(m.name for m in modalities)
    scenarios = ["+".join(names), *(str(s) for s in Scenario.students("default", names))]
    return DatasetCard("d", modalities, LEGEND, (64, 96), {"test": 1}), scenarios


def overlaps(figure):
    """Pairs of texts of a drawn figure that touch, and texts that leave the page."""
    renderer = figure.canvas.get_renderer()
    texts = [t for axes in figure.axes for t in (axes.title, *axes.texts)]
    texts += figure.texts + [t for legend in figure.legends for t in legend.get_texts()]
    boxes = [(t.get_text(), t.get_window_extent(renderer)) for t in texts if t.get_text()]
    page = figure.bbox
    outside = [a for a, x in boxes if x.x0 < 0 or x.y0 < 0 or x.x1 > page.x1 or x.y1 > page.y1]
    return outside + [(a, b) for i, (a, x) in enumerate(boxes) for b, y in boxes[i + 1 :] if x.overlaps(y)]


@pytest.mark.parametrize(
    ("low", "high", "told"),
    [(-1e-6, 255.0001, "0 to 255"), (-0.2, 11.99, "-0.2 to 12"), (-123.4, 0.05, "-123 to 0.1")],
)
def test_the_range_of_one_band_is_short(mini_card, low, high, told):
    e = example(mini_card, ["rgb+ndsm", "rgb", "ndsm"])
    height = np.full(e.images["ndsm"].shape, low, np.float32)
    height[0, 0] = high
    figure = draw_panels([dataclasses.replace(e, images={**e.images, "ndsm": height})], mini_card)
    titles = [" ".join(axes.get_title().split()) for axes in figure.axes]
    assert any(f" {told} m" in title for title in titles), titles


@pytest.mark.parametrize("size", [(32, 32), (64, 96), (256, 256), (16, 512)])
def test_no_text_touches_another(size):
    card, scenarios = many_modalities()
    figure = draw_panels([example(card, scenarios, size), example(card, scenarios, size)], card)
    figure.canvas.draw()
    assert not overlaps(figure)


def test_forty_classes_fit_below(mini_card):
    names = tuple(f"a rather long class name {i}" for i in range(40))
    legend = ClassLegend(names, tuple((i, 2 * i, 255 - i) for i in range(40)))
    card = dataclasses.replace(mini_card, legend=legend)
    e = example(card, ["rgb+ndsm", "rgb", "ndsm"])
    reference = np.arange(64 * 96).reshape(64, 96) % 40
    figure = draw_panels([dataclasses.replace(e, reference=reference)], card)
    figure.canvas.draw()
    assert not overlaps(figure)


def test_sheets_on_disk_and_the_array(mini_dataset, mini_card, tmp_path):
    examples = make(mini_dataset, mini_card, count=5)
    (tmp_path / "train-9.png").write_text("from an older run")
    (tmp_path / "train-notes.png").write_text("somebody's")
    paths = save_panels(examples, mini_card, tmp_path, stem="train")
    assert [p.name for p in paths] == ["train-1.png", "train-2.png"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["train-1.png", "train-2.png", "train-notes.png"]
    with Image.open(paths[0]) as one, Image.open(paths[1]) as two:
        assert one.width == two.width
        assert one.height > 2 * two.height
    array = panel_array(examples[:2], mini_card)
    assert array.dtype == np.uint8
    assert array.ndim == 3
    assert array.shape[-1] == 3
    blue = (array == mini_card.legend.colors[1]).all(-1)
    assert blue.mean() > 0.01, "the class building is blue"
