"""Plans without a compiler: comparison, search, rows that fail, tables and files. `-m plan` compiles for real."""

from __future__ import annotations

import dataclasses
import importlib.util
import json

import pytest

from dis2_jax.cli import main
from dis2_jax.config import Config
from dis2_jax.evaluation.tables.grid import text_grid
from dis2_jax.planning import devices, rows, table
from dis2_jax.planning.datasets import config_card, known_card
from dis2_jax.planning.facts import Exchange, Facts, Memory
from dis2_jax.planning.plan import make_request, run_plan
from dis2_jax.planning.request import Failure, Request, Row
from dis2_jax.planning.rows import RowStore, run_row
from dis2_jax.planning.scaling import scale_row, scaling
from dis2_jax.planning.search import search
from dis2_jax.planning.topology import parse_topology
from dis2_jax.planning.worker import explain
from dis2_jax.random_tiles import random_card
from dis2_jax.schema import Dis2Error

CARD = random_card([("rgb", 3), ("ndsm", 1)], classes=6, tile=(64, 64))
GIB = 2**30


def asked(topology: str, batch: int, *, strategy: str = "dp", config: Config | None = None) -> Request:
    return make_request(
        config or Config(), CARD, topology=topology, strategy=strategy, batch=batch, tile=(64, 64)
    )


def compiled(request: Request) -> Row:
    """An invented compiler: 2 GiB and 1e11 operations per tile, a reduction of 1 GB over all chips."""
    machine = request.machine
    tiles = request.config.data.batch_size / machine.chips
    reduction = Exchange("all-reduce", 3, 10**9, machine.chips, machine.shape)
    facts = Facts(
        devices=machine.devices,
        memory=Memory(GIB, GIB, GIB, int(2 * GIB * tiles), 0),
        model_flops=1e11 * tiles,
        flops=1e11 * tiles,
        flops_source="XLA",
        bytes_accessed=1,
        padded_bytes=int(819e6 * (10 + tiles)),
        cycles=None,
        instructions=1,
        exchanges=(reduction,) if machine.chips > 1 else (),
        parameters=1,
        lower_seconds=1.0,
        compile_seconds=2.0,
        versions={},
    )
    return Row(request, facts, None, 3.0)


def test_one_chip_alone_is_compiled_once_and_compared_with():
    seen: list[str] = []

    def counted(request: Request) -> Row:
        seen.append(request.key)
        return compiled(request)

    lines = run_plan([asked("v5e:8x8", 128), asked("v5e:16x16", 512)], counted)
    assert seen == [
        "v5e-1_single_b2_64_float32",
        "v5e-8x8_dp_b128_64_float32",
        "v5e-16x16_dp_b512_64_float32",
    ]
    alone, small, large = lines
    assert alone.baseline
    assert alone.prediction is not None
    assert alone.prediction.step == pytest.approx(0.012 + 2e11 / 197e12)
    assert large.prediction is not None
    assert large.efficiency == pytest.approx(alone.prediction.step / large.prediction.step)
    assert small.efficiency is not None
    assert 0 < small.efficiency < large.efficiency < 1, "8 x 8 chips close no ring"


def test_a_row_that_fails_leaves_the_others():
    def picky(request: Request) -> Row:
        if request.config.sharding.strategy == "fsdp":
            return Row(request, None, Failure("does not fit", "Used 17G of 15G hbm", 17 * GIB), 1.0)
        return compiled(request)

    lines = run_plan([asked("v5e:8x8", 64, strategy=s) for s in ("dp", "fsdp")], picky, baselines=False)
    text = text_grid(table.grid(lines), width=400)
    assert "64 x v5e" in text
    assert "3 all-reduce 1000.0 MB (ICI)" in text
    assert table.reasons(lines) == ["v5e:8x8 fsdp: does not fit: Used 17G of 15G hbm"]
    good, bad = table.to_json(lines)
    assert good["fits"]
    assert bad["facts"] is None
    assert bad["failure"]["needed"] == 17 * GIB


def again(request: Request, batch: int) -> Request:
    return asked(request.topology, batch, config=request.config)


