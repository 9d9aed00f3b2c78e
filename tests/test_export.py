"""Exports: equal to the model they come from, runnable without this package, whole or not there."""

import ast
import dataclasses
import errno
import hashlib
import json
import runpy
import socket
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import export as jax_export
from tiny_run import SMALL, Fake, fake_variables, make_run

import dis2_jax
from dis2_jax.cli.main import main
from dis2_jax.inference import export, export_onnx, export_stablehlo
from dis2_jax.inference.export import ExportOptions, export_workdir
from dis2_jax.inference.model import Model
from dis2_jax.schema import Dis2Error

SETS = (("rgb", "ndsm"), ("rgb",), ("ndsm",))
CPU = ExportOptions(platforms=("cpu",))


def images(names, *shape, seed=0):
    """Physical units of the miniature dataset."""
    g = np.random.default_rng(seed)
    made = {
        "rgb": g.integers(0, 256, (*shape, 3), dtype=np.uint8),
        "ndsm": g.normal(4, 3, (*shape, 1)).astype(np.float32),
    }
    return {m: made[m] for m in names}


@pytest.fixture
def fake(mini_card, monkeypatch, tmp_path):
    """Exports of a linear model, without a checkpoint; the function takes options and returns the result."""

    def run(options=CPU, *, out="out", **changes):
        network = Fake(**changes)
        model = Model(network=network, variables=fake_variables(network), card=mini_card, step=7)
        monkeypatch.setattr(export, "load", lambda *a, **k: model)
        return export_workdir(tmp_path / "run", tmp_path / out, options), model

    return run


def runner(made):
    return runpy.run_path(str(made.path / "run.py"))


def card_of(folder):
    return json.loads((folder / "card.json").read_text())


# --- the real network ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def exported(mini_card, tmp_path_factory):
    """A real, small network: its workdir and what the command line made of it."""
    folder = tmp_path_factory.mktemp("export")
    make_run(folder / "run", card=mini_card, step=3)
    assert main(["export", "--workdir", str(folder / "run"), "--out", str(folder / "out")]) == 0
    return folder / "run", folder / "out"


ISOLATED = """
import sys, runpy
from importlib.machinery import BuiltinImporter, FrozenImporter, PathFinder
ALLOWED = {"jax", "jaxlib", "numpy", "scipy", "ml_dtypes", "opt_einsum", "flatbuffers", *sys.stdlib_module_names}
class OnlyJax:
    def find_spec(name, path=None, target=None):
        known = name.split(".")[0] in ALLOWED or name.startswith("_sysconfigdata")
        return PathFinder.find_spec(name, path, target) if known else None
sys.meta_path[:] = [BuiltinImporter, FrozenImporter, OnlyJax]
for name in ("dis2_jax", "flax"):
    try:
        __import__(name)
    except ModuleNotFoundError:
        continue
    sys.exit(f"{name} could be imported: nothing is isolated")
script, *calls = sys.argv[1:]
for call in calls:
    sys.argv = [script, *call.split(" ")]
    runpy.run_path(script, run_name="__main__")
"""


def test_runs_with_jax_alone_and_equals_predict_proba(exported, tmp_path):
    workdir, out = exported
    model = dis2_jax.load(workdir)
    cases = {"a": (SETS[0], (1, 32, 16)), "b": (SETS[1], (3, 16, 32)), "c": (SETS[2], (32, 48))}
    calls = []
    for key, (names, shape) in cases.items():
        given = images(names, *shape)
        if len(names) == 1:
            np.save(tmp_path / f"{key}.npy", given[names[0]])
            calls.append(f"{tmp_path / key}_out.npy {names[0]}={tmp_path / key}.npy")
        else:
            np.savez(tmp_path / f"{key}.npz", **given)
            calls.append(f"{tmp_path / key}_out.npy {tmp_path / key}.npz")
    command = [sys.executable, "-I", "-c", ISOLATED, str(out / "run.py"), *calls]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for key, (names, shape) in cases.items():
        found = np.load(tmp_path / f"{key}_out.npy")
        assert (found.shape, found.dtype) == ((*shape, 3), np.float32)
        np.testing.assert_allclose(found, model.predict_proba(images(names, *shape)), atol=1e-5)


