"""Whole scenes: the map is the model's answer at every pixel, whatever windows, batches, panels and interruptions."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio
from raster_files import write_raster
from scene_files import CRS, ORIGIN, expected, fake_model, read, scene_arrays, write_scene
from tiny_run import SMALL, Fake, filled

from dis2_jax.files import locked_folder
from dis2_jax.inference import inputs, journal, products, quicklook, scene, strips
from dis2_jax.inference.inputs import ModalityFile
from dis2_jax.inference.model import Model
from dis2_jax.inference.scene import SceneOptions
from dis2_jax.schema import IGNORE, Dis2Error
from dis2_jax.training.state import build_model, init_variables


@pytest.fixture(scope="module")
def model(mini_card):
    return fake_model(mini_card)


def left_over(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir() if "partial" in p.name)


@pytest.mark.parametrize("size", [(90, 150), (32, 32), (20, 47), (1, 5)])
@pytest.mark.parametrize("names", [("rgb", "ndsm"), ("ndsm",)])
def test_the_map_is_the_models_answer_at_every_pixel(model, tmp_path, size, names):
    arrays = {m: scene_arrays(*size)[m] for m in names}
    files = write_scene(tmp_path, arrays)
    out = tmp_path / "made" / "map.tif"
    result = model.predict_scene(files, out=out, also=("probabilities", "confidence", "scenarios"))
    want = expected(model, arrays)
    got, profile = read(out)
    p, _ = read(result.paths["probabilities"])
    np.testing.assert_allclose(p, want, atol=1e-5)
    np.testing.assert_array_equal(got, p.argmax(-1))
    np.testing.assert_array_equal(read(result.paths["confidence"])[0], p.max(-1))
    position = [str(s) for s in model.scenarios].index("+".join(names))
    assert (read(result.paths["scenarios"])[0] == position).all()
    assert profile["crs"] == CRS
    assert profile["transform"][:6] == (0.5, 0, ORIGIN[0], 0, -0.5, ORIGIN[1])
    assert result.class_pixels == {c: int((got == k).sum()) for k, c in enumerate(model.classes)}
    assert not left_over(out.parent)


def test_what_the_geotiff_says_of_itself(model, tmp_path):
    out = tmp_path / "map.tif"
    files = write_scene(tmp_path, scene_arrays(600, 700))
    model.predict_scene(files, out=out, options=SceneOptions(window=(128, 128)))
    with rasterio.open(out) as f:
        assert (f.dtypes, f.nodata, f.shape) == (("uint8",), 255, (600, 700))
        assert (f.profile["tiled"], f.block_shapes, f.overviews(1)) == (True, [(512, 512)], [2])
        assert f.compression.name == "deflate"
        assert f.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert [f.tags()[f"CLASS_{k}"] for k in range(3)] == list(model.classes)
        colors = f.colormap(1)
    assert tuple(colors[k][:3] for k in range(3)) == model.card.legend.colors
    assert "<Category>building</Category>" in (tmp_path / "map.tif.aux.xml").read_text()


@pytest.fixture(scope="module")
def network_model(mini_card):
    network = build_model(SMALL, mini_card, tile=(32, 32))
    return Model(network=network, variables=filled(lambda: init_variables(network, seed=1)), card=mini_card)


def test_batches_do_not_change_a_bit_of_a_real_network(network_model, tmp_path):
    files = {"ndsm": write_scene(tmp_path, scene_arrays(40, 90))["ndsm"]}
    found = []
    for batch in (1, 3):
        out = tmp_path / f"{batch}.tif"
        paths = network_model.predict_scene(
            files, out=out, also=("probabilities",), options=SceneOptions(batch=batch)
        ).paths
        found.append([p.read_bytes() for p in paths.values()])
    assert found[0] == found[1]
    p, _ = read(paths["probabilities"])
    first = network_model.predict_proba({"ndsm": read(files["ndsm"])[0][:32, :32, None]})
    np.testing.assert_allclose(p[:8, :19], first[:8, :19], atol=1e-5)  # only the first window sees this part


OPTIMISED = """
import sys
sys.path.insert(0, {tests!r})
import jax
import numpy as np
from tiny_run import SMALL, filled
from dis2_jax.inference.engine import Engine
from dis2_jax.schema import DatasetCard, Scenario
from dis2_jax.training.state import build_model, init_variables
network = build_model(SMALL, DatasetCard.load({dataset!r}), tile=(64, 64))
variables = filled(lambda: init_variables(network, seed=1))
windows = [{{"ndsm": x}} for x in np.random.default_rng(0).standard_normal((3, 64, 64, 1), np.float32)]
found = []
for batch in (1, 3):
    engine = Engine(network, variables, window=(64, 64), batch=batch, device=jax.devices()[0])
    parts = [windows[i : i + batch] for i in range(0, 3, batch)]
    found.append(np.concatenate([engine.finish(engine.start(Scenario(("ndsm",)), p), len(p)) for p in parts]))
