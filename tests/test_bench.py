"""`dis2 bench`: a step on random data, the input pipeline and encodings on small datasets."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from stream_case import write_scenes

from dis2_jax import bench, bench_sharding
from dis2_jax.abstract_step import trace_step
from dis2_jax.bench_encodings import bench_encodings
from dis2_jax.bench_input import bench_input
from dis2_jax.cli import main
from dis2_jax.cli.arguments import parse_tile
from dis2_jax.cli.bench import parse_modalities
from dis2_jax.config import Config, DataConfig, ShardingConfig
from dis2_jax.random_tiles import empty_batch, random_batch, random_card
from dis2_jax.schema import Dis2Error
from dis2_jax.sharding.collectives import Collective
from dis2_jax.sharding.placement import make_placement
from dis2_jax.training.augment import augment_of

CARD = random_card([("rgb", 3), ("ndsm", 1)], classes=3, tile=(16, 32))


def test_step_is_measured_and_written(tmp_path, capsys, monkeypatch):
    # A test may take what an earlier one compiled; a measurement may not.
    monkeypatch.setattr(bench, "_no_persistent_cache", contextlib.nullcontext)
    out = tmp_path / "figures" / "bench.json"
    options = "--tile 16x32 --batch 2 --steps 3 --modalities s2:2,s1:1 --classes 3 --config.model.width=8"
    assert main.main(["bench", "step", *options.split(), "--config.model.depth=1", "--json", str(out)]) == 0
    figures = json.loads(out.read_text())
    assert figures["modalities"] == {"s2": 2, "s1": 1}
    assert (figures["tile"], figures["batch"], figures["dtype"]) == ([16, 32], 2, "float32")
    assert figures["step_ms_min"] <= figures["step_ms"] <= figures["step_ms_max"]
    assert math.isclose(figures["tiles_per_second"], 2000 / figures["step_ms"])
    assert figures["compile_seconds"] > 0
    assert figures["trace_seconds"] > 0
    assert figures["peak_memory"] > 10 * 2**20
    assert figures["flops"] > 1e6
    text = capsys.readouterr().out
    for word in ("compile", "of tracing", "tiles/s", "peak", "GFLOP"):
        assert word in text


@pytest.mark.parametrize(
    ("tile", "batch", "steps", "dtype", "text"),
    [
        ((20, 32), 2, 1, "float32", "multiples of 16"),
        ((16, 32), 0, 1, "float32", "at least 1"),
        ((16, 32), 2, 0, "float32", "at least 1"),
        ((16, 32), 2, 1, "float64", "JAX_ENABLE_X64"),
    ],
)
def test_impossible_sizes_are_refused(tile, batch, steps, dtype, text):
    config = Config.from_dict({"model": {"dtype": dtype}})
    with pytest.raises(Dis2Error, match=text):
        bench.bench_step(config, CARD, tile=tile, batch=batch, steps=steps)


def test_random_batches_are_those_that_the_step_gets_from_the_pipeline():
    """What the host makes of them, and what the step's own augmentation makes of the tiles as they are stored."""
    host = DataConfig(rotate_degrees=20.0, scale=(0.8, 1.25), workers=2)
    device = dataclasses.replace(host, augment="device")
    card = dataclasses.replace(
        CARD,
        modalities=tuple(
            dataclasses.replace(m, mean=(9.0,) * m.channels, std=(2.0,) * m.channels) for m in CARD.modalities
        ),
    )
    made = random_batch(card, host, tile=card.tile, batch=3)
    stored = random_batch(card, device, tile=card.tile, batch=3)
    assert augment_of(card, host) is None
    again = augment_of(card, device)(stored)
    for name in card.modality_names:
        assert abs(made["image"][name].mean()) < 0.2
        assert abs(stored["image"][name].mean() - 9) < 0.2
        np.testing.assert_allclose(again["image"][name], made["image"][name], atol=2e-3)
    np.testing.assert_array_equal(again["label"], made["label"])
    larger = random_batch(card, device, tile=(16, 16), batch=3)
    assert larger["image"]["rgb"].shape == (3, *card.tile, 3), "samples are cut from whole tiles"
    assert augment_of(card, dataclasses.replace(device, crop=(16, 16)))(larger)["label"].shape == (3, 16, 16)
    for data in (host, device):
        one, several = (
            empty_batch(card, data, tile=(16, 16)),
            random_batch(card, data, tile=(16, 16), batch=3),
        )
        assert jax.tree.map(lambda x: (x.shape[1:], x.dtype), one) == jax.tree.map(
            lambda x: (x.shape[1:], x.dtype), several
        )


@pytest.mark.parametrize("augment", ["host", "device"])
def test_a_plan_traces_what_the_step_gets(augment):
    """Whole tiles, where the step cuts samples of them itself."""
    config = Config.from_dict(
        {"data": {"augment": augment, "batch_size": 2, "crop": [16, 16]}, "model": {"width": 8, "depth": 1}}
    )
    placement = make_placement(ShardingConfig("single"))
    traced, _ = trace_step(config, CARD, tile=(16, 16), placement=placement)
    tiles = [v for v in traced.jaxpr.in_avals if v.shape[:1] == (2,) and v.shape[-1:] == (3,)]
    assert [v.shape for v in tiles] == [(2, 16, 32, 3) if augment == "device" else (2, 16, 16, 3)]


