"""The loaded model: physical units in, probabilities out, and a clear line for everything it cannot read."""

import dataclasses
import subprocess
import sys
import tomllib
from pathlib import Path

import jax
import numpy as np
import pytest
from tiny_run import SMALL, filled, make_run

import dis2_jax
from dis2_jax.data.normalize import normalize
from dis2_jax.inference.model import Model
from dis2_jax.schema import Dis2Error, Scenario
from dis2_jax.training.state import build_model, init_variables


@pytest.fixture(scope="module")
def model(mini_card):
    network = build_model(SMALL, mini_card, tile=(32, 32))
    return Model(
        network=network, variables=filled(lambda: init_variables(network, seed=1)), card=mini_card, step=7
    )


@pytest.fixture(scope="module")
def tiles():
    g = np.random.default_rng(0)
    rgb = g.integers(0, 256, (2, 32, 48, 3), dtype=np.uint8)
    return {"rgb": rgb, "ndsm": g.normal(4, 3, (2, 32, 48, 1))}


@pytest.mark.parametrize("names", [("rgb", "ndsm"), ("rgb",), ("ndsm",)])
def test_probabilities_are_the_branchs_own_on_normalised_input(model, tiles, names):
    got = model.predict_proba({m: tiles[m] for m in reversed(names)})
    assert (got.shape, got.dtype) == ((2, 32, 48, 3), np.float32)
    np.testing.assert_allclose(got.sum(-1), 1, atol=1e-5)
    images = {m: normalize(tiles[m], model.card.modality(m), "card") for m in names}
    want = model.network.apply(model.variables, images, scenario=Scenario(names), method="predict")
    np.testing.assert_allclose(got, want, atol=1e-4)
    np.testing.assert_array_equal(model.predict({m: tiles[m] for m in names}), got.argmax(-1))


def test_one_tile_needs_no_batch_axis(model, tiles):
    batch = model.predict_proba({"rgb": tiles["rgb"]})
    single = model.predict_proba({"rgb": tiles["rgb"][1]})
    np.testing.assert_allclose(single, batch[1], atol=1e-5)
    assert model.predict({"rgb": tiles["rgb"][1]}).shape == (32, 48)


def test_what_it_says_of_itself(model):
    assert model.modalities == ("rgb", "ndsm")
    assert [str(s) for s in model.scenarios] == ["rgb+ndsm", "rgb", "ndsm"]
    assert model.classes == ("ground", "building", "tree")
    assert repr(model) == "<DIS2 of mini: reads rgb[3], ndsm[1]; 3 classes; answers rgb+ndsm, rgb, ndsm>"


def spoiled(x, value):
    x = x.astype(np.float64)
    x[0, 3, 4, 0] = value
    return x