print(np.abs(found[0] - found[1]).max())
"""


def test_one_window_per_call_gives_the_same_bits_too(mini_dataset):
    """In a process of its own, because XLA fuses here as it does for users and not as in the other tests."""
    code = OPTIMISED.format(tests=str(Path(__file__).parent), dataset=str(mini_dataset))
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False, env=environment)
    assert ran.stdout.decode().split() == ["0.0"], ran.stderr.decode()


def test_panels_and_windows_change_nothing_and_bound_memory(model, tmp_path, monkeypatch):
    files = write_scene(tmp_path, scene_arrays(120, 400))
    held: dict[str, list[int]] = {}

    def watch(cls, name, size):
        whole = getattr(cls, name)

        def watched(self, *args, **kwargs):
            held.setdefault(label[0], []).append(size(*args, **kwargs))
            return whole(self, *args, **kwargs)

        monkeypatch.setattr(cls, name, watched)

    label = ["one panel"]
    watch(scene.Scene, "read", lambda rows, cols: (rows[1] - rows[0]) * (cols[1] - cols[0]))
    options = SceneOptions(window=(32, 48), overlap=16)
    also = ("probabilities",)
    whole = model.predict_scene(files, out=tmp_path / "a.tif", also=also, options=options).paths
    monkeypatch.setattr(scene, "PANEL_BYTES", 0)  # as narrow as the windows allow
    for label[0], size in (("panels", (120, 400)), ("larger", (200, 560))):
        own = write_scene(tmp_path, scene_arrays(*size), prefix=label[0])
        cut = model.predict_scene(own, out=tmp_path / f"{label[0]}.tif", also=also, options=options)
        if label[0] == "panels":
            assert [p.read_bytes() for p in cut.paths.values()] == [p.read_bytes() for p in whole.values()]
    assert max(held["larger"]) <= max(held["panels"]) + 32 * 48  # starts are rounded to pixels
    assert max(held["panels"]) < max(held["one panel"]) / 3
    other = model.predict_scene(
        files, out=tmp_path / "b.tif", also=also, options=SceneOptions(window=(64, 64), overlap=5)
    )
    np.testing.assert_allclose(
        read(other.paths["probabilities"])[0], read(whole["probabilities"])[0], atol=1e-5
    )


def test_one_compiled_function_per_scenario(model, tmp_path, monkeypatch):
    traced = []

    class Counting(Fake):
        def predict(self, images, *, scenario):
            traced.append((str(scenario), {x.shape for x in images.values()}))
            return super().predict(images, scenario=scenario)

    counting = Model(network=Counting(), variables=model.variables, card=model.card)
    arrays = scene_arrays(100, 170)
    arrays["rgb"][:50, :80] = 0
    for i, height in enumerate((100, 40, 20)):
        cut = {m: x[:height] for m, x in arrays.items()}
        files = write_scene(tmp_path, cut, nodata={"rgb": 0}, prefix=str(i))
        counting.predict_scene(files, out=tmp_path / f"o{i}.tif", options=SceneOptions(batch=4))
    assert sorted(name for name, _ in traced) == ["ndsm", "rgb+ndsm"]


def test_where_a_modality_is_nodata_its_student_answers(model, tmp_path):
    arrays = scene_arrays(128, 192)
    arrays["rgb"][:, :96] = 0  # cloud
    arrays["ndsm"][100:, 150:] = np.nan  # hole
    arrays["rgb"][100:, 150:] = 0  # seen by nobody
    arrays["rgb"][10:12, 150:153] = 0  # small hole: filled
    files = write_scene(tmp_path, arrays, nodata={"rgb": 0})
    out = tmp_path / "map.tif"
    result = model.predict_scene(files, out=out, also=("scenarios", "probabilities"))
    scenarios, got = read(result.paths["scenarios"])[0], read(out)[0]
    nobody = np.zeros((128, 192), bool)
    nobody[100:, 150:] = True
    np.testing.assert_array_equal(got == IGNORE, nobody)
    np.testing.assert_array_equal(scenarios == IGNORE, nobody)
    assert (scenarios[:, :64] == 2).all()
    assert (scenarios[:, 130:][~nobody[:, 130:]] == 0).all()
    p = read(result.paths["probabilities"])[0]
    np.testing.assert_allclose(p[:, :64], expected(model, {"ndsm": arrays["ndsm"]})[:, :64], atol=1e-5)
    np.testing.assert_allclose(p[:96, 160:], expected(model, arrays)[:96, 160:], atol=1e-5)
    assert np.isnan(p[nobody]).all()
    assert result.scenario_pixels["rgb"] == 0
    assert sum(result.scenario_pixels.values()) == (~nobody).sum()
    strict = model.predict_scene(files, out=out, also=("scenarios",), options=SceneOptions(max_missing=0))
    assert (read(strict.paths["scenarios"])[0][10:12, 150:153] == 2).all()


def test_nodata_where_no_student_fits_and_all_nodata(model, tmp_path):
    arrays = scene_arrays(64, 64)
    arrays["ndsm"][:] = np.nan
    files = write_scene(tmp_path, arrays)
    only_full = Model(network=Fake(students=()), variables=model.variables, card=model.card)
    for m, given in ((only_full, files), (model, {"ndsm": files["ndsm"]})):
        result = m.predict_scene(given, out=tmp_path / "map.tif", also=("quicklook",))
        assert (read(tmp_path / "map.tif")[0] == IGNORE).all()
        assert "all nodata" in result.notes[-1]


def test_the_legend_of_a_picture_tells_shares_of_the_answered_pixels(model):
    handles = quicklook._handles(model.card.legend, {"ground": 1, "building": 6, "tree": 1})
    assert [h.get_label() for h in handles] == ["ground 12.5 %", "building 75.0 %", "tree 12.5 %"]


def test_no_georeference_at_all_is_said(model, tmp_path):
    arrays = scene_arrays(40, 50)
    files = write_scene(tmp_path, arrays, crs=None)
    pytest.importorskip("pyogrio")
    result = model.predict_scene(files, out=tmp_path / "map.tif", also=products.PRODUCTS[1:])
    assert "no coordinate reference system" in result.notes[0]
    np.testing.assert_array_equal(read(tmp_path / "map.tif")[0], expected(model, arrays).argmax(-1))


OPTIONS = {"also": ("probabilities", "scenarios"), "options": SceneOptions(batch=2)}

KILLED = """
import os, signal, sys
sys.path.insert(0, {tests!r})
from pathlib import Path
from scene_files import fake_model
from test_predict_scene import OPTIONS
from dis2_jax.inference import journal
from dis2_jax.schema import DatasetCard
add = journal.Journal.add
def adding(self, key, *rest):
    if len(self.facts) == {strips}:
        os.kill(os.getpid(), signal.SIGKILL)
    add(self, key, *rest)
