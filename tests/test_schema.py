"""Cards, legends and scenarios: exact round trips, and one clear line for what is wrong."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dis2_jax.schema import CARD_FILE, ClassLegend, DatasetCard, Dis2Error, Modality, Scenario

LEGEND = ClassLegend(("dry", "wet"), ((1, 2, 3), (4, 5, 6)), (0, 255))
CARD = DatasetCard(
    name="toy",
    modalities=(
        Modality("rgb", 3, kind="optical", bands=("r", "g", "b"), mean=(1.5, 2.0, 0.1), std=(1.0, 2.0, 3.0)),
        Modality("ndsm", 1, kind="height", unit="m"),
        Modality("sar", 2, kind="sar"),
    ),
    legend=LEGEND,
    tile=(32, 48),
    splits={"train": 3, "validation": 1},
    ground_sampling_distance=0.25,
    class_pixels={"train": (1, 2, 3)},
)
NAMES = CARD.modality_names


def test_card_survives_its_file(tmp_path):
    (tmp_path / CARD_FILE).write_text(CARD.to_json())
    assert DatasetCard.load(tmp_path) == CARD


@pytest.mark.parametrize(
    "text", ["{", "[]", "{}", '{"modalities": 3}', "null", '{"modalities": [{"name": 1}]}']
)
def test_what_is_no_card_is_refused_with_its_path(tmp_path, text):
    (tmp_path / CARD_FILE).write_text(text)
    with pytest.raises(Dis2Error, match=f"{CARD_FILE}: not a dataset card"):
        DatasetCard.load(tmp_path)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"kind": "optical"', '"kind": "radar"'),
        ('"mean": []', '"mean": ["a"]'),
        ('"train": 3', '"train": "many"'),
    ],
)
def test_values_of_another_kind_are_refused_with_the_path(tmp_path, old, new):
    modalities = (Modality("rgb", 3, kind="optical"), Modality("ndsm", 1))
    text = DatasetCard("x", modalities, LEGEND, (16, 16), {"train": 3}).to_json()
    assert old in text
    (tmp_path / "dataset_card.json").write_text(text.replace(old, new))
    with pytest.raises(Dis2Error, match=r"^\S+dataset_card\.json: "):
        DatasetCard.load(tmp_path)


def test_missing_card_tells_how_to_make_one(tmp_path):
    with pytest.raises(Dis2Error, match="dis2 data prepare"):
        DatasetCard.load(tmp_path)


def test_select_keeps_the_cards_order_and_offers_the_nearest_name():
    assert CARD.select(["sar", "rgb"]).modality_names == ("rgb", "sar")
    assert CARD.select([]) == CARD
    with pytest.raises(Dis2Error, match="did you mean 'ndsm'"):
        CARD.select(["rgb", "dsm"])
    with pytest.raises(Dis2Error, match="at least 2 modalities"):
        CARD.select(["rgb"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"names": ("only",), "colors": ((0, 0, 0),)}, "at least 2 classes, not 1"),
        ({"names": ("a", "a")}, "class names repeat"),
        ({"colors": ((0, 0, 0),)}, "2 classes but 1 colours"),
    ],
)
def test_bad_legends(change, message):
    with pytest.raises(Dis2Error, match=message):
        dataclasses.replace(LEGEND, **change)


@pytest.mark.parametrize("name", ["RGB", "a+b", "", "1st", "a b", "a_to_b", "a_to"])
def test_bad_modality_names(name):
    with pytest.raises(Dis2Error, match=r"use lower-case letters|'to' is kept"):
        Modality(name, 1)


@given(st.lists(st.sampled_from(NAMES), unique=True, min_size=1).flatmap(st.permutations))
def test_scenario_text_round_trip_in_any_order(names):
    scenario = Scenario.parse(" + ".join(names), NAMES)
    assert scenario == Scenario.parse(str(scenario), NAMES)
    assert list(scenario.available) == [n for n in NAMES if n in names]


@pytest.mark.parametrize("text", ["", "rgb+rgb", "rgb+dsm", "+"])
def test_bad_scenarios(text):
    with pytest.raises(Dis2Error):
        Scenario.parse(text, NAMES)


@pytest.mark.parametrize(
    ("spec", "count", "expected"),
    [
        ("default", 2, ["a", "b"]),
        ("all", 2, ["a", "b"]),
        ("single", 3, ["a", "b", "c"]),
        ("drop_one", 3, ["a+b", "a+c", "b+c"]),
        ("default", 3, ["a", "b", "c", "a+b", "a+c", "b+c"]),
        ("c+a, b, a+c", 3, ["a+c", "b"]),
    ],
)
def test_students(spec, count, expected):
    assert [str(s) for s in Scenario.students(spec, "abcd"[:count])] == expected


def test_students_of_many_modalities():
    assert len(Scenario.students("all", "abcd")) == 14
    assert len(Scenario.students("default", "abcd")) == 8


@pytest.mark.parametrize("spec", ["a+b", "", []])
def test_bad_students(spec):
    with pytest.raises(Dis2Error):
        Scenario.students(spec, "ab")
