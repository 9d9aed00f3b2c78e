"""Reading compiled programs: collectives in all of XLA's spellings, bytes, loops, cycle estimates."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AbstractMesh, AxisType
from jax.sharding import PartitionSpec as P

from dis2_jax.planning.flops import count_flops
from dis2_jax.planning.traffic import measure_traffic
from dis2_jax.schema import Dis2Error
from dis2_jax.sharding.collectives import parse_collectives, parse_groups
from dis2_jax.sharding.hlo import parse_arrays, parse_module

PROGRAM = """HloModule jit_f, is_scheduled=true

%add (x: f32[], y: f32[]) -> f32[] {
  %y = f32[] parameter(1)
  %x = f32[] parameter(0)
  ROOT %sum = f32[] add(%x, %y)
}

%body (p: (s32[], f32[8,128])) -> (s32[], f32[8,128]) {
  %p = (s32[]{:T(128)}, f32[8,128]{1,0:T(8,128)}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%p), index=0
  %v = f32[8,128]{1,0:T(8,128)} get-tuple-element(%p), index=1
  %gathered = f32[8,256]{1,0:T(8,128)} all-gather(%v), channel_id=1, replica_groups=[2,2]<=[4], dimensions={1}
  %w = f32[8,128]{1,0:T(8,128)} fusion(%gathered), kind=kLoop, calls=%add, backend_config={"estimated_cycles":"100"}
  ROOT %t = (s32[]{:T(128)}, f32[8,128]{1,0:T(8,128)}) tuple(%i, %w)
}

%condition (q: (s32[], f32[8,128])) -> pred[] {
  %q = (s32[]{:T(128)}, f32[8,128]{1,0:T(8,128)}) parameter(0)
  %n = s32[]{:T(128)} get-tuple-element(%q), index=0
  %limit = s32[]{:T(128)} constant(5)
  ROOT %less = pred[]{:T(512)} compare(%n, %limit), direction=LT
}