journal.Journal.add = adding
files = {{m: Path({folder!r}) / (m + ".tif") for m in ("rgb", "ndsm")}}
fake_model(DatasetCard.load({dataset!r})).predict_scene(files, out={out!r}, **OPTIONS)
"""


@pytest.mark.parametrize(("done", "torn"), [(1, False), (3, True)])
def test_a_killed_run_goes_on_and_ends_with_the_same_bytes(
    model, mini_dataset, tmp_path, done, torn, monkeypatch
):
    files = write_scene(tmp_path, scene_arrays(140, 100))
    whole = model.predict_scene(files, out=tmp_path / "whole.tif", **OPTIONS).paths
    out = tmp_path / "out" / "whole.tif"
    code = KILLED.format(
        tests=str(Path(__file__).parent),
        strips=done,
        folder=str(tmp_path),
        dataset=str(mini_dataset),
        out=str(out),
    )
    status = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert status.returncode == -signal.SIGKILL, status.stderr.decode()
    assert os.listdir(out.parent) == ["whole.tif.partial"]
    lines = out.with_name("whole.tif.partial") / journal.JOURNAL
    if torn:
        text = lines.read_text()
        lines.write_text(text + text.splitlines()[-1][:30])
        strip = out.with_name("whole.tif.partial") / "map-0-1.tif"
        strip.write_bytes(bytes(strip.stat().st_size))  # the disk never saw its content
    predicted = []
    row = strips.StripPredictor._add_row
    monkeypatch.setattr(
        strips.StripPredictor, "_add_row", lambda self, *a: (predicted.append(1), row(self, *a))
    )
    resumed = model.predict_scene(files, out=out, **OPTIONS)
    assert f"goes on after {done - torn} finished strips" in resumed.notes[-1]
    assert len(predicted) == 6  # rows of windows: those of lacking strips, and one before each gap
    assert [p.read_bytes() for p in resumed.paths.values()] == [p.read_bytes() for p in whole.values()]
    assert not left_over(out.parent)


def test_an_unfinished_run_of_other_options_starts_over(model, tmp_path, monkeypatch):
    files = write_scene(tmp_path, scene_arrays(140, 60))
    out = tmp_path / "map.tif"

    def interrupt(done, total):
        if done > 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        model.predict_scene(files, out=out, on_windows=interrupt)
    result = model.predict_scene(files, out=out, options=SceneOptions(overlap=4))
    assert "started over" in result.notes[0]


@pytest.mark.parametrize("fails_at", [0, 3, "cog"])
def test_a_full_disk_leaves_the_old_map_and_the_strips(model, tmp_path, monkeypatch, fails_at):
    files = write_scene(tmp_path, scene_arrays(140, 60))
    out = tmp_path / "map.tif"
    model.predict_scene(files, out=out)
    old = out.read_bytes()
    write = Path.write_bytes
    count = [0]

    def full(self, content):
        if count[0] == fails_at:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self))
        count[0] += 1
        return write(self, content)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        if fails_at == "cog":

            def copy(*_, **__):
                raise rasterio.errors.RasterioIOError("write failed: No space left on device")

            patch.setattr("rasterio.shutil.copy", copy)
        with pytest.raises(Dis2Error, match=r"disk is full; free some space and run the same command again"):
            model.predict_scene(files, out=out, options=SceneOptions(overlap=4))
    assert out.read_bytes() == old
    result = model.predict_scene(files, out=out, options=SceneOptions(overlap=4))
    if fails_at != 0:
        assert "goes on after" in result.notes[-1]
    assert not left_over(tmp_path)


def test_a_file_that_ends_in_the_middle_fails_there_and_changes_nothing(model, tmp_path, monkeypatch):
    arrays = scene_arrays(200, 200)
    files = write_scene(tmp_path, arrays)
    out = tmp_path / "map.tif"
    model.predict_scene(files, out=out)
    old = out.read_bytes()
    content = files["rgb"].read_bytes()
    files["rgb"].write_bytes(content[: len(content) * 2 // 3])
    monkeypatch.setattr(inputs, "doubts", lambda *_, **__: [])  # the sample that it takes meets the fault too
    told = []
    with pytest.raises(Dis2Error, match=r"rows .* of modality 'rgb': .*rgb\.tif is damaged or cut off") as e:
        model.predict_scene(files, out=out, on_windows=lambda done, total: told.append(done))
    assert told  # it had begun
    assert "\n" not in str(e.value)
    assert out.read_bytes() == old
    assert not left_over(tmp_path)


def test_two_at_a_time_are_refused(model, tmp_path):
    files = write_scene(tmp_path, scene_arrays(40, 40))
    out = tmp_path / "map.tif"
    with (
        locked_folder(tmp_path / "map.tif.partial", command="dis2 predict", flag="--out"),
        pytest.raises(journal.OutputError, match="in use by another"),
    ):
        model.predict_scene(files, out=out)


def test_stored_numbers_bands_and_nodata_are_read_as_in_training(model, mini_card, tmp_path):
    import dataclasses

    from dis2_jax.schema import SourceFormat

    arrays = scene_arrays(40, 50)
    stored = np.round((arrays["ndsm"] - 2) * 100).astype(np.int16)
    stored[:4] = -999
    rgb = np.concatenate([np.zeros_like(arrays["rgb"][..., :1]), arrays["rgb"][..., ::-1]], -1)
    files = write_scene(tmp_path, {"rgb": rgb, "ndsm": stored})
    sources = {"rgb": SourceFormat(bands=(4, 3, 2)), "ndsm": SourceFormat(scale=0.01, offset=2, nodata=-999)}
    card = dataclasses.replace(
        mini_card,
        modalities=tuple(dataclasses.replace(m, source=sources[m.name]) for m in mini_card.modalities),
    )
    assert type(card).from_json(card.to_json()) == card
    trained = dataclasses.replace(model, card=card)
    result = trained.predict_scene(files, out=tmp_path / "map.tif", also=("probabilities",))
    p = read(result.paths["probabilities"])[0]
    np.testing.assert_allclose(p[4:], expected(model, arrays)[4:], atol=5e-3)
    assert "rgb: bands 4,3,2" in result.notes[0]
    chosen = {"rgb": ModalityFile(files["rgb"], bands=(4, 3, 2)), "ndsm": files["ndsm"]}
    again = trained.predict_scene(chosen, out=tmp_path / "b.tif")
    assert (tmp_path / "b.tif").read_bytes() == (tmp_path / "map.tif").read_bytes()
    assert not again.notes


def test_alpha_is_a_mask_and_no_channel(model, tmp_path):
    arrays = scene_arrays(64, 64)
    alpha = np.full((64, 64, 1), 255, np.uint8)
    alpha[:, :40] = 0
    path = write_raster(
        tmp_path / "rgba.tif", np.concatenate([arrays["rgb"], alpha], -1), crs=CRS, origin=ORIGIN
    )
    with rasterio.open(path, "r+") as f:
        f.colorinterp = [*list(f.colorinterp)[:3], rasterio.enums.ColorInterp.alpha]
    model.predict_scene({"rgb": path}, out=tmp_path / "map.tif")
    want = expected(model, {"rgb": arrays["rgb"]}).argmax(-1)
    want[:, :40] = IGNORE
    np.testing.assert_array_equal(read(tmp_path / "map.tif")[0], want)


def test_a_new_map_leaves_no_stale_product_beside_it(model, tmp_path):
    files = write_scene(tmp_path / "in", scene_arrays(40, 50))
    out = tmp_path / "map.tif"
    also = ("confidence", "scenarios", "quicklook")
    model.predict_scene(files, out=out, also=also)
    mine = tmp_path / "map_notes.tif"
    mine.write_bytes(b"mine")
    result = model.predict_scene({"rgb": files["rgb"]}, out=out, also=("confidence",))
    assert sorted(p.name for p in tmp_path.glob("map*")) == [
        "map.tif", "map.tif.aux.xml", "map_confidence.tif", "map_notes.tif"
    ]  # fmt: skip
    assert [note.split(":")[0] for note in result.notes] == [
        f"removed {tmp_path / name}" for name in ("map_scenarios.tif", "map_quicklook.png")
    ]


@pytest.mark.parametrize(("change", "message"), [("edit", "changed since"), ("move", "no longer at")])
def test_a_stale_product_that_is_not_ours_to_remove_is_named(model, tmp_path, change, message):
    files = write_scene(tmp_path / "in", scene_arrays(40, 50))
    out = tmp_path / "map.tif"
    model.predict_scene(files, out=out, also=("confidence",))
    beside = tmp_path / "map_confidence.tif"
    if change == "edit":
        beside.write_bytes(beside.read_bytes() + b"edited")
    else:
        out.rename(tmp_path / "kept.tif")
    before = {p.name: p.read_bytes() for p in tmp_path.glob("*.tif")}
    with pytest.raises(Dis2Error, match=rf"map_confidence\.tif .*{message}"):
        model.predict_scene(files, out=out)
    assert {p.name: p.read_bytes() for p in tmp_path.glob("*.tif")} == before
    model.predict_scene(files, out=out, also=("confidence",))  # made anew: nothing is stale
