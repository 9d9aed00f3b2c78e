"""Scene by scene: places of tiles, stitching with overlap, and the whole pass over a split."""

import dataclasses
import json

import numpy as np
import pytest
from conftest import MINI_SPEC
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_run import Fake, fake_variables

from dis2_jax.config import DataConfig
from dis2_jax.data.builders.tiles import Tile
from dis2_jax.data.builders.writer import write_dataset
from dis2_jax.data.places import PLACES_FILE, Place, any_overlap, load_places, reading_order
from dis2_jax.evaluation.evaluate import evaluate_split
from dis2_jax.evaluation.results import Evaluation
from dis2_jax.evaluation.scoring.boundaries import near_other_class
from dis2_jax.evaluation.scoring.measure import measure_split
from dis2_jax.evaluation.scoring.measures import Calibration
from dis2_jax.evaluation.scoring.metrics import confusion_matrix
from dis2_jax.evaluation.scoring.ruler import CONFIDENCE_ONE, MeasureOptions, Ruler
from dis2_jax.evaluation.scoring.scenes import SceneScorer, TileMaps
from dis2_jax.evaluation.scoring.tile_table import read_tile_counts
from dis2_jax.schema import IGNORE, ClassLegend, DatasetCard, Dis2Error
from dis2_jax.sharding.mesh import data_mesh

T = 32
SIZE = (72, 56)


def cut(scene_id, size, step):
    """Places of overlapping tiles, clipped at the lower and right edge."""
    starts = [range(0, max(n - (T - step), 1), step) for n in size]
    return [
        Place(scene_id, y, x, min(T, size[0] - y), min(T, size[1] - x)) for y in starts[0] for x in starts[1]
    ]


@settings(max_examples=30)
@given(
    st.sampled_from([8, 20, T]), st.integers(33, 90), st.integers(33, 90), st.integers(0, 999), st.booleans()
)
def test_stitching_averages_probabilities(step, height, width, seed, gap):
    """Against whole-scene sums in float64; a scenario that lacks some tiles is scored where it has one."""
    g = np.random.default_rng(seed)
    k, places = 4, [*cut("b", (height, width), step), *cut("a", (40, 50), step)]
    truth = {"a": g.integers(0, k, (40, 50)), "b": g.integers(0, k, (height, width))}
    truth["b"][g.random((height, width)) < 0.1] = IGNORE
    ruler = Ruler.of(MeasureOptions(), ClassLegend(tuple("wxyz"), ((0, 0, 0),) * k))
    scorer = SceneScorer(["all", "some"], places, ruler)
    sums = {n: {s: np.zeros((*t.shape, k)) for s, t in truth.items()} for n in ("all", "some")}
    cover = {n: {s: np.zeros(t.shape, int) for s, t in truth.items()} for n in ("all", "some")}
    for i in reading_order(places):
        p = places[i]
        probabilities = g.dirichlet(np.ones(k), (T, T)).astype(np.float32)
        label = np.full((T, T), IGNORE)
        at = (slice(p.row, p.row + p.height), slice(p.col, p.col + p.width))
        label[: p.height, : p.width] = truth[p.scene][at]
        confidence = np.rint(probabilities.max(-1) * np.float32(CONFIDENCE_ONE)).astype(np.uint16)
        blended = any_overlap(places)
        maps = TileMaps(
            probabilities.argmax(-1).astype(np.uint8), confidence, probabilities if blended else None
        )
        users = ["all"] if gap and g.random() < 0.3 else ["all", "some"]
        scorer.add(i, label, {n: maps for n in users})
        for n in users:
            sums[n][p.scene][at] += probabilities[: p.height, : p.width]
            cover[n][p.scene][at] += 1
    found = scorer.results(tuple("wxyz"))
    for name, scenes in found.items():
        wanted = {}
        for s, t in truth.items():
            label = np.where(cover[name][s] > 0, t, IGNORE)
            wanted[s] = confusion_matrix(label, sums[name][s].argmax(-1), num_classes=k)
        got = {s.name: np.array(s.confusion) for s in scenes.each}
        assert list(got) == sorted(got)
        for s, confusion in got.items():
            np.testing.assert_array_equal(confusion, wanted[s])
        np.testing.assert_array_equal(scenes.confusion, sum(got.values()))
        mean = {s: sums[name][s] / np.maximum(cover[name][s], 1)[..., None] for s in truth}
        confidence = sum(mean[s].max(-1)[(cover[name][s] > 0) & (truth[s] != IGNORE)].sum() for s in got)
        binned = sum(b.count * b.confidence for b in scenes.calibration.bins if b.count)
        assert binned == pytest.approx(confidence, rel=1e-5)
        assert scenes.metrics.pixels == sum(b.count for b in scenes.calibration.bins)
    assert found["all"].metrics.pixels == sum((t != IGNORE).sum() for t in truth.values())