BAD = {
    "unknown name": (
        lambda t: {"rgbb": t["rgb"]},
        "no modality 'rgbb' (did you mean 'rgb'?); give one of these sets: rgb+ndsm, rgb, ndsm",
    ),
    "nothing": (lambda t: {}, "no modality given; give one of these sets: rgb+ndsm, rgb, ndsm"),
    "channels": (lambda t: {"rgb": t["rgb"][..., :2]}, "modality 'rgb': 2 channels where it has 3"),
    "no channel axis": (lambda t: {"ndsm": t["ndsm"][0, ..., 0]}, "add the channel axis with x[..., None]"),
    "sizes": (
        lambda t: {"rgb": t["rgb"], "ndsm": t["ndsm"][:, :16]},
        "modalities disagree in size: rgb 2x32x48, ndsm 2x16x48",
    ),
    "batch axis": (
        lambda t: {"rgb": t["rgb"], "ndsm": t["ndsm"][0]},
        "modalities disagree in size: rgb 2x32x48, ndsm 32x48",
    ),
    "side": (
        lambda t: {"rgb": t["rgb"][:, :30]},
        "tile of 30 x 48 pixels: both sides must be multiples of 16",
    ),
    "NaN": (
        lambda t: {"ndsm": spoiled(t["ndsm"], np.nan)},
        "modality 'ndsm': 1 of 3072 values are NaN or infinite",
    ),
    "infinite": (lambda t: {"ndsm": spoiled(t["ndsm"], np.inf)}, "1 of 3072 values are NaN or infinite"),
    "too large": (lambda t: {"ndsm": spoiled(t["ndsm"], 1e300)}, "1 of 3072 values are NaN or infinite"),
    "text": (lambda t: {"ndsm": np.full((32, 32, 1), "a")}, "an array of numbers is wanted, not <U1"),
    "no mapping": (lambda t: t["rgb"], "give arrays by modality, {'rgb': ..., 'ndsm': ...}, not ndarray"),
    "no tile": (lambda t: {"rgb": t["rgb"][:0]}, "hold no pixel"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_clear_line(model, tiles, case):
    make, message = BAD[case]
    with pytest.raises(Dis2Error) as e:
        model.predict_proba(make(tiles))
    assert message in str(e.value)
    assert "\n" not in str(e.value)


def test_a_set_without_student_is_refused(mini_card, tiles):
    network = build_model(dataclasses.replace(SMALL, students="rgb"), mini_card, tile=(32, 32))
    model = Model(network=network, variables={}, card=mini_card)
    with pytest.raises(Dis2Error, match=r"no branch for ndsm alone; give one of these sets: rgb\+ndsm, rgb$"):
        model.predict({"ndsm": tiles["ndsm"]})


def test_position_tables_take_the_training_size_only(mini_card, tiles):
    network = build_model(dataclasses.replace(SMALL, position="table"), mini_card, tile=(32, 32))
    model = Model(network=network, variables=filled(lambda: init_variables(network, seed=1)), card=mini_card)
    assert model.predict({"rgb": tiles["rgb"][:, :, :32]}).shape == (2, 32, 32)
    with pytest.raises(Dis2Error, match="position tables tie it to 32 x 32"):
        model.predict({"rgb": tiles["rgb"]})


def test_damaged_weights_are_an_error(model, tiles):
    broken = dataclasses.replace(model, variables=jax.tree.map(lambda x: x * np.nan, model.variables))
    with pytest.raises(Dis2Error, match="output is not finite"):
        broken.predict({"rgb": tiles["rgb"]})


def test_load_reads_a_workdir(mini_card, tiles, tmp_path):
    state = make_run(tmp_path, card=mini_card, step=3)
    network = build_model(SMALL, mini_card, tile=(32, 32))
    loaded = dis2_jax.load(tmp_path)
    direct = Model(
        network=network,
        variables={"params": state.params, "batch_stats": state.batch_stats},
        card=mini_card,
    )
    assert loaded.step == 3
    for names in (("rgb", "ndsm"), ("ndsm",)):
        images = {m: tiles[m] for m in names}
        np.testing.assert_array_equal(loaded.predict_proba(images), direct.predict_proba(images))
    turned = {"ndsm": tiles["ndsm"][:, :, ::-1]}
    found = dis2_jax.load(tmp_path, tta=True).predict_proba(turned)[:, :, ::-1]
    np.testing.assert_allclose(
        found, dis2_jax.load(tmp_path, tta=True).predict_proba({"ndsm": tiles["ndsm"]}), atol=1e-5
    )
    assert np.abs(found - loaded.predict_proba(turned)[:, :, ::-1]).max() > 1e-3
    with pytest.raises(Dis2Error, match="no step 9"):
        dis2_jax.load(tmp_path, checkpoint=9)


def test_the_package_is_light_and_knows_its_version():
    code = "import sys, dis2_jax; print(sorted({'jax', 'numpy', 'grain', 'matplotlib'} & set(sys.modules)))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"
    project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())["project"]
    assert project["version"] == dis2_jax.__version__