def test_each_function_takes_just_the_weights_it_reads_and_holds_all_platforms(exported):
    _, out = exported
    functions = card_of(out)["functions"]
    for name, function in functions.items():
        saved = jax_export.deserialize(bytearray((out / function["file"]).read_bytes()))
        assert saved.platforms == ("cpu", "cuda", "tpu")
        assert saved.calling_convention_version == function["calling_convention_version"]
        top = {w.split("/")[1] for w in function["weights"]}
        branch = "full" if name == "rgb+ndsm" else f"student_{name}"
        sources = {"rgb+ndsm": set(), "rgb": {"rgb_to_ndsm"}, "ndsm": {"ndsm_to_rgb"}}[name]
        assert top == {branch} | {f"encoder_{m}" for m in name.split("+")} | {
            f"compensation_{s}" for s in sources
        }
    with np.load(out / "weights.npz") as weights:
        assert set(weights.files) == {w for f in functions.values() for w in f["weights"]}


def test_bfloat16_models_keep_a_looser_tolerance(mini_card, tmp_path):
    model = dataclasses.replace(SMALL, dtype="bfloat16")
    make_run(tmp_path / "run", card=mini_card, step=3, model=model)
    made = export_workdir(
        tmp_path / "run", tmp_path / "out", dataclasses.replace(CPU, scenarios=("ndsm",), tile=(32, 32))
    )
    assert card_of(made.path)["verified"]["tolerance"] == export.BFLOAT16_TOLERANCE
    assert 0 <= made.differences["ndsm"] <= export.BFLOAT16_TOLERANCE


def test_onnx_equals_predict_proba(exported, tmp_path):
    why = f"jax2onnx is installed apart, it pins an older orbax: {export_onnx.INSTALL}"
    pytest.importorskip("jax2onnx", reason=why)
    ort = pytest.importorskip("onnxruntime", reason=why)
    workdir, _ = exported
    out = tmp_path / "onnx"
    assert main(["export", "--workdir", str(workdir), "--out", str(out), "--format", "onnx"]) == 0
    model = dis2_jax.load(workdir)
    for names in SETS:
        session = ort.InferenceSession(out / card_of(out)["functions"]["+".join(names)]["file"])
        for batch in (1, 3):
            given = images(names, batch, 32, 32)
            found = session.run(None, {m: x.astype(np.float32) for m, x in given.items()})[0]
            np.testing.assert_allclose(found, model.predict_proba(given), atol=1e-4)


def test_onnx_without_its_extra_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "jax2onnx", None)
    with pytest.raises(Dis2Error, match=r"pip install --no-deps jax2onnx=="):
        export_workdir(tmp_path, tmp_path / "out", ExportOptions(format="onnx"))


# --- what run.py answers and refuses ------------------------------------------------------------


@pytest.fixture(scope="module")
def pair(mini_card, tmp_path_factory):
    """A linear model and the ``predict`` of its export, for the property test."""
    folder = tmp_path_factory.mktemp("pair")
    network = Fake()
    model = Model(network=network, variables=fake_variables(network), card=mini_card, step=7)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export, "load", lambda *a, **k: model)
        made = export_workdir(folder / "run", folder / "out", CPU)
    return model, runner(made)["predict"]


SIDE = st.sampled_from([0, 8, 16, 24, 32])


@settings(max_examples=60)
@given(
    names=st.sets(st.sampled_from(["rgb", "ndsm", "sar"])),
    batch=st.lists(st.integers(0, 3), max_size=2),
    sides=st.tuples(SIDE, SIDE),
    spoil=st.sampled_from(["nothing"] * 4 + ["channels", "size", "nan"]),
)
def test_runner_reads_what_the_model_reads_and_refuses_the_rest(pair, names, batch, sides, spoil):
    model, predict = pair
    channels = {"rgb": 3, "ndsm": 1, "sar": 2}
    g = np.random.default_rng(0)
    given = {m: g.normal(90, 30, (*batch, *sides, channels[m])) for m in sorted(names)}
    if given and spoil != "nothing":
        last = max(given)
        if spoil == "channels":
            given[last] = np.concatenate([given[last]] * 2, axis=-1)
        elif spoil == "size":
            given[last] = given[last][..., :-16, :]
        elif given[last].size:
            given[last].flat[0] = np.nan
    try:
        want = model.predict_proba(given)
    except Dis2Error:
        with pytest.raises(ValueError, match=r"^[^\n]+$"):
            predict(given)
    else:
        np.testing.assert_allclose(predict(given), want, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sar={0}/rgb.npy"], "cannot read sar; give one of rgb+ndsm, rgb, ndsm"),
        (["rgb={0}/none.npy"], "No such file"),
        (["{0}/rgb.npy"], "run.py: error: "),
        ([], "cannot read nothing; give one of"),
    ],
)
def test_runner_ends_with_one_line(fake, tmp_path, monkeypatch, arguments, message):
    made, _ = fake()
    np.save(tmp_path / "rgb.npy", images(["rgb"], 1, 32, 32)["rgb"])
    out = tmp_path / "p.npy"
    monkeypatch.setattr(sys, "argv", ["run.py", str(out), *(a.format(tmp_path) for a in arguments)])
    with pytest.raises(SystemExit) as e:
        runpy.run_path(str(made.path / "run.py"), run_name="__main__")
    assert message in str(e.value.code)
    assert "\n" not in str(e.value.code)
    assert not list(tmp_path.glob("p.npy*"))