def test_overlap_and_order():
    places = cut("b", SIZE, 20) + cut("a", SIZE, T)
    assert [places[i].scene for i in reading_order(places)][:6] == ["a"] * 6
    assert any_overlap(places)
    assert not any_overlap(cut("a", SIZE, T) + cut("b", SIZE, T))
    assert not any_overlap([])


def test_tiles_that_disagree_are_refused():
    ruler = Ruler.of(MeasureOptions(), MINI_SPEC.legend)
    scorer = SceneScorer(["all"], [Place("s", 0, 0, T, T), Place("s", 0, 16, T, T)], ruler)
    maps = {"all": TileMaps(np.zeros((T, T), np.uint8), np.zeros((T, T), np.uint16))}
    scorer.add(0, np.zeros((T, T), int), maps)
    with pytest.raises(Dis2Error, match="scene 's': tiles that overlap at row 0, column 16"):
        scorer.add(1, np.ones((T, T), int), maps)


def scene_tiles(split, *, shuffled=False):
    """Two scenes, overlapping tiles; one tile lacks the height."""
    g = np.random.default_rng(4)
    tiles = []
    for name in ("north", "south"):
        label = np.kron(g.integers(0, 3, (18, 14)), np.ones((4, 4))).astype(np.uint8)
        label[:2] = IGNORE
        rgb = (60 * label[..., None] + g.integers(0, 60, (*SIZE, 3))).astype(np.uint8)
        ndsm = (label[..., None] + g.normal(0, 1, (*SIZE, 1))).astype(np.float32)
        for p in cut(name, SIZE, 24):
            pad = [(0, T - p.height), (0, T - p.width)]
            at = (slice(p.row, p.row + p.height), slice(p.col, p.col + p.width))
            images = {"rgb": rgb, "ndsm": ndsm}
            images = {m: np.pad(x[at], [*pad, (0, 0)], mode="symmetric") for m, x in images.items()}
            if (name, p.row, p.col) == ("south", 24, 0):
                del images["ndsm"]
            own = np.pad(label[at], pad, constant_values=IGNORE)
            if not (own == IGNORE).all():
                tiles.append(Tile(f"{split}-{name}_{p.row}_{p.col}", images, own, place=p))
    if shuffled:
        np.random.default_rng(1).shuffle(tiles)
    return tiles


@pytest.fixture(scope="module")
def datasets(tmp_path_factory):
    """The same tiles, as cut and in another order."""
    folder = tmp_path_factory.mktemp("scenes")
    for name, shuffled in (("cut", False), ("shuffled", True)):
        splits = {s: scene_tiles(s, shuffled=shuffled and s == "test") for s in ("train", "test")}
        write_dataset(MINI_SPEC, splits, folder / name)
    return folder


def measure(folder, **options):
    card = DatasetCard.load(folder)
    options = {"split": "test", "batch_size": 4, "options": MeasureOptions(samples=50), **options}
    return measure_split(Fake(), fake_variables(), str(folder), card, DataConfig(), **options)


def assert_same(a, b):
    """All counts; confidences up to the last bits of softmax, which depend on the batch shape."""
    assert [_uncalibrated(s) for s in a.scenarios] == [_uncalibrated(s) for s in b.scenarios]
    for s, t in zip(a.scenarios, b.scenarios, strict=True):
        for c, d in ((s.calibration, t.calibration), (s.scenes.calibration, t.scenes.calibration)):
            assert [x.count for x in c.bins] == pytest.approx([x.count for x in d.bins], abs=2)
            assert c.ece == pytest.approx(d.ece, abs=1e-3)


def _uncalibrated(s):
    return dataclasses.replace(
        s, calibration=None, scenes=dataclasses.replace(s.scenes, calibration=Calibration(()))
    )


def test_batch_size_mesh_and_order_change_nothing(datasets):
    one = measure(datasets / "cut", baselines=True)
    assert one.outputs == "probabilities"
    assert one.evaluation.no_scenes is None
    assert [len(s.scenes.each) for s in one.evaluation.scenarios] == [2] * 5
    for options in ({"batch_size": 3}, {"batch_size": 5, "mesh": data_mesh()}):
        again = measure(datasets / "cut", baselines=True, **options)
        assert_same(again.evaluation, one.evaluation)
        assert again.tiles.to_csv() == one.tiles.to_csv()
    other = measure(datasets / "shuffled", baselines=True)
    assert_same(other.evaluation, one.evaluation)
    assert other.tiles.tile_ids != one.tiles.tile_ids