ENTRY %main (a: f32[8,128], k: bf16[3,3,16,4]) -> f32[8,128] {
  %a = f32[8,128]{1,0:T(8,128)} parameter(0)
  %k = bf16[3,3,16,4]{3,2,1,0:T(8,128)(2,1)} parameter(1)
  %zero = s32[]{:T(128)} constant(0)
  %init = (s32[]{:T(128)}, f32[8,128]{1,0:T(8,128)}) tuple(%zero, %a)
  %loop = (s32[]{:T(128)}, /*index=1*/f32[8,128]{1,0:T(8,128)}) while(%init), condition=%condition, body=%body
  %end = f32[8,128]{1,0:T(8,128)} get-tuple-element(%loop), index=1
  %start = f32[8,128]{1,0:T(8,128)} all-reduce-start(%end), channel_id=2, replica_groups={{0,1,2,3}}, to_apply=%add
  %done = f32[8,128]{1,0:T(8,128)} all-reduce-done(%start), metadata={op_name="jit(f)/psum"}
  %local = bf16[3,3,16,4]{3,2,1,0:T(8,128)(2,1)S(1)} copy(%k), backend_config={"estimated_cycles":"9223372036854775807"}
  ROOT %out = f32[8,128]{1,0:T(8,128)} negate(%done), backend_config={"estimated_cycles":"7"}
}
"""


def test_loops_are_unrolled_and_asynchronous_pairs_counted_once() -> None:
    gathered, reduced = parse_collectives(PROGRAM)
    assert (gathered.kind, gathered.size, gathered.count) == ("all-gather", 8 * 256 * 4, 5)
    assert gathered.groups == ((0, 1), (2, 3))
    assert (reduced.kind, reduced.size, reduced.count, reduced.groups) == (
        "all-reduce",
        4096,
        1,
        ((0, 1, 2, 3),),
    )


def test_a_collective_inside_fusions_is_counted_once() -> None:
    inner = """%fused (x: f32[8]) -> f32[8] {
  %x = f32[8]{0} parameter(0)
  ROOT %r = f32[8]{0} all-reduce(%x), channel_id=7, replica_groups={{0,1}}, to_apply=%add
}
"""
    entry = """ENTRY %main (a: f32[8]) -> f32[8] {
  %a = f32[8]{0} parameter(0)
  %one = f32[8]{0} fusion(%a), kind=kCustom, calls=%fused
  ROOT %two = f32[8]{0} fusion(%one), kind=kCustom, calls=%fused
}
"""
    (found,) = parse_collectives(inner + entry)
    assert (found.kind, found.size, found.groups) == ("all-reduce", 32, ((0, 1),))


def test_collectives_of_a_shard_map_share_a_channel_and_all_count() -> None:
    program = """ENTRY %main (a: f32[8]) -> f32[8] {
  %a = f32[8]{0} parameter(0)
  %start = (f32[8]{0}, f32[8]{0}, u32[], u32[]) collective-permute-start(%a), channel_id=1, source_target_pairs={{0,1}}
  %one = f32[8]{0} collective-permute-done(%start)
  ROOT %two = f32[8]{0} collective-permute(%one), channel_id=1, source_target_pairs={{1,0}}
}
"""
    assert [(c.groups, c.size) for c in parse_collectives(program)] == [(((0, 1),), 32), (((1, 0),), 32)]


def test_traffic_pads_to_tiles_and_leaves_on_chip_memory_out() -> None:
    traffic = measure_traffic(parse_module(PROGRAM))
    tile, kernel = 4096, 3 * 3 * 16 * 4 * 2
    loop = 5 * 6 * tile  # gathering reads 1 and writes 2, the fusion reads 2 and writes 1
    rest = 2 * tile + 2 * tile  # the reduction, in and out; the negation
    assert traffic.bytes == loop + rest + kernel
    assert traffic.padded_bytes == loop + rest + 3 * 3 * 16 * 128 * 2
    assert (traffic.cycles, traffic.estimated) == (507, 6), "2^63 is no estimate"


@pytest.mark.parametrize(
    ("text", "groups"),
    [
        ("replica_groups={{0,1},{2,3}}", ((0, 1), (2, 3))),
        ("replica_groups={}", ((),)),
        ("replica_groups=[2,4]<=[8]", ((0, 1, 2, 3), (4, 5, 6, 7))),
        ("replica_groups=[4,2]<=[2,4]T(1,0), dimensions={0}", ((0, 4), (1, 5), (2, 6), (3, 7))),
        ("replica_groups=mesh['a'=2,'b'=3] {'b'}, x=1", ((0, 1, 2), (3, 4, 5))),
        ("replica_groups=mesh['a'=2,'b'=3] {'a'}", ((0, 3), (1, 4), (2, 5))),
        ("replica_groups=mesh['a'=2,'b'=2] {'a','b'}", ((0, 1, 2, 3),)),
        (
            "replica_groups=mesh['a'=1,'b'=4,'c'=2], device_ids=([2,4]T(1,0)) {'b'}, d={1}",
            ((0, 1, 2, 3), (4, 5, 6, 7)),
        ),
        ("replica_groups=mesh['a'=4] {'a':(1)2}", ((0, 2), (1, 3))),
        ("replica_groups=mesh['a'=4] {'a':(2)2}", ((0, 1), (2, 3))),
        ("source_target_pairs={{0,1},{1,0}}, x={2}", ((0, 1), (1, 0))),
    ],
)
def test_groups_in_every_spelling(text: str, groups: object) -> None:
    assert parse_groups(f"channel_id=1, {text}") == groups


def test_what_is_not_understood_is_an_error() -> None:
    with pytest.raises(Dis2Error, match="no replica groups"):
        parse_groups("channel_id=1")
    with pytest.raises(Dis2Error, match="no ENTRY"):
        parse_module("HloModule nothing")
    with pytest.raises(Dis2Error, match="element type 'strange'"):
        _ = parse_arrays("strange[3]")[0].size


def test_a_transfer_between_slices_is_a_collective() -> None:
    send = (
        "  %s = (bf16[6,4,128]{2,1,0:T(4,128)(2,1)}, u32[], token[]) send(%a, %t), channel_id=2, is_host_transfer=true,"
        ' frontend_attributes={_xla_megascale_target="{1,2}x{0:7}",_xla_megascale_transfer_type="ALL_REDUCE"}'
    )
    text = "ENTRY %main (a: bf16[6,4,128]) -> () {\n  %a = bf16[6,4,128] parameter(0)\n" + send + "\n}\n"
    (found,) = parse_collectives(text)
    assert (found.kind, found.size, found.slices, found.groups) == ("all-reduce", 6 * 4 * 128 * 2, 2, ())


@pytest.mark.parametrize(
    "options",
    [
        {"window_strides": (1, 1), "padding": "SAME"},
        {"window_strides": (2, 2), "padding": "SAME"},
        {"window_strides": (1, 1), "padding": "VALID", "rhs_dilation": (2, 1)},
        {"window_strides": (1, 1), "padding": [(2, 1), (0, 3)], "lhs_dilation": (2, 3)},
    ],
)
def test_flops_of_convolutions_are_what_xla_counts(options: dict) -> None:
    def f(x, w):
        return jax.lax.conv_general_dilated(x, w, dimension_numbers=("NHWC", "HWIO", "NHWC"), **options)

    x, w = jnp.ones((2, 17, 19, 4)), jnp.ones((3, 3, 4, 6))
    assert count_flops(jax.make_jaxpr(f)(x, w).jaxpr) == jax.jit(f).lower(x, w).cost_analysis()["flops"]


def test_flops_of_products_loops_and_gradients() -> None:
    def product(a, b):
        return jnp.einsum("bij,bjk->bik", a, b)

    def loop(a, b):
        return jax.lax.scan(lambda c, _: (c @ b, None), a, None, length=4)[0]

    split = jax.shard_map(
        product,
        mesh=AbstractMesh((3, 2, 5), ("x", "y", "z"), axis_types=(AxisType.Auto,) * 3),
        in_specs=(P("x"), P("x", None, "y")),
        out_specs=P("x", None, "y"),
    )
    a, b, square = jnp.ones((3, 5, 7)), jnp.ones((3, 7, 8)), jnp.ones((8, 8))
    assert count_flops(jax.make_jaxpr(product)(a, b).jaxpr) == 2 * 3 * 5 * 7 * 8
    assert count_flops(jax.make_jaxpr(split)(a, b).jaxpr) == 2 * 3 * 5 * 7 * 8, "over all devices"
    assert count_flops(jax.make_jaxpr(loop)(square, square).jaxpr) == 4 * 2 * 8**3
    both = jax.value_and_grad(lambda a, b: product(a, b).sum(), argnums=(0, 1))
    assert count_flops(jax.make_jaxpr(both)(a, b).jaxpr) == 3 * 2 * 3 * 5 * 7 * 8


def test_a_tpu_fusion_that_keeps_a_part_of_a_sum_is_a_reduce_scatter() -> None:
    text = """HloModule m
%all-reduce-scatter.1 (input: f32[8,4]) -> f32[1,4] {
  %input = f32[8,4] parameter(0)
  %all-reduce.1 = f32[8,4] all-reduce(%input), replica_groups={{0,1,2,3,4,5,6,7}}, to_apply=%add
  ROOT %part = f32[1,4] slice(%all-reduce.1), slice={[0:1], [0:4]}
}
ENTRY %main (x: f32[8,4]) -> f32[1,4] {
  %x = f32[8,4] parameter(0)
  ROOT %fusion.1 = f32[1,4] fusion(%x), kind=kCustom, calls=%all-reduce-scatter.1
}
"""
    (found,) = parse_collectives(text)
    assert (found.kind, found.size, found.count) == ("reduce-scatter", 8 * 4 * 4, 1)