def test_runner_is_forty_lines_of_code():
    """Without blank lines, comments and docstrings: an example is to be read."""
    source = Path(export_stablehlo.__file__).with_name("export_run.py").read_text()
    documented = [n for n in ast.walk(ast.parse(source)) if isinstance(n, (ast.Module, ast.FunctionDef))]
    texts = [n.body[0] for n in documented if ast.get_docstring(n)]
    left_out = {i for text in texts for i in range(text.lineno, (text.end_lineno or 0) + 1)}
    lines = {i for i, line in enumerate(source.splitlines(), 1) if line.strip() and line.strip()[0] != "#"}
    assert len(lines - left_out) <= 40


def test_an_older_jax_is_named_when_it_fails(fake, tmp_path, monkeypatch):
    made, _ = fake()
    card = card_of(made.path)
    card["needs_jax"] = [99, 0, 0]
    (made.path / "card.json").write_text(json.dumps(card))
    np.save(tmp_path / "sar.npy", np.zeros((16, 16, 1)))
    monkeypatch.setattr(sys, "argv", ["run.py", "p.npy", f"sar={tmp_path / 'sar.npy'}"])
    with pytest.raises(SystemExit) as e:
        runpy.run_path(str(made.path / "run.py"), run_name="__main__")
    assert f"(jax {jax.__version__} is too old)" in str(e.value.code)