def test_strategies_are_measured_side_by_side(monkeypatch, capsys):
    """With a stand-in for the step: the real one, and the strategies, have tests of their own."""
    seen = []

    def prepare(config, card, *, tile, batch):
        seen.append((config.sharding, tile, batch))
        state, data = jnp.zeros(1024), jnp.ones((batch, 4))
        compiled = jax.jit(lambda s, d: (s + d.sum(), s)).lower(state, data).compile()
        return bench.Prepared(compiled, state, data, (), make_placement(config.sharding), 1.0, 1.0)

    monkeypatch.setattr(bench_sharding, "prepare_step", prepare)
    found = [Collective("all-reduce", size * 2**20, ((0, 1),), count) for size, count in ((1, 3), (2, 1))]
    monkeypatch.setattr(bench_sharding, "parse_collectives", lambda text: found)
    options = "--strategies dp fsdp@fsdp:-1/branch fdsp --tile 16 --batch 2 --classes 3"
    assert main.main(["bench", "sharding", *options.split()]) == 2, "the last one is none; the others stay"
    told = capsys.readouterr()
    head, _, first, second = told.out.splitlines()
    assert head.startswith("| strategy | mesh | state MiB")
    assert first.startswith("| dp | data 1 | 0.0 |")
    assert first.endswith("| 4 all-reduce 5.00 |")
    assert second.startswith("| fsdp@fsdp:-1/branch | fsdp 1 |")
    sharding = ShardingConfig("fsdp", remat="branch", axes="fsdp:-1")
    assert seen == [(ShardingConfig("dp"), (16, 16), 2), (sharding, (16, 16), 2)]
    assert "sharding.strategy = 'fdsp' (did you mean 'fsdp'?)" in told.err


def test_strategies_too_large_to_run_are_compiled(capsys, monkeypatch):
    monkeypatch.setattr(bench_sharding, "prepare_step", lambda *_, **__: pytest.fail("a state was made"))
    options = "--strategies dp --steps 0 --tile 16 --batch 3 --config.model.width=8 --config.model.depth=1"
    assert main.main(["bench", "sharding", *options.split()]) == 0
    name, mesh, state, temporaries, time, _ = capsys.readouterr().out.splitlines()[2].strip("| ").split(" | ")
    assert (name, mesh, time) == ("dp", "data 1", "-")
    assert float(state) > 1
    assert float(temporaries) > 1


def test_options_are_read():
    assert parse_tile("128") == (128, 128)
    assert parse_tile("64x96") == (64, 96)
    assert parse_modalities("rgb:3, ndsm:1") == [("rgb", 3), ("ndsm", 1)]
    with pytest.raises(Dis2Error, match="128x256"):
        parse_tile("12.5")
    with pytest.raises(Dis2Error, match="name:channels"):
        parse_modalities("rgb")


def test_input_is_measured_stage_by_stage(mini_dataset, tmp_path, capsys):
    out = tmp_path / "input.json"
    options = ["--config.data.batch_size=2", "--config.data.crop=16,16", "--seconds", "0.1", "--step-ms", "2"]
    command = ["bench", "input", f"--config.data.dir={mini_dataset}", *options, "--json", str(out)]
    assert main.main(command) == 0
    f = json.loads(out.read_text())
    assert list(f["stages"]) == ["read", "decode", "augment", "batch", "transfer"]
    assert all(s["wall_ms"] > 0 for s in f["stages"].values())
    assert f["tile_mb"] == 32 * 32 * (3 + 4 + 1) / 1e6
    assert f["record_mb"] < f["tile_mb"]
    assert f["tiles_per_second"] > 0
    assert 0 <= f["stall"] < 1
    assert math.isclose(f["cores"], f["cpu_ms"] * 2 / 2)
    text = capsys.readouterr().out
    for word in ("16 x 16", "tiles/s", "MB/s", "x bare", "waits", "per accelerator"):
        assert word in text


def test_input_of_scenes_and_what_cannot_be_measured(tmp_path):
    config = Config.from_dict({"data": {"dir": str(write_scenes(tmp_path)), "batch_size": 2}})
    found = bench_input(config, seconds=0.05)
    assert list(found.stages) == ["read+decode", "augment", "batch", "transfer"]
    assert (found.stall, found.cores, found.record_mb) == (None, None, None)
    with pytest.raises(Dis2Error, match=r"data\.dir is empty"):
        bench_input(Config())
    with pytest.raises(Dis2Error, match="above 0"):
        bench_input(config, step_ms=0.0)


def test_encodings_are_measured_on_the_tiles(mini_dataset, capsys):
    assert main.main(["bench", "encodings", str(mini_dataset), "--tiles", "4"]) == 0
    table = capsys.readouterr().out
    assert table.count("png") == 2
    assert table.count("(record)") == 3
    sizes = {(f.raster, f.encoding): f for f in bench_encodings(mini_dataset, tiles=4).figures}
    assert ("ndsm", "png") not in sizes, "PNG holds no floats"
    assert sizes["ndsm", "raw"].stored_bytes == sizes["ndsm", "raw"].raw_bytes == 32 * 32 * 4
    assert sizes["label", "zstd"].stored_bytes < 32 * 32 / 2
