"""The parts of a plan that need no compiler: machine names, networks, the model of time."""

from __future__ import annotations

import dataclasses
import math
from types import SimpleNamespace

import pytest

from dis2_jax.planning import devices
from dis2_jax.planning.axes import plan_axes
from dis2_jax.planning.chips import CHIPS, chip
from dis2_jax.planning.facts import Exchange, Facts, Memory
from dis2_jax.planning.gpu_target import target_config
from dis2_jax.planning.model import HOP_SECONDS, HOST_SECONDS, exchange_seconds, predict
from dis2_jax.planning.networks import Place, places, summarise
from dis2_jax.planning.topology import parse_topology
from dis2_jax.schema import Dis2Error
from dis2_jax.sharding.collectives import Collective

FACTS = Facts(
    devices=256,
    memory=Memory(arguments=2**30, outputs=2**30, aliased=2**30, temporaries=3 * 2**30, code=2**20),
    model_flops=1.97e12,
    flops=2.0 * 1.97e12,
    flops_source="XLA",
    bytes_accessed=10**9,
    padded_bytes=8_190_000_000,
    cycles=None,
    instructions=1,
    exchanges=(),
    parameters=1,
    lower_seconds=1.0,
    compile_seconds=1.0,
    versions={"jax": "0"},
)


@pytest.mark.parametrize(
    ("text", "shape", "slices", "chips"),
    [
        ("v5e:16x16", (16, 16), 1, 256),
        ("v5e:1", (1, 1), 1, 1),
        ("v5p:16x16x16", (16, 16, 16), 1, 4096),
        ("2*v6e:4x4", (4, 4), 2, 32),
        ("h100:128", (16, 8), 1, 128),
        ("h200:1", (1, 1), 1, 1),
    ],
)
def test_names_of_machines(text, shape, slices, chips):
    found = parse_topology(text)
    assert (found.shape, found.slices, found.chips) == (shape, slices, chips)
    assert found.devices == chips * found.chip.devices_per_chip


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("v5e", "write chip:size"),
        ("v5x:4x4", "did you mean 'v5"),
        ("v5p:4x4", "3 dimensions: v5p:4x4x4"),
        ("h100:12", "multiple of 8"),
        ("h100:2x8", "number of GPUs"),
        ("2*v4:4x4x4", "no DCN bandwidth"),
        ("v5e:0x4", "at least 1"),
    ],
)
def test_machines_that_are_none(text, message):
    with pytest.raises(Dis2Error, match=message):
        parse_topology(text)


@pytest.mark.parametrize(
    ("strategy", "machine", "tile", "axes"),
    [
        ("dp", "v5e:16x16", 512, ""),
        ("spatial", "h100:128", 1024, "data:-1,rows:8"),
        ("spatial", "h100:128", 64, "data:-1,rows:2"),
        ("spatial", "v5e:2x4", 1024, "data:-1,rows:8"),
        ("spatial", "v5e:16x16", 1024, "data:-1,rows:2"),
        ("spatial", "v5e:1", 512, "data:-1,rows:1"),
        ("class", "v5e:16x16", 512, "data:-1,classes:2"),
        ("class", "h100:3", 512, "data:-1,classes:3"),
        ("hsdp", "v5e:16x16", 512, ""),
        ("hsdp", "h100:128", 512, "data:16,fsdp:-1"),
    ],
)
def test_axes_that_suit_many_chips(strategy, machine, tile, axes):
    assert plan_axes(strategy, parse_topology(machine), tile=(tile, tile), classes=6) == axes


@pytest.mark.parametrize(
    ("machine", "bounds"),
    [("v5e:2x4", (2, 4, 1)), ("v6e:2x4", (2, 4, 1)), ("v5e:4x2", None), ("v5e:2x2", None), ("v5e:4x4", None)],
)
def test_a_slice_of_eight_chips_is_one_host_to_the_compiler(machine, bounds):
    _, options = devices._tpu_name(parse_topology(machine))
    assert options.get("chips_per_host_bounds") == bounds


def test_every_chip_names_its_source_and_every_gpu_its_target():
    for c in CHIPS:
        assert c.source
        assert c.memory_bandwidth > c.link_bandwidth > 0
        if c.gpu is not None:
            text = target_config(c)
            assert f"device_memory_size: {c.memory}" in text
            assert text.count("{") == text.count("}")