@pytest.mark.parametrize("name", ["weights.npz", "functions/rgb.jax"])
def test_a_flipped_bit_is_an_error_and_not_a_result(fake, name):
    made, _ = fake()
    data = bytearray((made.path / name).read_bytes())
    data[len(data) // 2] ^= 1
    (made.path / name).write_bytes(data)
    with pytest.raises(ValueError, match="is damaged"):
        runner(made)["predict"](images(["rgb"], 1, 32, 32))


# --- the folder and its card --------------------------------------------------------------------


def test_card_tells_what_the_user_needs(fake):
    made, model = fake(CPU)
    card = card_of(made.path)
    assert (card["format"], card["format_version"], card["kind"]) == ("dis2-export", 1, "stablehlo")
    rgb = card["modalities"][0]
    assert (rgb["name"], rgb["channels"], rgb["bands"]) == ("rgb", 3, ["red", "green", "blue"])
    np.testing.assert_allclose(
        rgb["normalization_inside"]["mean"], model.card.modality("rgb").mean, rtol=1e-6
    )
    assert card["classes"][1] == {"position": 1, "name": "building", "color": [0, 0, 255]}
    assert card["written_with"] == {"jax": jax.__version__, "platforms": ["cpu"]}
    assert card["needs_jax"] == list(jax.__version_info__)
    assert (card["origin"]["run"], card["origin"]["step"]) == ("run", 7)
    assert list(card["functions"]) == ["rgb+ndsm", "rgb", "ndsm"]
    assert max(card["verified"]["greatest_difference"].values()) <= 1e-5
    on_disk = {str(p.relative_to(made.path)) for p in made.path.rglob("*") if p.is_file()}
    assert on_disk == {"card.json", *card["files"]} == set(made.files)
    for name, entry in card["files"].items():
        assert hashlib.sha256((made.path / name).read_bytes()).hexdigest() == entry["sha256"]


def test_chosen_scenarios_bring_only_their_weights(fake):
    made, _ = fake(dataclasses.replace(CPU, scenarios=("ndsm",)))
    assert list(card_of(made.path)["functions"]) == ["ndsm"]
    with np.load(made.path / "weights.npz") as weights:
        assert weights.files == ["params/ndsm"]
    with pytest.raises(ValueError, match="cannot read rgb; give one of ndsm"):
        runner(made)["predict"](images(["rgb"], 1, 32, 32))


@pytest.mark.parametrize(("position", "tile"), [("sincos", (48, 32)), ("table", None)])
def test_a_fixed_tile_is_told_and_kept(fake, position, tile):
    """Position tables fix the tile to the training one."""
    made, model = fake(dataclasses.replace(CPU, tile=tile), position=position)
    height, width = tile or (32, 32)
    assert card_of(made.path)["tile"] == {
        "multiple_of": 16,
        "fixed": [height, width],
        "trained": [32, 32],
    }
    predict = runner(made)["predict"]
    given = images(SETS[0], 3, height, width)
    np.testing.assert_allclose(predict(given), model.predict_proba(given), atol=1e-5)
    with pytest.raises(ValueError, match=rf"wanted .*\(3, {height}, {width}, 1\)"):
        predict(images(SETS[0], 3, 64, 64))


BAD = {
    "unknown modality": ({"scenarios": ("rbg",)}, {}, "no modality 'rbg' (did you mean 'rgb'?)"),
    "no branch": (
        {"scenarios": ("ndsm",)},
        {"students": (("rgb",),)},
        "no branch for ndsm (did you mean 'rgb+ndsm'?); it answers rgb+ndsm, rgb",
    ),
    "tile": ({"tile": (40, 32)}, {}, "both sides must be multiples of 16"),
    "tables": ({"tile": (64, 64)}, {"position": "table"}, "position tables tie it to 32 x 32"),
    "platform": ({"platforms": ("cpu", "cuba")}, {}, "no platform 'cuba' (did you mean 'cuda'?)"),
    "not here": ({"platforms": ("tpu",)}, {}, "this machine computes on cpu: add cpu"),
    "format": ({"format": "onxx"}, {}, "no format 'onxx' (did you mean 'onnx'?)"),
    "float64": ({}, {"dtype": jnp.dtype("float64")}, "computes in float64"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_writes_nothing(fake, tmp_path, case):
    options, changes, message = BAD[case]
    with pytest.raises(Dis2Error) as e:
        fake(dataclasses.replace(CPU, **options), **changes)
    assert message in str(e.value)
    assert "\n" not in str(e.value)
    assert not list(tmp_path.iterdir())


def test_a_workdir_without_checkpoint_is_one_line(tmp_path, capsys):
    assert main(["export", "--workdir", str(tmp_path / "none"), "--out", str(tmp_path / "out")]) == 2
    err = capsys.readouterr().err
    assert str(tmp_path / "none") in err
    assert len(err.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_only_an_export_is_replaced(fake, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    first, _ = fake()  # an empty folder is free
    (out / "notes.txt").write_text("mine")
    with pytest.raises(Dis2Error, match=r"holds notes\.txt, which no export wrote"):
        fake()
    (out / "notes.txt").unlink()
    again, _ = fake(dataclasses.replace(CPU, scenarios=("rgb",)))
    assert list(card_of(again.path)["functions"]) == ["rgb"]
    assert again.path == first.path
    (out / "card.json").unlink()
    with pytest.raises(Dis2Error, match="exists and is not an export"):
        fake()
    (tmp_path / "file").write_text("")
    with pytest.raises(Dis2Error, match="exists and is not a folder"):
        fake(out="file")
    with pytest.raises(Dis2Error, match="cannot write in"):
        fake(out="file/below")


@pytest.mark.parametrize("fault", ["disk", "difference", "interrupt"])
def test_a_failed_export_leaves_the_good_one(fake, tmp_path, monkeypatch, fault):
    made, _ = fake()
    before = {p: p.read_bytes() for p in made.path.rglob("*") if p.is_file()}

    def fail(path, weights):
        if fault == "interrupt":
            raise KeyboardInterrupt
        if fault == "disk":
            path.write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        np.savez(path, **{name: 1.1 * w for name, w in weights.items()})

    monkeypatch.setattr(export_stablehlo, "_write_weights", fail)
    kind, message = {
        "disk": (Dis2Error, "No space left on device"),
        "difference": (Dis2Error, "differs from predict_proba by"),
        "interrupt": (KeyboardInterrupt, None),
    }[fault]
    with pytest.raises(kind, match=message):
        fake()
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before


def test_what_a_killed_export_left_is_cleared_and_the_older_one_put_back(fake, tmp_path, monkeypatch):
    made, _ = fake()
    dead = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True
    )
    mark = f"{socket.gethostname()}-{dead.stdout.strip()}"
    made.path.rename(tmp_path / f".out.old-{mark}")  # killed between the two renames
    (tmp_path / f".out.partial-{mark}").mkdir()
    monkeypatch.setattr(export, "_difference", lambda *a, **k: float("nan"))
    with pytest.raises(Dis2Error, match="differs"):
        fake()
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    assert card_of(made.path)["kind"] == "stablehlo"