def test_the_pass_agrees_with_the_plain_evaluation(datasets, tmp_path):
    folder = datasets / "cut"
    found = measure(folder, baselines=True)
    card = DatasetCard.load(folder)
    plain = evaluate_split(
        Fake(), fake_variables(), str(folder), card, DataConfig(), split="test", batch_size=4, baselines=True
    )
    for a, b in zip(found.evaluation.scenarios, plain.evaluation.scenarios, strict=True):
        assert (a.name, a.tiles, a.confusion) == (b.name, b.tiles, b.confusion)
        assert a.calibration == b.calibration
        assert sum(x.count for x in a.calibration.bins) == a.metrics.pixels
    assert Evaluation.from_json(found.evaluation.to_json()) == found.evaluation
    (tmp_path / "tiles.csv").write_text(found.tiles.to_csv())
    tiles = read_tile_counts(tmp_path / "tiles.csv", card.legend.names)
    for s in found.evaluation.scenarios:
        assert len(tiles[s.name].tile_ids) == s.tiles
        by_record = dict(zip(plain.tiles[s.name].records, plain.tiles[s.name].counts, strict=True))
        for record, counts in zip(tiles[s.name].records, tiles[s.name].counts, strict=True):
            np.testing.assert_array_equal(by_record[record], counts)
        np.testing.assert_array_equal(tiles[s.name].counts.sum(0)[0], np.diagonal(s.confusion))
    assert tiles["rgb"].tile_ids[0] == "test-north_0_0"


def test_scenes_count_every_pixel_once(datasets):
    found = measure(datasets / "cut").evaluation
    scene_pixels = 2 * (SIZE[0] - 2) * SIZE[1]
    assert found.scenario("rgb").scenes.metrics.pixels == scene_pixels
    assert found.scenario("rgb").metrics.pixels > scene_pixels, "tiles overlap"
    lost = scene_pixels - found.full.scenes.metrics.pixels
    assert 0 < lost < T * T, "only where no tile with height lies"


def test_exclusion_leaves_the_class_out(datasets):
    found = measure(
        datasets / "cut", options=MeasureOptions(exclude=("tree",), samples=20, erode=2)
    ).evaluation
    whole = measure(datasets / "cut", options=MeasureOptions(samples=0, erode=2)).evaluation
    assert found.excluded == ("tree",)
    for a, b in zip(found.scenarios, whole.scenarios, strict=True):
        assert a.confusion == (*b.confusion[:2], (0, 0, 0))
        assert a.eroded.confusion == (*b.eroded.confusion[:2], (0, 0, 0))
        assert a.excluded_pixels == sum(b.confusion[2])
        assert a.metrics.miou == pytest.approx(sum(c.iou for c in a.metrics.classes[:2]) / 2)
        assert a.scenes.confusion == (*b.scenes.confusion[:2], (0, 0, 0))
        assert a.intervals.iou[2] is None
        assert b.intervals is None


def test_eroded_pixels_of_tiles(datasets):
    found = measure(datasets / "cut").evaluation.scenario("rgb")
    pixels = 0
    for tile in scene_tiles("test"):
        away = ~near_other_class(tile.label, radius=3, num_classes=3)
        pixels += int((away & (tile.label != IGNORE)).sum())
    assert found.eroded.metrics.pixels == pixels


def test_old_datasets_have_no_scenes_and_damaged_places_are_refused(datasets, tmp_path, mini_dataset):
    assert not (mini_dataset / PLACES_FILE).exists()
    found = measure(mini_dataset).evaluation
    assert found.full.scenes is None
    assert "does not say where the tiles" in found.no_scenes
    assert "\n" not in found.no_scenes
    stored = json.loads((datasets / "cut" / PLACES_FILE).read_text())
    (tmp_path / PLACES_FILE).write_text(json.dumps(stored))
    tiles = len(stored["test"]["tiles"])
    assert load_places(tmp_path, "test", tiles=tiles) == tuple(t.place for t in scene_tiles("test"))
    assert load_places(tmp_path, "validation", tiles=3) is None
    with pytest.raises(Dis2Error, match=f"holds {tiles} tiles of split 'test', not 3"):
        load_places(tmp_path, "test", tiles=3)
    (tmp_path / PLACES_FILE).write_text('{"test": {"scenes": [], "tiles": [[0, 1]]}}')
    with pytest.raises(Dis2Error, match="cannot be read"):
        load_places(tmp_path, "test", tiles=1)


def test_output_that_is_not_finite_is_an_error(mini_dataset, mini_card):
    variables = fake_variables()
    variables["params"]["ndsm"][0, 0] = np.nan
    options = {"split": "test", "batch_size": 2, "options": MeasureOptions()}
    with pytest.raises(Dis2Error, match=r"scenario ndsm: .* pixels could not be counted"):
        measure_split(Fake(), variables, str(mini_dataset), mini_card, DataConfig(), **options)
