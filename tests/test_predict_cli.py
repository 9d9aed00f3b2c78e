"""`dis2 predict` and `dis2 bench predict` as a user runs them: files in, maps out, one line for what cannot be."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import shutil
import subprocess

import numpy as np
import pytest
import rasterio
import rasterio.features
from PIL import Image
from raster_files import write_raster
from scene_files import CRS, ORIGIN, expected, fake_model, read, scene_arrays, write_scene
from tiny_run import make_run

from dis2_jax.cli import main
from dis2_jax.inference import folder, vector
from dis2_jax.inference import model as model_module
from dis2_jax.inference.inputs import ModalityFile
from dis2_jax.schema import Dis2Error


@pytest.fixture
def fake(mini_card, monkeypatch):
    """Any workdir loads the pixel-wise model."""
    loaded = fake_model(mini_card)
    monkeypatch.setattr(model_module, "load", lambda workdir, **_: loaded)
    return loaded


def predict(*arguments):
    return main.main(["predict", "--workdir", "W", *map(str, arguments)])


def given(files):
    return [word for m, path in files.items() for word in ("--modality", f"{m}={path}")]


def test_a_trained_workdir_end_to_end(mini_card, tmp_path, capsys):
    make_run(tmp_path / "W", card=mini_card, step=3)
    files = write_scene(tmp_path, scene_arrays(32, 40))
    out = tmp_path / "map.tif"
    words = [
        "predict",
        "--workdir",
        str(tmp_path / "W"),
        "--modality",
        f"ndsm={files['ndsm']}",
        "--out",
        str(out),
    ]
    words += ["--confidence", "--window", "32", "--overlap", "8", "--device", "cpu"]
    assert main.main([*words, "--checkpoint", "3"]) == 0
    text = capsys.readouterr().out
    assert "32 x 40 pixels in 2 windows" in text
    assert "answered from: ndsm 100.0 %" in text
    assert f"map:           {out}" in text
    got, profile = read(out)
    assert set(np.unique(got)) <= {0, 1, 2}
    assert (profile["crs"], got.shape) == (CRS, (32, 40))
    confidence = read(tmp_path / "map_confidence.tif")[0]
    assert main.main([*words, "--tta"]) == 0
    assert not np.array_equal(read(tmp_path / "map_confidence.tif")[0], confidence)
    assert main.main([*words, "--checkpoint", "9"]) == 2
    assert "no step 9" in capsys.readouterr().err


def test_everything_it_can_write(fake, tmp_path, capsys):
    arrays = scene_arrays(80, 120)
    arrays["rgb"][:40, :60] = 0
    arrays["ndsm"][:20, :60] = np.nan
    files = write_scene(tmp_path, arrays, nodata={"rgb": 0})
    out = tmp_path / "o" / "map.tif"
    extras = [
        "--probabilities",
        "--confidence",
        "--entropy",
        "--scenario-map",
        "--quicklook",
        tmp_path / "q.png",
    ]
    assert predict(*given(files), "--out", out, *extras) == 0
    assert sorted(p.name for p in out.parent.iterdir()) == [
        "map.tif",
        "map.tif.aux.xml",
        "map_confidence.tif",
        "map_entropy.tif",
        "map_probabilities.tif",
        "map_scenarios.tif",
        "map_scenarios.tif.aux.xml",
    ]
    picture = np.asarray(Image.open(tmp_path / "q.png").convert("RGB")).reshape(-1, 3)
    assert len(picture) > 300_000
    classes = {tuple(c) for c in np.unique(picture, axis=0)}
    assert {tuple(c) for c in fake.card.legend.colors} <= classes
    text = capsys.readouterr().out
    assert "answered from: rgb+ndsm" in text
    got = read(out)[0]
    seen = got[got != 255]
    shares = [f"{name} {100 * (seen == k).mean():.1f} %" for k, name in enumerate(fake.classes)]
    assert f"classes:       {', '.join(shares)}; nodata in 12.5 % of the scene" in text
    assert f"quicklook:     {tmp_path / 'q.png'}" in text
    with rasterio.open(out.parent / "map_probabilities.tif") as f:
        assert f.descriptions == fake.classes
        assert np.isnan(f.nodata)


def test_other_grids_and_references(fake, tmp_path, capsys):
    arrays = scene_arrays(64, 96)
    files = write_scene(tmp_path, arrays)
    coarse = arrays["ndsm"].reshape(32, 2, 48, 2, 1).mean((1, 3))
    files["ndsm"] = write_raster(tmp_path / "coarse.tif", coarse, crs=CRS, origin=ORIGIN, pixel=1.0)
    assert predict(*given(files), "--out", tmp_path / "a.tif", "--probabilities") == 0
    text = capsys.readouterr().out
    assert "note: ndsm: " in text
    assert "is resampled (bilinear) to the grid of" in text
    got = read(tmp_path / "a_probabilities.tif")[0]
    assert np.abs(got - expected(fake, arrays)).mean() < 0.02
    assert predict(*given(files), "--out", tmp_path / "b.tif", "--reference", "ndsm") == 0
    got, profile = read(tmp_path / "b.tif")
    assert got.shape == (32, 48)
    assert profile["transform"].a == 1.0


def bad_case(name, tmp_path, files):
    """Arguments of a case, and what the one line must say."""
    out = ["--out", tmp_path / "map.tif"]
    bare = write_raster(tmp_path / "bare.tif", scene_arrays(90, 150)["ndsm"])
    far = write_raster(tmp_path / "far.tif", scene_arrays(90, 150)["ndsm"], crs=CRS, origin=(0, 0))
    cut = tmp_path / "cut.tif"
    cut.write_bytes(files["rgb"].read_bytes()[:200])
    waves = write_raster(tmp_path / "waves.tif", np.ones((40, 50), np.complex64), crs=CRS, origin=ORIGIN)
    other = write_raster(tmp_path / "other.tif", scene_arrays(80, 150)["ndsm"])
    rgb_bare = write_raster(tmp_path / "rgb_bare.tif", scene_arrays()["rgb"])
    rgb, ndsm = f"rgb={files['rgb']}", f"ndsm={files['ndsm']}"
    cases = {
        "unknown modality": ([f"rbg={files['rgb']}", *out], "no modality 'rbg' (did you mean 'rgb'?)"),
        "twice": ([rgb, "--modality", rgb, *out], "--modality rgb is given twice"),
        "no equals": ([files["rgb"], *out], "write NAME=VALUE, such as rgb=a.tif"),
        "missing file": (["rgb=/no/such.tif", *out], "/no/such.tif not found"),
        "cut off header": ([f"rgb={cut}", *out], "cut.tif"),
        "no crs beside one": ([rgb, "--modality", f"ndsm={bare}", *out], "bare.tif has no coordinate reference"),
        "no crs, two sizes": (
            [f"rgb={rgb_bare}", "--modality", f"ndsm={other}", *out],
            "neither has a coordinate reference system",
        ),
        "disjoint": ([rgb, "--modality", f"ndsm={far}", *out], "do not overlap"),
        "band count": (
            [f"rgb={files['ndsm']}", *out],
            "has 1 bands but rgb has 3 channels (red,green,blue): give a file that has them, or leave rgb out",
        ),
        "too many bands": (
            [f"ndsm={files['rgb']}", *out],
            "has 3 bands but ndsm has 1 channels: choose 1 with --bands ndsm=1",
        ),
        "complex": ([f"ndsm={waves}", *out], "waves.tif holds complex numbers (complex64): store amplitude"),
        "missing band": ([rgb, "--bands", "rgb=1,2,4", *out], "has 3 bands, no band 4"),
        "too few bands": ([rgb, "--bands", "rgb=1,2", *out], "--bands rgb names 2 bands but rgb has 3 channels"),
        "bands of nothing": ([rgb, "--bands", "ndsm=1", *out], "no --modality ndsm is given"),
        "no numbers": ([rgb, "--bands", "rgb=r,g,b", *out], "write band numbers from 1"),
        "nodata": ([rgb, "--nodata", "rgb=black", *out], "'black' is not a number"),
        "reference": ([rgb, "--reference", "ndsm", *out], "--reference ndsm: it is not among rgb"),
        "window": ([rgb, "--window", "40", *out], "--window of 40 x 40 pixels: both sides must be multiples of 16"),
        "window text": ([rgb, "--window", "x", *out], "--window 'x': write pixels"),
        "overlap": ([rgb, "--overlap", "32", *out], "overlap of 32 pixels"),
        "batch": ([rgb, "--batch", "0", *out], "--batch 0: it must be at least 1"),
        "share": ([rgb, "--max-missing", "1", *out], "--max-missing 1.0"),
        "device": ([rgb, "--device", "gpu:3", *out], "--device gpu:3: "),
        "device for a folder": ([f"rgb={tmp_path}/rg*.tif", *out, "--device", "tpu"], "--device tpu: not on this"),
        "no tif": ([rgb, "--out", tmp_path / "map.png"], "name it something.tif"),
        "over an input": ([rgb, "--modality", ndsm, "--out", files["ndsm"]], "is the input of 'ndsm'"),
        "vector format": ([rgb, *out, "--vector", "map.shp"], "one of .gpkg, .fgb, .geojson"),
        "simplify nothing": ([rgb, *out, "--simplify", "2px"], "give that too"),
        "folder": ([rgb, "--out", tmp_path / "d.tif"], "d.tif is a folder"),
        "twice written": ([rgb, *out, "--confidence", tmp_path / "map.tif"], "is named for two outputs"),
        "no pattern match": ([f"rgb={tmp_path}/none*.tif", *out], "matches no file"),
        "named in a folder run": ([f"rgb={tmp_path}/rg*.tif", *out, "--entropy", "e.tif"], "follow from --out"),
    }  # fmt: skip
    return cases[name]


BAD = [
    "unknown modality", "twice", "no equals", "missing file", "cut off header", "no crs beside one",
    "no crs, two sizes", "disjoint", "band count", "too many bands",
    "complex", "missing band", "too few bands", "bands of nothing",
    "no numbers", "nodata", "reference", "window", "window text", "overlap", "batch", "share", "device",
    "device for a folder", "no tif",
    "over an input", "folder", "vector format", "simplify nothing", "twice written", "no pattern match",
    "named in a folder run",
]  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_writes_nothing(fake, tmp_path, capsys, case):
    files = write_scene(tmp_path, scene_arrays(90, 150))
    (tmp_path / "d.tif").mkdir()
    words, message = bad_case(case, tmp_path, files)
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")}
    assert predict("--modality", *words) == 2
    shown = capsys.readouterr().err.replace("\r", "\n").splitlines()
    error = [line for line in shown if line.strip() and "window/s" not in line]
    assert len(error) == 1, error
    assert message in error[0]
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")} == before


def test_no_checkpoint_and_another_runs_checkpoint(mini_card, tmp_path, capsys):
    files = write_scene(tmp_path, scene_arrays(32, 32))
    make_run(tmp_path / "W", card=mini_card)
    config = tmp_path / "W" / "config.json"
    config.write_text(config.read_text().replace('"width": 8', '"width": 16'))
    shutil.copytree(tmp_path / "W", tmp_path / "E", ignore=shutil.ignore_patterns("checkpoints"))
    for workdir, message in ("W", "another config"), ("E", "no checkpoint: train first"), ("N", "not"):
        words = ["--workdir", str(tmp_path / workdir), "--modality", f"rgb={files['rgb']}"]
        assert main.main(["predict", *words, "--out", str(tmp_path / "map.tif")]) == 2
        assert message in capsys.readouterr().err


def test_a_folder_of_scenes(fake, tmp_path, capsys):
    for i in "abcd":
        write_scene(tmp_path / "in", scene_arrays(40, 50, seed=ord(i)), prefix=f"{i}_")
    (tmp_path / "in" / "b_ndsm.tif").unlink()
    bad = tmp_path / "in" / "c_rgb.tif"
    bad.write_bytes(bad.read_bytes()[: bad.stat().st_size // 2])
    (tmp_path / "in" / "d_rgb.tif").unlink()
    words = [f"rgb={tmp_path}/in/*_rgb.tif", "--modality", f"ndsm={tmp_path}/in/*_ndsm.tif"]
    words += ["--out", tmp_path / "maps", "--scenario-map", "--reference", "ndsm"]
    assert predict("--modality", *words) == 1
    done = capsys.readouterr()
    assert "scene 'c' failed: " in done.err
    assert "c_rgb.tif is damaged or cut off" in done.err
    assert "3 scenes predicted, 1 failed" in done.out
    names = sorted(p.name for p in (tmp_path / "maps").glob("*.tif"))
    assert names == [f"{i}{end}.tif" for i in "abd" for end in ("", "_scenarios")]
    assert [(read(tmp_path / "maps" / f"{i}_scenarios.tif")[0]).max() for i in "abd"] == [0, 1, 2]
    write_scene(tmp_path / "in", scene_arrays(40, 50, seed=9), prefix="c_")
    kept = (tmp_path / "maps" / "a.tif").stat().st_mtime_ns
    assert predict("--modality", *words) == 0
    assert "1 scenes predicted, 3 were there already" in capsys.readouterr().out
    assert (tmp_path / "maps" / "a.tif").stat().st_mtime_ns == kept


def test_ids_come_from_the_star(tmp_path):
    for name in ("a/x.tif", "b/x.tif", "b/y.tif"):
        write_raster(tmp_path / name, np.zeros((4, 4), np.uint8))
    file = ModalityFile(tmp_path / "*" / "*.tif")
    assert sorted(folder.find_scenes({"rgb": file})) == ["a_x", "b_x", "b_y"]
    with pytest.raises(Dis2Error, match=r"must have a \*"):
        folder.find_scenes({"rgb": ModalityFile(tmp_path / "a" / "x.tif")})


@contextlib.contextmanager
def tiny_disk(path, size):
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(path)]
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("only root can mount a small file system")
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("mounting is not permitted here")
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)


@pytest.mark.parametrize("room", ["100k", "700k"])  # full while strips are written, and while they are joined
def test_a_full_disk_for_real(fake, tmp_path, capsys, room):
    noise = np.random.default_rng(0).integers(0, 255, (200, 260, 3), dtype=np.uint8)
    files = write_scene(tmp_path, {"rgb": noise})
    with tiny_disk(tmp_path / "disk", room) as disk:
        assert predict(*given(files), "--out", disk / "map.tif") in (0, 2)
        old = (disk / "map.tif").read_bytes() if (disk / "map.tif").exists() else None
        capsys.readouterr()
        assert predict(*given(files), "--out", disk / "map.tif", "--probabilities", "--overlap", "4") == 2
        error = capsys.readouterr().err.splitlines()[-1]
        assert "the disk is full" in error
        assert ((disk / "map.tif").read_bytes() if (disk / "map.tif").exists() else None) == old
        assert not (disk / "map_probabilities.tif").exists()


def test_a_read_only_disk(fake, tmp_path, capsys):
    files = write_scene(tmp_path, scene_arrays(40, 40))
    with tiny_disk(tmp_path / "disk", "900k") as disk:
        assert predict(*given(files), "--out", disk / "map.tif") == 0
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        for out in (disk / "map.tif", disk / "new" / "map.tif"):
            assert predict(*given(files), "--out", out) == 2
            assert "choose another --out" in capsys.readouterr().err.splitlines()[-1]
        assert read(disk / "map.tif")[0].shape == (40, 40)


@pytest.mark.parametrize("suffix", [".gpkg", ".fgb", ".geojson"])
def test_polygons_follow_the_pixels_and_are_the_same_again(fake, tmp_path, suffix):
    pyogrio = pytest.importorskip("pyogrio")
    shapely = pytest.importorskip("shapely")
    files = write_scene(tmp_path, scene_arrays(60, 80))
    named = [tmp_path / f"{name}{suffix}" for name in "ab"]
    for path in named:
        assert predict(*given(files), "--out", tmp_path / "map.tif", "--vector", path) == 0
    assert named[0].read_bytes() == named[1].read_bytes()
    meta, _, geometry, (names, codes, areas) = pyogrio.raw.read(named[0])
    got = read(tmp_path / "map.tif")[0]
    assert "32633" in meta["crs"]
    shapes = shapely.from_wkb(geometry)
    for k, name in enumerate(fake.classes):
        assert set(names[codes == k]) <= {name}
        assert np.isclose(areas[codes == k].sum(), 0.25 * (got == k).sum())
        back = rasterio.features.rasterize(
            shapes[codes == k], got.shape, transform=rasterio.Affine(0.5, 0, ORIGIN[0], 0, -0.5, ORIGIN[1])
        )
        np.testing.assert_array_equal(back, got == k)
    np.testing.assert_allclose(shapely.area(shapes), areas)
    assert set(np.unique(shapely.get_coordinates(shapes) % 0.5)) == {0}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))  # stands for a full disk
    try:
        with pytest.raises(OSError, match=r"\[Errno 5\].*full"):
            vector.write_polygons(tmp_path / "map.tif", fake.card.legend, tmp_path / f"full{suffix}")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize("left", ["whole", "torn", "journal"])
@pytest.mark.parametrize("suffix", [".gpkg", ".fgb", ".geojson"])
def test_polygons_that_a_killed_run_left_are_written_anew(fake, tmp_path, suffix, left):
    """GDAL writes into a GeoPackage that is there, and SQLite applies a journal that lies beside it."""
    pytest.importorskip("pyogrio")
    files = write_scene(tmp_path, scene_arrays(60, 80))
    assert predict(*given(files), "--out", tmp_path / "map.tif") == 0
    first, again = tmp_path / f"first{suffix}", tmp_path / f"again{suffix}"
    vector.write_polygons(tmp_path / "map.tif", fake.card.legend, first)
    if left != "journal":
        again.write_bytes(first.read_bytes()[: None if left == "whole" else 5000])
    again.with_name(f"{again.name}-journal").write_bytes(bytes(512))
    vector.write_polygons(tmp_path / "map.tif", fake.card.legend, again)
    assert again.read_bytes() == first.read_bytes()
    assert not again.with_name(f"{again.name}-journal").exists()


def test_areas_in_degrees_and_feet(fake, tmp_path):
    pyogrio = pytest.importorskip("pyogrio")
    pytest.importorskip("shapely")
    sine = np.sin(np.radians(60)) ** 2
    a, e2 = 6378137.0, 0.00669437999  # WGS 84: radii of curvature along and across the meridian
    along, across = a * (1 - e2) / (1 - e2 * sine) ** 1.5, a / (1 - e2 * sine) ** 0.5 * 0.5
    for name, crs, corner, side, metres in (
        ("degrees", "EPSG:4326", (11.0, 60.005), 1e-4, np.radians(1) * np.sqrt(along * across)),
        ("feet", "EPSG:2263", (1e6, 2e5), 2.0, 1200 / 3937),
    ):
        codes = np.zeros((100, 80), np.uint8)
        codes[20:60] = 1
        write_raster(tmp_path / f"{name}.tif", codes, nodata=255, crs=crs, origin=corner, pixel=side)
        vector.write_polygons(tmp_path / f"{name}.tif", fake.card.legend, tmp_path / f"{name}.fgb")
        _, _, _, (_, found, areas) = pyogrio.raw.read(tmp_path / f"{name}.fgb")
        for code in (0, 1):
            wanted = (codes == code).sum() * (side * metres) ** 2
            np.testing.assert_allclose(areas[found == code].sum(), wanted, rtol=1e-4)


@pytest.mark.parametrize("amount", ["2px", "1m"])
def test_simplified_polygons_still_meet(fake, tmp_path, capsys, amount):
    pyogrio = pytest.importorskip("pyogrio")
    shapely = pytest.importorskip("shapely")
    files = write_scene(tmp_path, scene_arrays(60, 80))
    words = [*given(files), "--out", tmp_path / "map.tif", "--vector"]
    assert predict(*words) == 0
    exact = shapely.from_wkb(pyogrio.raw.read(tmp_path / "map.gpkg")[2])
    assert predict(*words, "--simplify", amount) == 0
    shapes = shapely.from_wkb(pyogrio.raw.read(tmp_path / "map.gpkg")[2])
    assert shapely.get_num_coordinates(shapes).sum() < 0.6 * shapely.get_num_coordinates(exact).sum()
    assert shapely.coverage_is_valid(shapes)
    assert np.isclose(shapely.area(shapely.union_all(shapes)), 0.25 * 60 * 80, rtol=0.01)
    assert np.isclose(shapely.area(shapely.union_all(shapes)), shapely.area(shapes).sum())
    bare = write_scene(tmp_path / "bare", scene_arrays(60, 80), crs=None)
    words = [*given(bare), "--out", tmp_path / "bare.tif", "--vector"]
    for wrong, message in {
        ("--simplify", "2"): "such as 2px or 1.5m",
        ("--simplify", "0px"): "above 0",
        ("--simplify", "1m"): "give pixels",
        (tmp_path / "bare.geojson",): "choose .gpkg or .fgb",
    }.items():
        assert predict(*words, *wrong) == 2
        assert message in capsys.readouterr().err
        assert not list(tmp_path.glob("bare.*"))


def test_bench_measures_whole_scenes(fake, tmp_path, capsys):
    out = tmp_path / "b.json"
    words = ["bench", "predict", "--workdir", "W", "--size", "100", "--scenario", "rgb", "--json", str(out)]
    assert main.main(words) == 0
    figures = json.loads(out.read_text())
    assert (figures["scenario"], figures["windows"], figures["window"]) == ("rgb", 16, [32, 32])
    assert np.isclose(figures["megapixels_per_second"], 0.01 / figures["scene_seconds"])
    assert figures["network_megapixels_per_second"] > 0
    assert "megapixels/s" in capsys.readouterr().out
    assert main.main([*words, "--config", "c.py"]) == 2
    assert "--workdir or --config, not both" in capsys.readouterr().err


def test_polygons_need_their_libraries(fake, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyogrio", None)
    with pytest.raises(Dis2Error, match=r"pip install 'dis2-jax\[vector\]'"):
        vector.check_installed()