def test_groups_are_placed_on_their_network():
    v5e = [SimpleNamespace(coords=[x, y, 0], slice_index=None) for y in range(4) for x in range(4)]
    where = places(v5e, chip("v5e"))
    row = Collective("all-reduce", 100, ((0, 1, 2, 3), (4, 5, 6, 7)), 2)
    every = Collective("all-reduce", 50, ((),), 1)
    alone = Collective("all-reduce", 50, tuple((i,) for i in range(16)), 1)
    assert summarise([row, row, every, alone], where) == (
        Exchange("all-reduce", 4, 400, 4, (4, 1), 1),
        Exchange("all-reduce", 1, 50, 16, (4, 4), 1),
    )
    h100 = [SimpleNamespace(process_index=i // 8, id=i) for i in range(16)]
    where = places(h100, chip("h100"))
    assert where[9] == Place(1, (1,))
    assert summarise([every], where) == (Exchange("all-reduce", 1, 50, 16, (8,), 2),)
    between = Collective("all-reduce", 64, (), 1, slices=2)
    assert summarise([between], where) == (Exchange("all-reduce", 1, 64, 2, (), 2),)


def test_seconds_on_rings_lines_and_between_hosts():
    size = 10**9
    ring = exchange_seconds(Exchange("all-reduce", 1, size, 256, (16, 16)), parse_topology("v5e:16x16"))
    assert ring == {"ICI": pytest.approx(2 * 255 / 256 * size / (4 * 50e9) + 16 * HOP_SECONDS)}
    line = exchange_seconds(Exchange("all-gather", 1, size, 8, (8, 1)), parse_topology("v5e:8x8"))
    assert line == {"ICI": pytest.approx(7 / 8 * size / 50e9 + 7 * HOP_SECONDS)}
    hosts = exchange_seconds(Exchange("all-reduce", 1, size, 128, (8,), 16), parse_topology("h100:128"))
    assert hosts["NVLink"] == pytest.approx(2 * 7 / 8 * size / 450e9 + HOP_SECONDS)
    assert hosts["InfiniBand"] == pytest.approx(2 * 15 / 16 * size / 8 / 50e9 + 4 * HOST_SECONDS)


def test_a_step_is_products_memory_launches_and_networks():
    machine = parse_topology("v5e:16x16")
    p = predict(FACTS, machine, global_batch=1024, dtype="bfloat16")
    assert (p.products, p.memory) == (pytest.approx(0.02), pytest.approx(0.01))
    assert p.step == pytest.approx(0.03)
    assert p.mfu == pytest.approx(1 / 3), "half of the operations are recomputed"
    assert p.tiles_per_second == pytest.approx(1024 / 0.03)
    assert p.bound == "products"
    cycles = predict(
        dataclasses.replace(FACTS, cycles=60_000_000), machine, global_batch=1024, dtype="bfloat16"
    )
    assert cycles.step == pytest.approx(0.04)
    assert cycles.bound == "instructions"
    many = dataclasses.replace(FACTS, instructions=50_000)
    kernels = predict(many, parse_topology("h100:128"), global_batch=1024, dtype="bfloat16")
    assert kernels.step == pytest.approx(kernels.products + kernels.memory + 0.05)
    assert kernels.bound == "launches"
    exchange = Exchange("all-reduce", 1, 10**9, 256, (16, 16))
    sent = predict(
        dataclasses.replace(FACTS, exchanges=(exchange,)), machine, global_batch=1024, dtype="bfloat16"
    )
    assert sent.step == pytest.approx(0.03 + sent.networks["ICI"])
    assert FACTS.memory.peak == 4 * 2**30 + 2**20


def test_cores_share_their_chip():
    machine = parse_topology("tpu7x:2x2x2")
    p = predict(FACTS, machine, global_batch=8, dtype="bfloat16")
    assert p.products == pytest.approx(FACTS.flops / (2307e12 / 2))
    assert math.isclose(p.memory, FACTS.padded_bytes / 3690e9)


def test_facts_survive_json():
    import json

    facts = dataclasses.replace(FACTS, exchanges=(Exchange("all-reduce", 1, 2, 3, (4, 5)),))
    assert Facts.from_dict(json.loads(json.dumps(dataclasses.asdict(facts)))) == facts
