"""Config files, overrides, and what a resumed run may change."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from dis2_jax import config_file
from dis2_jax.config import Config, TrainConfig
from dis2_jax.schema import Dis2Error
from dis2_jax.training.workdir import MAY_CHANGE

CONFIGS = sorted((Path(__file__).parents[1] / "configs").glob("*.py"))
DEMO = next(p for p in CONFIGS if p.stem == "demo")

RELEASED = {
    "data.normalize": "none",
    "model.position": "table",
    "model.class_scale": "sum",
    "model.pool": "attention",
    "loss.cross_entropy": "released",
    "loss.dice": "released",
    "loss.distill_reduction": "mean",
    "loss.distillation": 5.0,
    "optimizer.name": "sgd",
    "optimizer.momentum": 0.99,
    "optimizer.schedule": "cosine_restarts",
    "optimizer.accumulate": 2,
    "optimizer.accumulate_first": "half",
    "train.scenarios": "sampled",
}


def value(config: Config, key: str) -> object:
    section, name = key.split(".")
    return getattr(getattr(config, section), name)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_every_config_loads_in_both_recipes(path: Path) -> None:
    assert config_file.load(path).recipe == "ours"
    released = config_file.load(path, ["--config.recipe=released", "--config.train.steps=7"])
    assert released.recipe == "released"
    assert released.train.steps == 7
    assert {k: value(released, k) for k in RELEASED} == RELEASED


def test_recipe_is_applied_before_the_other_overrides() -> None:
    given = ["--config.optimizer.name=adamw", "--config.recipe=released"]
    assert config_file.load(DEMO, given).optimizer.name == "adamw"


@pytest.mark.parametrize(
    ("argument", "key", "expected"),
    [
        ("--config.optimizer.learning_rate=3e-4", "optimizer.learning_rate", 3e-4),
        ("--config.optimizer.learning_rate=1", "optimizer.learning_rate", 1.0),
        ("--config.data.flip=false", "data.flip", False),
        ("--config.data.crop=64,32", "data.crop", (64, 32)),
        ("--config.data.crop=(64, 32)", "data.crop", (64, 32)),
        ("--config.data.modalities=a,b", "data.modalities", ("a", "b")),
        ("--config.data.modalities=('a',)", "data.modalities", ("a",)),
        ("--config.data.modalities=", "data.modalities", ()),
        ("--config.train.scenario_weights=0.6,1", "train.scenario_weights", (0.6, 1.0)),
        ("--config.model.students=rgb,ndsm", "model.students", "rgb,ndsm"),
        ("--config.data.dir=/a=b", "data.dir", "/a=b"),
    ],
)
def test_override_reads_the_type_of_its_key(argument: str, key: str, expected: object) -> None:
    found = value(config_file.load(DEMO, [argument]), key)
    assert found == expected
    assert type(found) is type(expected)


def test_override_takes_the_next_argument_as_value() -> None:
    assert config_file.load(DEMO, ["--config.train.steps", "5"]).train.steps == 5


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("--config.train.stepz=5", "'train.stepz' (did you mean 'train.steps'?)"),
        ("--config.trian.steps=5", "'trian.steps' (did you mean 'train.steps'?)"),
        ("--config.learning_rate=5", "did you mean 'optimizer.learning_rate'"),
        ("--config.train=5", "it is a section"),
        ("--config.train.steps=many", "train.steps = 'many': int is wanted"),
        ("--config.train.steps=1.5", "train.steps = '1.5': int is wanted"),
        ("--config.train.steps=0", "at least 1"),
        ("--config.train.steps", "has no value"),
        ("--config.train.seed=4294967296", "at least 0 and below 2**32"),
        ("--config.data.flip=maybe", "bool is wanted"),
        ("--config.data.photometric=11", "0 to 10 standard deviations"),
        ("--config.optimizer.name=adanw", "did you mean 'adamw'"),
        ("--config.data.crop=64", "2 values are wanted"),
        ("--config.data.crop=a,b", "int is wanted"),
        ("--config.recipe=relaesed", "did you mean 'released'"),
        ("--confg.train.steps=5", "unknown argument '--confg.train.steps=5'"),
        ("--steps=5", "unknown argument"),
    ],
)
def test_bad_override_is_one_clear_line(argument: str, words: str) -> None:
    with pytest.raises(Dis2Error) as e:
        config_file.load(DEMO, [argument])
    assert words in str(e.value)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("def get_config(:", "SyntaxError"),
        ("x = 1", "get_config"),
        ("def get_config(): return {'train': {'stepz': 1}}", "stepz"),
        (
            "from dis2_jax.recipes import base\ndef get_config():\n  c = base()\n  c.train.stepz = 1\n"
            "  return c",
            "stepz",
        ),
        (
            "from dis2_jax.recipes import base\ndef get_config():\n  c = base()\n  c.train.steps = 'x'\n"
            "  return c",
            "TypeError",
        ),
    ],
)
def test_broken_config_file_is_named(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "mine.py"
    path.write_text(text)
    with pytest.raises(Dis2Error, match=r"mine\.py") as e:
        config_file.load(path)
    assert words in str(e.value)
    assert "\n" not in str(e.value)


def test_missing_config_file_offers_the_nearest() -> None:
    with pytest.raises(Dis2Error, match=r"did you mean 'demo.py'"):
        config_file.load(DEMO.with_name("dmeo.py"))


def test_config_json_round_trip_and_differences(tmp_path: Path) -> None:
    config = config_file.load(DEMO)
    config_file.write(config, tmp_path)
    assert config_file.read(tmp_path) == config
    other = dataclasses.replace(config, train=dataclasses.replace(config.train, seed=9))
    (difference,) = config_file.differences(config, other)
    assert str(difference) == "train.seed was 0, now 9"
    (tmp_path / "config.json").write_text('{"train": {"steps": 3')
    with pytest.raises(Dis2Error, match=r"config\.json"):
        config_file.read(tmp_path)


def test_keys_that_may_change_exist_and_leave_the_optimisation_alone() -> None:
    assert set(config_file.keys()) >= MAY_CHANGE
    assert {f"train.{f.name}" for f in dataclasses.fields(TrainConfig)} - MAY_CHANGE == {
        "train.seed",
        "train.init_from",
        "train.scenarios",
        "train.scenario_weights",
        "train.select",
    }