def test_search_stops_where_memory_ends_and_says_so():
    tried: list[tuple[int, int]] = []
    thrifty = Config.from_dict({"train": {"seed": 1}})  # stands for a policy that saves half of the memory

    def compile_row(request: Request) -> Row:
        tried.append((request.config.train.seed, request.config.data.batch_size))
        row = compiled(request)
        assert row.facts is not None
        if request.config.train.seed == 0:
            return row
        memory = dataclasses.replace(row.facts.memory, temporaries=row.facts.memory.temporaries // 2)
        return dataclasses.replace(row, facts=dataclasses.replace(row.facts, memory=memory))

    ladder = [asked("v5e:8x8", 64), asked("v5e:8x8", 64, config=thrifty)]
    found = search([ladder], compile_row, with_batch=again, limit=64 * 64)
    # 512 tiles would need 17 GiB per chip and are not compiled; with half of that they fit, and 1024 do not.
    assert tried == [(0, 64), (0, 128), (0, 256), (1, 512), (1, 1024)]
    assert found.best is not None
    assert found.best.request.config.data.batch_size == 512
    assert found.pruned == (
        "v5e:8x8 dp: 512 tiles would need about 17.0 GiB",
        "v5e:8x8 dp: 1024 tiles do not fit",
    )


def test_search_ends_for_other_reasons_too():
    start = asked("v5e:8x8", 64)
    limited = search([[start, start]], compiled, with_batch=again, limit=100)
    assert "limit of 100" in limited.pruned[0]
    assert "memory was not" in limited.pruned[1]

    def in_proportion(request: Request) -> Row:
        row = compiled(request)
        assert row.facts is not None
        tiles = request.config.data.batch_size
        facts = dataclasses.replace(
            row.facts, model_flops=0.0, flops=0.0, padded_bytes=10**9 * tiles, exchanges=()
        )
        return dataclasses.replace(row, facts=facts)

    in_vain = search([[start]], in_proportion, with_batch=again, limit=64 * 64)
    assert in_vain.pruned == ("v5e:8x8 dp: doubling to 128 tiles brought 0.0 % more speed",)

    def refuse(request: Request) -> Row:
        return Row(request, None, Failure("refused", "no"), 0.0)

    nothing = search([[start]], refuse, with_batch=again, limit=64)
    assert nothing.best is None
    assert "64 tiles were refused" in nothing.pruned[0]


def test_rows_are_kept_and_taken_back(tmp_path):
    store = RowStore(tmp_path)
    row = compiled(asked("v5e:8x8", 64))
    store.write(row)
    assert store.read(row.request) == row
    assert store.all() == [row]
    other = asked("v5e:8x8", 64, config=Config.from_dict({"model": {"depth": 3}}))
    assert other.key == row.request.key
    assert store.read(other) is None, "another config is another row"
    store.write(compiled(other))
    assert (store.read(other), store.read(row.request)) == (compiled(other), row), (
        "neither replaced the other"
    )
    assert len(store.all()) == 2
    late = dataclasses.replace(row, facts=None, failure=Failure("timeout", "..."))
    store.write(late)
    assert store.read(row.request) is None, "more time may help"
    store.path(row.request).write_text("{}")
    with pytest.raises(Dis2Error, match="delete it"):
        store.read(row.request)


def test_a_data_parallel_row_scales_to_more_chips():
    compile_row = scaling(compiled, "v5e:4x4")
    row = compile_row(asked("v5e:16x16", 512))
    assert row.scaled_from == "v5e:4x4"
    assert row.facts == compiled(asked("v5e:16x16", 512)).facts, "the invented compiler scales like that too"
    assert Row.from_json(row.to_json()) == row
    assert table.remarks(run_plan([row.request], compile_row, baselines=False))[0].startswith(
        "compile s 'as T'"
    )
    assert not compile_row(asked("v5e:8x8", 64, strategy="fsdp")).scaled_from
    with pytest.raises(Dis2Error, match="cannot be scaled"):
        scaling(lambda _: pytest.fail("compiled in vain"), "v5e:4x4")(asked("v5e:16x16", 100))
    part = Exchange("all-gather", 1, 8, 4, (4, 1))
    whole = compiled(asked("v5e:4x4", 16))
    assert whole.facts is not None
    partial = dataclasses.replace(whole, facts=dataclasses.replace(whole.facts, exchanges=(part,)))
    with pytest.raises(Dis2Error, match="among 4 of 16 devices"):
        scale_row(partial, asked("v5e:16x16", 256))


@pytest.mark.parametrize(
    ("script", "reason", "message"),
    [
        ("echo Aborted. >&2; exit 134", "crashed", "status 134: Aborted."),
        ("exec sleep 60", "timeout", "within 1 s"),
    ],
)
def test_a_worker_that_crashes_or_hangs_is_a_failed_row(tmp_path, monkeypatch, script, reason, message):
    fake = tmp_path / "python"
    fake.write_text(f"#!/bin/sh\n{script}\n")
    fake.chmod(0o755)
    monkeypatch.setattr(rows.sys, "executable", str(fake))
    row = run_row(asked("v5e:8x8", 64), timeout=1)
    assert row.failure is not None
    assert row.failure.reason == reason
    assert message in row.failure.message
    assert not row.fits


def test_errors_of_the_compiler_in_a_line():
    text = "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm.\nUsed 17.50G of 15.75G hbm. Exceeded"
    found = explain(RuntimeError(text))
    assert (found.reason, found.needed) == ("does not fit", int(17.5 * GIB))
    assert explain(ValueError("no such\nthing")) == Failure("refused", "ValueError: no such")


@pytest.mark.parametrize(("topology", "extra"), [("v5e:8x8", r"\[plan\]"), ("h100:8", r"\[plan-cuda\]")])
def test_a_missing_compiler_is_named(monkeypatch, topology, extra):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(Dis2Error, match=extra):
        devices.topology_devices(parse_topology(topology))


def test_cards_of_datasets_that_are_not_here(mini_dataset):
    potsdam = config_card("data_out/potsdam", ("rgb", "ndsm"), tile=(512, 512))
    assert [(m.name, m.channels) for m in potsdam.modalities] == [("rgb", 3), ("ndsm", 1)]
    assert len(potsdam.legend) == 6
    assert config_card(str(mini_dataset), (), tile=(32, 32)).name == "mini"
    with pytest.raises(Dis2Error, match="has no modality 'radar'"):
        known_card("potsdam", ("rgb", "radar"), tile=(64, 64))
    with pytest.raises(Dis2Error, match="--card potsdam"):
        config_card("data_out/unknown", ("a", "b"), tile=(64, 64))


def test_the_command_writes_its_table(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(rows, "run_row", lambda request, **_: compiled(request))
    options = "--topology v5e:8x8 --chip-batch 2 --tile 64 --card potsdam --config.data.modalities=rgb,ndsm"
    files = [
        "--json",
        str(tmp_path / "p.json"),
        "--markdown",
        str(tmp_path / "p.md"),
        "--rows",
        str(tmp_path / "r"),
    ]
    assert main.main(["plan", *options.split(), "--strategy", "dp,fsdp", *files]) == 0
    shown = capsys.readouterr().out
    assert shown.count("compiling") == 3
    found = json.loads((tmp_path / "p.json").read_text())
    assert [r["strategy"] for r in found["rows"]] == ["single", "dp", "fsdp"]
    assert (tmp_path / "p.md").read_text().startswith("| chips")
    assert main.main(["plan", *options.split(), "--strategy", "dp,fsdp", *files]) == 0
    assert "compiling" not in capsys.readouterr().out, "finished rows are taken from --rows"
    assert main.main(["plan", *options.split(), "--search", "--remat", "none,full", "--max-batch", "16"]) == 0
    shown = capsys.readouterr().out
    assert "v5e:8x8: fastest is dp, remat none, with 256 tiles per step" in shown
    assert "v5e:8x8 dp: 512 tiles would need about 17.0 GiB" in shown
    assert "v5e:8x8 dp remat full: 512 tiles do not fit" in shown
    assert main.main(["plan", *options.replace("batch 2", "batch 0").split()]) == 2
    assert "a global batch of 0: it must be at least 1" in capsys.readouterr().err
    assert main.main(["plan", *options.replace("v5e", "v5q").split()]) == 2
    assert "no chip 'v5q'" in capsys.readouterr().err


TINY = "--tile 16 --modalities a:1,b:1 --classes 2 --config.model.width=8 --config.model.depth=1"


@pytest.mark.plan
@pytest.mark.parametrize(
    ("module", "topology", "network"),
    [("libtpu", "v5e:2x2", "ICI"), ("jax_cuda13_plugin", "h100:16", "InfiniBand")],
)
def test_a_real_compiler(tmp_path, module, topology, network):
    """A tiny step for hardware that is not here; minutes."""
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"{module} is not installed: extra [plan] or [plan-cuda]")
    out = tmp_path / "plan.json"
    command = [
        "plan",
        "--topology",
        topology,
        "--chip-batch",
        "1",
        "--no-baseline",
        *TINY.split(),
        "--json",
        str(out),
    ]
    assert main.main(command) == 0
    (row,) = json.loads(out.read_text())["rows"]
    assert row["failure"] is None
    assert row["fits"]
    reduced = [e for e in row["facts"]["exchanges"] if e["kind"] == "all-reduce"]
    assert sum(e["bytes"] for e in reduced) > 4 * row["facts"]["parameters"] / 2
    assert network in row["prediction"]["networks"]
    assert row["facts"]["memory"]["aliased"] > 0, "the state is donated"
    assert row["facts"]["flops"] > 0.5 * row["facts"]["model_flops"] > 0
