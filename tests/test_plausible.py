"""What is said about scenes that do not look like the training data, and that ordinary scenes are let be."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import rasterio
from scene_files import fake_model, scene_arrays, write_scene

from dis2_jax.data.rasters import RasterInfo
from dis2_jax.inference.inputs import ModalityFile, open_scene
from dis2_jax.inference.plausible import pixel_metres, value_doubt
from dis2_jax.schema import Modality, SourceFormat

RGB = Modality(
    "rgb", 3, kind="optical", unit="digital number", mean=(96.0, 97.0, 81.0), std=(25.0, 20.0, 26.0)
)
S2 = Modality("s2", 2, kind="optical", unit="reflectance", mean=(0.08, 0.2), std=(0.05, 0.1))
HEIGHT = Modality("ndsm", 1, kind="height", unit="m", mean=(1.9,), std=(3.3,))
DB = Modality("s1", 2, kind="sar", unit="dB", mean=(-11.0, -18.0), std=(4.0, 4.5))
DECIMETRES = dataclasses.replace(HEIGHT, source=SourceFormat(scale=0.1))
RAW = Modality("rgb", 3, kind="optical", unit="digital number", mean=(310.0, 400, 350), std=(120.0, 140, 160))
STORED = dataclasses.replace(S2, source=SourceFormat(scale=1e-4))
POWER = Modality("s1", 2, kind="sar", unit="linear power", mean=(0.11, 0.03), std=(0.12, 0.04))


def pixels(modality, *, shift=0.0, spread=0.8):
    """An ordinary scene: means off by ``shift`` deviations, and ``spread`` times as wide."""
    g = np.random.default_rng(0)
    mean, std = np.array(modality.mean), np.array(modality.std)
    return g.normal(mean + shift * std, spread * std, (4000, modality.channels))


def with_fill(x, value, share=0.1):
    return np.where(np.arange(len(x))[:, None] < share * len(x), value, x)


def whole(x):
    return np.rint(x.clip(0))


FLOAT, BYTE, SHORT = (np.dtype(d) for d in ("float32", "uint8", "uint16"))

ODD = {
    "0..1 for 0..255": (RGB, pixels(RGB).clip(0, 255) / 255, "multiplied by 255"),
    "0..1, darker": (RGB, pixels(RGB, shift=-0.02).clip(0, 255) / 255, "multiplied by 255"),
    "16 bit for 8": (RGB, pixels(RGB).clip(0, 255) * 257, "divided by 257"),
    "numbers for reflectance": (S2, pixels(S2).clip(0, 1) * 10_000, "divided by 10000"),
    "centimetres": (HEIGHT, pixels(HEIGHT).clip(0) * 100, "divided by 100"),
    "decimetres": (HEIGHT, pixels(HEIGHT, spread=1).clip(0) * 10, "divided by 10"),
    "whole decimetres, low": (HEIGHT, whole(pixels(HEIGHT, spread=0.5) * 10), "divided by 10"),
    "metres for decimetres": (DECIMETRES, 0.1 * pixels(HEIGHT).clip(0), "multiplied by 10"),
    "8 bits for 16": (
        RAW,
        pixels(RGB).clip(0, 255),
        "a file of 8 bits where the training data (350 ± 140",
        BYTE,
    ),
    "8 bits for reflectance": (STORED, 1e-4 * pixels(RGB)[:, :2], "a file of 8 bits", BYTE),
    "above sea level": (HEIGHT, pixels(HEIGHT) + 512, "above ground or above sea level"),
    "linear for dB": (DB, 10 ** (pixels(DB) / 10), "as decibels of linear power"),
    "amplitude for dB": (DB, 10 ** (pixels(DB) / 20), "as decibels of amplitude"),
    "hundredths of dB": (DB, pixels(DB) * 100, "divided by 100"),
    "digital numbers for dB": (DB, np.full((4000, 2), 2900.0) + pixels(DB), "check the unit"),
    "dB for linear": (POWER, pixels(DB), "as linear power of decibels"),
    "undeclared nodata": (HEIGHT, with_fill(pixels(HEIGHT), -9999.0), "give --nodata ndsm=-9999"),
}


@pytest.mark.parametrize("case", ODD)
def test_what_looks_like_another_unit_is_one_line(case):
    modality, x, message, *dtype = ODD[case]
    text = value_doubt(x, modality, dtype=dtype[0] if dtype else FLOAT)
    assert message in text
    assert text.startswith(f"{modality.name}: ")
    assert f"{np.median(modality.mean):.3g}" in text
    assert "\n" not in text


ORDINARY = {
    "average": (RGB, pixels(RGB)),
    "dark water": (RGB, pixels(RGB, shift=-3, spread=0.1)),
    "night in whole numbers": (RGB, np.random.default_rng(0).integers(0, 2, (4000, 3)), BYTE),
    "8 bits in 16": (RGB, pixels(RGB), SHORT),
    "8 bits, every other pixel white": (
        dataclasses.replace(RGB, mean=(130.0,) * 3, std=(126.0,) * 3),
        pixels(RGB),
        BYTE,
    ),
    "11 bits in the shade": (RAW, pixels(RAW, shift=-2, spread=0.3), SHORT),
    "whole metres": (HEIGHT, whole(pixels(HEIGHT, shift=1, spread=2))),
    "whole metres above the sea": (
        dataclasses.replace(HEIGHT, mean=(300.0,), std=(200.0,)),
        whole(pixels(HEIGHT) * 20 + 1000),
        SHORT,
    ),
    "low, in whole decimetres": (DECIMETRES, 0.1 * whole(pixels(HEIGHT, shift=-0.4, spread=0.15) * 10), BYTE),
    "snow": (RGB, with_fill(pixels(RGB), 255.0, 0.9)),
    "black border": (RGB, with_fill(pixels(RGB), 0.0, 0.8)),
    "all flat": (HEIGHT, np.zeros((4000, 1))),
    "towers": (HEIGHT, pixels(HEIGHT, shift=4, spread=4)),
    "calm sea in dB": (DB, pixels(DB, shift=-3, spread=0.3)),
    "city in dB": (DB, pixels(DB, shift=2.5, spread=1.5)),
    "calm sea, linear": (POWER, pixels(POWER, shift=-0.8, spread=0.03)),
    "too few": (RGB, pixels(RGB)[:10] / 255),
}


@pytest.mark.parametrize("case", ORDINARY)
def test_ordinary_scenes_are_let_be(case):
    modality, x, *dtype = ORDINARY[case]
    assert value_doubt(x, modality, dtype=dtype[0] if dtype else FLOAT) == ""


def test_notes_come_before_the_work_and_name_pixel_sizes(mini_card, tmp_path):
    card = dataclasses.replace(mini_card, ground_sampling_distance=0.1)
    arrays = scene_arrays(40, 50)
    arrays["ndsm"] *= 100
    files = write_scene(tmp_path, arrays)
    events = []
    result = fake_model(card).predict_scene(
        files,
        out=tmp_path / "map.tif",
        on_note=lambda text: events.append(text),
        on_windows=lambda *_: events.append("window"),
    )
    size, unit = result.notes
    assert events[:3] == [size, unit, "window"]
    assert size.startswith("rgb: pixels of 0.5 m")
    assert "training data have 0.1 m" in size
    assert unit.startswith("ndsm: values around 5")
    near = dataclasses.replace(card, ground_sampling_distance=0.4)
    with open_scene({"rgb": ModalityFile(files["rgb"])}, near) as scene:
        assert scene.notes == ()


@pytest.mark.parametrize(
    ("crs", "transform", "metres"),
    [
        ("EPSG:32633", (0.3, 0.4, 5e5, 0.4, -0.3, 5e6), 0.5),
        ("EPSG:2263", (1.0, 0, 1e6, 0, -1.0, 2e5), 0.3048),
        ("EPSG:4326", (1e-5, 0, 11.0, 0, -1e-5, 60.0), 1.1132 * 0.5**0.5),
        (None, (1.0, 0, 0, 0, -1.0, 0), None),
    ],
)
def test_pixel_sizes_in_metres(crs, transform, metres):
    grid = RasterInfo("a.tif", 10, 10, 1, "uint8", crs=rasterio.CRS.from_string(crs) if crs else None)
    found = pixel_metres(dataclasses.replace(grid, transform=transform))
    assert found == (metres if metres is None else pytest.approx(metres, rel=5e-3))
