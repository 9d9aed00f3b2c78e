"""Axes, meshes, batches on them, and the specs that rules give."""

from __future__ import annotations

import dataclasses
import re
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from jax.sharding import AbstractMesh
from jax.sharding import PartitionSpec as P

from dis2_jax.config import ShardingConfig
from dis2_jax.models.layers import _interpolation_matrix
from dis2_jax.schema import Dis2Error
from dis2_jax.sharding.axes import TILE_AXES, parse_axes
from dis2_jax.sharding.halo import row_blocks
from dis2_jax.sharding.mesh import (
    batch_sharding,
    check_batch_size,
    check_whole_tiles,
    data_mesh,
    make_mesh,
    put_batch,
)
from dis2_jax.sharding.placement import make_placement
from dis2_jax.sharding.rules import dims_spec, leaf_spec

DEVICES = 8


def test_batch_must_split_over_the_devices() -> None:
    mesh = AbstractMesh((4, 2, 2), ("data", "fsdp", "rows"))
    check_batch_size(16, mesh)
    with pytest.raises(Dis2Error, match=r"a batch of 12 .* 8 devices: set config.data.batch_size to 8 or 16"):
        check_batch_size(12, mesh)
    with pytest.raises(Dis2Error, match=r"a batch of 4 .* set config.data.batch_size to 8$"):
        check_batch_size(4, mesh)


def test_put_batch_keeps_values() -> None:
    mesh = data_mesh()
    batch = {"image": {"a": np.arange(24.0).reshape(mesh.size, 24 // mesh.size)}}
    placed = put_batch(batch, mesh)
    np.testing.assert_array_equal(placed["image"]["a"], batch["image"]["a"])
    assert placed["image"]["a"].sharding == batch_sharding(mesh, (mesh.size, 24 // mesh.size))


@pytest.mark.parametrize(
    ("text", "sizes"),
    [
        ("data:-1", (("data", 8),)),
        ("fsdp:4, data:-1", (("data", 2), ("fsdp", 4))),
        ("rows:2,data:4", (("data", 4), ("rows", 2))),
    ],
)
def test_axes_are_read_in_a_fixed_order(text: str, sizes: object) -> None:
    assert parse_axes(text, devices=8) == sizes


@pytest.mark.parametrize(
    "text",
    [
        "",
        "data",
        "data:0",
        "data:-2",
        "tiles:8",
        "data:2,data:4",
        "data:4",
        "data:3,fsdp:-1",
        "data:-1,fsdp:-1",
    ],
)
def test_axes_that_do_not_fit_are_refused(text: str) -> None:
    with pytest.raises(Dis2Error, match=re.escape(f"config sharding.axes = {text!r}")):
        parse_axes(text, devices=8)


def test_written_out_data_parallel_has_one_axis() -> None:
    with pytest.raises(Dis2Error, match="strategy shard_map has the axis data alone"):
        make_placement(ShardingConfig("shard_map", axes="data:-1,rows:1"))


def test_a_strategy_needs_its_axis() -> None:
    with pytest.raises(Dis2Error, match="strategy fsdp needs the axis fsdp"):
        make_placement(ShardingConfig("fsdp", axes="data:-1"))


def test_a_leaf_is_split_in_its_largest_dimension_that_the_axis_divides() -> None:
    def spec(*shape: int, size: int = 8) -> P:
        return leaf_spec(shape, axis="fsdp", size=size, min_size=1024)

    assert spec(4, 4, 32, 64) == P(None, None, None, "fsdp")
    assert spec(3, 3, 64, 32) == P(None, None, "fsdp")
    assert spec(1, 1, 64, 64) == P(None, None, None, "fsdp")
    assert spec(3, 100, 64) == P(None, None, "fsdp")
    assert spec(3, 3, 4, 8) == P(), "small"
    assert spec(4096) == P(), "a vector"
    assert spec(7, 999) == P(), "indivisible"
    assert spec(64, 64, size=1) == P()


def test_axes_that_a_mesh_lacks_or_that_do_not_divide_drop_out() -> None:
    dims = (TILE_AXES, "rows")
    assert dims_spec((8, 32, 4), dims, {"data": 2, "fsdp": 2, "rows": 4}) == P(("data", "fsdp"), "rows")
    assert dims_spec((8, 2, 4), dims, {"data": 2, "rows": 4}) == P("data")
    assert dims_spec((8, 2, 4), dims, {"classes": 8}) == P()
    output = (TILE_AXES, ("rows", "classes"))
    assert dims_spec((8, 2, 4), output, {"data": 8, "rows": 2, "classes": 4}) == P("data", "rows")


@pytest.mark.parametrize(("size", "factor", "parts"), [(8, 2, 4), (4, 2, 4), (4, 16, 2), (6, 4, 3)])
def test_blocks_of_an_enlargement_read_only_the_rows_next_door(size: int, factor: int, parts: int) -> None:
    matrix = np.asarray(_interpolation_matrix(size, factor))
    x = np.random.default_rng(0).standard_normal(size)
    wide, own = np.pad(x, 1), size // parts
    found = [b @ wide[i * own :][: own + 2] for i, b in enumerate(row_blocks(matrix, parts))]
    np.testing.assert_allclose(np.concatenate(found), matrix @ x, rtol=1e-12)


def test_a_matrix_that_reads_further_is_refused() -> None:
    with pytest.raises(ValueError, match="beyond the next"):
        row_blocks(np.ones((8, 4)), 4)


@dataclasses.dataclass(frozen=True)
class Device:
    """What a mesh asks of a device."""

    id: int
    process_index: int
    slice_index: int | None = None
    platform: str = "gpu"
    device_kind: str = "fake"


@pytest.mark.parametrize("by_slice", [False, True])
def test_only_the_first_axes_cross_hosts_and_slices(by_slice: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def device(i: int) -> Device:
        group = i % 2  # not in order
        return Device(i, 0, slice_index=group) if by_slice else Device(i, group)

    devices = [device(i) for i in range(8)]
    monkeypatch.setattr("dis2_jax.sharding.mesh.Mesh", lambda grid, names, axis_types: (grid, names))
    grid, names = make_mesh((("data", 4), ("fsdp", 2)), devices)
    assert names == ("data", "fsdp")
    groups = np.vectorize(lambda d: d.id % 2)(grid)
    assert sorted(d.id for d in grid.flat) == list(range(8))
    assert (groups == groups[:, :1]).all(), "fsdp stays inside"
    with pytest.raises(Dis2Error, match=r"1 x 3.*make the first axis a multiple of 2"):
        make_mesh((("data", 1), ("fsdp", 3)), devices)


def test_devices_that_share_a_tile_are_of_one_process() -> None:
    """Rows of 4 along a line of 2 x 2 chips per host cross two hosts, although a host has 4 chips."""
    grid = np.array([[Device(4 * i + j, 2 * (i // 2) + j // 2) for j in range(4)] for i in range(4)])
    check_whole_tiles(SimpleNamespace(devices=grid.reshape(8, 2), shape={"data": 8, "rows": 2}))
    with pytest.raises(Dis2Error, match="4 devices share a tile, and they belong to 2 processes"):
        check_whole_tiles(SimpleNamespace(devices=grid, shape={"data": 4, "rows": 4}))


def test_default_mesh_of_hsdp_is_fsdp_within_one_group() -> None:
    placement = make_placement(ShardingConfig("hsdp"))
    assert dict(placement.mesh.shape) == {"data": 1, "fsdp": jax.device_count()}
