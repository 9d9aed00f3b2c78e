"""Published PyTorch state-dict names and layouts <-> the variables of ``DIS2`` (nhikieu/DIS2 at 497afc2).

The published network has two modalities, called ``rgb`` and ``ndsm`` in its names; ours are mapped by order.
Everything here is numpy on any float type; neither torch nor jax runs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal

import numpy as np

from dis2_jax.models.dis2 import DIS2
from dis2_jax.schema import Dis2Error

PUBLISHED = ("rgb", "ndsm")
"""Modality names in the published state dict, in order."""

Layout = Literal["same", "conv", "up", "dense", "qkv", "qkv_bias", "heads_out", "side", "side_bias"]
"""How arrays correspond: ``conv`` OIHW <-> HWIO, ``up`` IOHW <-> HWIO, ``dense`` transposed; ``qkv`` splits
the packed projection into heads, ``heads_out`` undoes it; ``side`` stacks a level's per-class 1x1 kernels."""


@dataclasses.dataclass(frozen=True)
class Link:
    """Published names (and the shape that each has there) that hold the same numbers as our variables."""

    published: tuple[str, ...]
    shape: tuple[int, ...]
    ours: tuple[str, ...]
    """Paths with ``/``, the first part is the collection."""
    layout: Layout = "same"


@dataclasses.dataclass(frozen=True)
class Mismatch:
    """What keeps a state dict from fitting a model. ``unused`` names are known and harmless."""

    missing: tuple[str, ...] = ()
    extra: tuple[str, ...] = ()
    reshaped: tuple[str, ...] = ()
    """``name: shape found, shape wanted``."""
    unused: tuple[str, ...] = ()

    @property
    def fits(self) -> bool:
        """True when every used name is there with its shape, and no unknown one."""
        return not (self.missing or self.extra or self.reshaped)

    def lines(self) -> Iterator[str]:
        """One line per name that does not fit."""
        for kind in ("missing", "extra", "reshaped"):
            yield from (f"{kind}: {name}" for name in getattr(self, kind))


class StateDictError(Dis2Error):
    """A state dict that does not fit; ``mismatch`` lists every name."""

    def __init__(self, message: str, mismatch: Mismatch) -> None:
        super().__init__(message)
        self.mismatch = mismatch


def compare(state_dict: Mapping[str, np.ndarray], *, model: DIS2) -> Mismatch:
    """Check names and shapes against what ``model`` needs."""
    wanted = {name: link.shape for link in links(model) for name in link.published}
    unused = unused_shapes(model)
    shapes = {name: tuple(np.shape(array)) for name, array in state_dict.items()}
    return Mismatch(
        missing=tuple(n for n in wanted if n not in shapes),
        extra=tuple(n for n in shapes if n not in wanted and n not in unused),
        reshaped=tuple(
            f"{n}: {shapes[n]} found, {wanted[n]} wanted"
            for n in wanted
            if n in shapes and shapes[n] != wanted[n]
        ),
        unused=tuple(n for n in shapes if n in unused),
    )


def to_variables(state_dict: Mapping[str, np.ndarray], *, model: DIS2) -> dict[str, Any]:
    """Return ``{"params": ..., "batch_stats": ...}`` (numpy, dtypes kept) for ``model``.

    Raises ``StateDictError`` when a used name is missing, has another shape, or an unknown name is there.
    """
    found = compare(state_dict, model=model)
    if not found.fits:
        first = next(iter(found.lines()))
        raise StateDictError(
            f"the state dict does not fit the model: {len(found.missing)} names missing, "
            f"{len(found.extra)} extra, {len(found.reshaped)} of another shape (first: {first})",
            found,
        )
    variables: dict[str, Any] = {}
    for link in links(model):
        arrays = _to_ours(link, [np.asarray(state_dict[n]) for n in link.published], heads=model.heads)
        for path, array in zip(link.ours, arrays, strict=True):
            _put(variables, path, array)
    return variables


def from_variables(variables: Mapping[str, Any], *, model: DIS2) -> dict[str, np.ndarray]:
    """Inverse of ``to_variables`` for the collections that ``variables`` has (gradients: only ``params``)."""
    state_dict: dict[str, np.ndarray] = {}
    for link in links(model):
        if link.ours[0].split("/")[0] in variables:
            arrays = _to_published(link, [np.asarray(_get(variables, path)) for path in link.ours])
            state_dict.update(zip(link.published, arrays, strict=True))
    return state_dict


def published_state_dict(variables: Mapping[str, Any], *, model: DIS2) -> dict[str, np.ndarray]:
    """Every name that the published code expects: ``from_variables``, and zeros for what it never uses."""
    state_dict = from_variables(variables, model=model)
    for name, shape in unused_shapes(model).items():
        counter = name.endswith("num_batches_tracked")
        state_dict[name] = np.zeros(shape, np.int64 if counter else np.float32)
    return state_dict


def unused_shapes(model: DIS2) -> dict[str, tuple[int, ...]]:
    """Published entries that no output depends on: ignored when read, zeros when written."""
    w, unused = model.width, dict[str, tuple[int, ...]]()
    for branch in ("full", *(f"miss_{m}" for m in PUBLISHED)):
        decoder = f"{branch}_classwise_decoder"
        unused[f"{decoder}.seg_d4.weight"] = (1, 8 * w, 1, 1)
        unused[f"{decoder}.seg_d4.bias"] = (1,)
        unused[f"{decoder}.e1_conv_up.conv.weight"] = (w // 8, w // 4, 3, 3)
        unused[f"{decoder}.e1_conv_up.conv.bias"] = (w // 8,)
        unused[f"{branch}_fuse.pool_e3.query"] = (1, 4 * w)
    for pool in _pools(model).values():
        for level in range(3):
            name, d = f"{pool}.attn_pools.{level}", w * 2**level
            unused[f"{name}.query"] = (1, d)
            if model.pool == "mean":
                unused |= {n: link.shape for link in _score(name, "", d) for n in link.published}
    for link in links(model):
        name = link.published[0]
        if name.endswith("running_mean"):
            unused[name.replace("running_mean", "num_batches_tracked")] = ()
    return unused


def links(model: DIS2) -> list[Link]:
    """Every correspondence. Raises ``Dis2Error`` for a model that the published names cannot describe."""
    _require_published_form(model)
    w, k, names = model.width, model.num_classes, model.names
    found: list[Link] = []
    for pub, (m, channels), other in zip(PUBLISHED, model.modalities, reversed(names), strict=True):
        found += _encoder(f"{pub}_encoder", f"encoder_{m}", channels, w)
        found += _head(f"{pub}_encoder", f"head_{m}", w, k)
        found += _encoder(f"{pub}_else", f"compensation_{m}_to_{other}", channels, w)
        found += _branch(f"miss_{pub}", f"student_{other}", model)
    found += _branch("full", "full", model)
    if model.pool == "attention":
        for ours, pub in _pools(model).items():
            for level in range(3):
                found += _score(f"{pub}.attn_pools.{level}", f"{ours}/level{level + 1}", w * 2**level)
    return found


def _require_published_form(model: DIS2) -> None:
    rules = (
        (len(model.modalities) == 2, f"2 modalities, not {len(model.modalities)}"),
        (
            {tuple(s) for s in model.students} == {(m,) for m in model.names},
            f"a student for each single modality, not {['+'.join(s) for s in model.students]}",
        ),
        (model.heads == 8, f"8 attention heads, not {model.heads}"),
        (model.position == "table", f"model.position = 'table', not {model.position!r}"),
    )
    for holds, text in rules:
        if not holds:
            raise Dis2Error(f"the published state dict describes a model with {text}")


def _pools(model: DIS2) -> dict[str, str]:
    """Our pool module -> published pool module."""
    a, b = model.names
    return {
        "pools_full": "full_fusion_pool",
        f"pools_student_{b}": "miss_rgb_fuse_pool",
        f"pools_student_{a}": "miss_ndsm_fuse_pool",
        f"pools_specific_{a}": "rgb_dist_pool",
        f"pools_specific_{b}": "ndsm_dist_pool",
        f"pools_compensation_{a}": "rgb_else_pool",
        f"pools_compensation_{b}": "ndsm_else_pool",
    }


def _encoder(pub: str, ours: str, channels: int, w: int) -> list[Link]:
    return [
        *_conv(f"{pub}.e1", f"{ours}/e1", channels, w, 4),
        *_conv(f"{pub}.e2.0", f"{ours}/e2", w, 2 * w, 4),
        *_batch_norm(f"{pub}.e2.1", f"{ours}/e2_norm", 2 * w),
        *_conv(f"{pub}.e3.0", f"{ours}/e3", 2 * w, 4 * w, 4),
        *_batch_norm(f"{pub}.e3.1", f"{ours}/e3_norm", 4 * w),
        *_conv(f"{pub}.e4", f"{ours}/e4", 4 * w, 8 * w, 4),
    ]


def _head(pub: str, ours: str, w: int, k: int) -> list[Link]:
    found = []
    for name, c_in, c_out in (("d5", 8 * w, 4 * w), ("d6", 8 * w, 2 * w), ("d7", 4 * w, w)):
        found += _up(f"{pub}.{name}.0", f"{ours}/{name}", c_in, c_out)
        found += _batch_norm(f"{pub}.{name}.1", f"{ours}/{name}_norm", c_out)
    return found + _up(f"{pub}.d8", f"{ours}/d8", 2 * w, k)


def _branch(pub: str, ours: str, model: DIS2) -> list[Link]:
    w, k = model.width, model.num_classes
    queries = Link(
        (f"{pub}_classwise_attention.class_queries",), (k, 8 * w), (f"params/{ours}/cflm/queries",)
    )
    return [
        *_fusion(f"{pub}_fuse", f"{ours}/fusion", model),
        queries,
        *_decoder(f"{pub}_classwise_decoder", f"{ours}/decoder", w, k),
    ]


def _fusion(pub: str, ours: str, model: DIS2) -> list[Link]:
    w, d = model.width, 8 * model.width
    positions = (model.tile[0] // 16) * (model.tile[1] // 16)
    found = [Link((f"{pub}.fusion_token",), (1, 1, d), (f"params/{ours}/fusion_token",))]
    for name, m in zip(PUBLISHED, model.names, strict=True):
        found.append(Link((f"{pub}.{name}_pos",), (1, positions, d), (f"params/{ours}/position_{m}",)))
    for level in (1, 2, 3):
        c = w * 2 ** (level - 1)
        for i, (c_in, size) in enumerate(((2 * c, 1), (c, 3), (c, 1))):
            name = f"{pub}.conv_fusion_e{level}.fusion_layer.{i}.conv"
            found += _conv(name, f"{ours}/mix{level}_{i}/conv", c_in, c, size)
    for level, c in ((1, w), (2, 2 * w)):
        found += _conv(f"{pub}.conv_res{level}.0", f"{ours}/down{level}", c, 2 * c, 4)
        found += _batch_norm(f"{pub}.conv_res{level}.1", f"{ours}/down{level}_norm", 2 * c)
    found += _dense(f"{pub}.pool_e3.proj", f"{ours}/pool3/project", 4 * w, d)
    found += _score(f"{pub}.pool_e3", f"{ours}/pool3", 4 * w)
    for i in range(model.depth):
        found += _transformer(
            f"{pub}.transformer.layers.{i}", f"{ours}/transformer{i}", d, model.feed_forward
        )
    return found + _conv(f"{pub}.unify", f"{ours}/unify", 2 * d, d, 1)


def _transformer(pub: str, ours: str, d: int, feed_forward: int) -> list[Link]:
    attention = f"params/{ours}/attention"
    split = [f"{attention}/{part}" for part in ("query", "key", "value")]
    return [
        Link(
            (f"{pub}.self_attn.in_proj_weight",),
            (3 * d, d),
            tuple(f"{s}/kernel" for s in split),
            layout="qkv",
        ),
        Link(
            (f"{pub}.self_attn.in_proj_bias",), (3 * d,), tuple(f"{s}/bias" for s in split), layout="qkv_bias"
        ),
        Link((f"{pub}.self_attn.out_proj.weight",), (d, d), (f"{attention}/out/kernel",), layout="heads_out"),
        Link((f"{pub}.self_attn.out_proj.bias",), (d,), (f"{attention}/out/bias",)),
        *_dense(f"{pub}.linear1", f"{ours}/hidden", d, feed_forward),
        *_dense(f"{pub}.linear2", f"{ours}/output", feed_forward, d),
        *_scale_bias(f"{pub}.norm1", f"{ours}/norm1", d),
        *_scale_bias(f"{pub}.norm2", f"{ours}/norm2", d),
    ]


def _decoder(pub: str, ours: str, w: int, k: int) -> list[Link]:
    found = []
    for level, d in ((4, 8 * w), (3, 4 * w), (2, 2 * w), (1, w // 8)):
        layers = [f"{pub}.seg_d{level}_layers.{c}" for c in range(k)]
        for part, shape, layout in (("weight", (1, d, 1, 1), "side"), ("bias", (1,), "side_bias")):
            path = f"params/{ours}/side{level}_{'kernel' if part == 'weight' else 'bias'}"
            found.append(Link(tuple(f"{n}.{part}" for n in layers), shape, (path,), layout=layout))  # type: ignore[arg-type]
    for level, c_in, c, c_out in ((3, 8 * w, 4 * w, 4 * w), (2, 4 * w, 2 * w, 2 * w), (1, 2 * w, w, w // 8)):
        found += _conv(f"{pub}.e{level + 1}_conv_up.conv", f"{ours}/up{level}/conv", c_in, c, 3)
        found += _conv(f"{pub}.e{level}_conv.conv", f"{ours}/join{level}/conv", 2 * c, c_out, 3)
    found += _conv(f"{pub}.class_combine_conv.0.conv", f"{ours}/combine0/conv", k * (w // 8), 2 * w, 3)
    found += _conv(f"{pub}.class_combine_conv.1.conv", f"{ours}/combine1/conv", 2 * w, w, 3)
    return found + _conv(f"{pub}.final_conv", f"{ours}/classify", w, k, 1)


def _score(pub: str, ours: str, d: int) -> list[Link]:
    return [
        *_dense(f"{pub}.mlp.0", f"{ours}/score_hidden", d, 128),
        *_dense(f"{pub}.mlp.2", f"{ours}/score", 128, 1),
    ]


def _weight_bias(pub: str, ours: str, weight: tuple[int, ...], bias: int, layout: Layout) -> list[Link]:
    return [
        Link((f"{pub}.weight",), weight, (f"params/{ours}/kernel",), layout=layout),
        Link((f"{pub}.bias",), (bias,), (f"params/{ours}/bias",)),
    ]


def _conv(pub: str, ours: str, c_in: int, c_out: int, size: int) -> list[Link]:
    return _weight_bias(pub, ours, (c_out, c_in, size, size), c_out, "conv")


def _up(pub: str, ours: str, c_in: int, c_out: int) -> list[Link]:
    return _weight_bias(pub, ours, (c_in, c_out, 4, 4), c_out, "up")


def _dense(pub: str, ours: str, d_in: int, d_out: int) -> list[Link]:
    return _weight_bias(pub, ours, (d_out, d_in), d_out, "dense")


def _scale_bias(pub: str, ours: str, c: int) -> list[Link]:
    return [
        Link((f"{pub}.weight",), (c,), (f"params/{ours}/scale",)),
        Link((f"{pub}.bias",), (c,), (f"params/{ours}/bias",)),
    ]


def _batch_norm(pub: str, ours: str, c: int) -> list[Link]:
    return [
        *_scale_bias(pub, ours, c),
        Link((f"{pub}.running_mean",), (c,), (f"batch_stats/{ours}/mean",)),
        Link((f"{pub}.running_var",), (c,), (f"batch_stats/{ours}/var",)),
    ]


def _to_ours(link: Link, arrays: list[np.ndarray], *, heads: int) -> list[np.ndarray]:
    x = arrays[0]
    match link.layout:
        case "conv":
            return [x.transpose(2, 3, 1, 0)]
        case "up":
            return [x.transpose(2, 3, 0, 1)]
        case "dense":
            return [x.T]
        case "qkv":
            return [part.T.reshape(x.shape[1], heads, -1) for part in np.split(x, 3)]
        case "qkv_bias":
            return [part.reshape(heads, -1) for part in np.split(x, 3)]
        case "heads_out":
            return [x.T.reshape(heads, -1, x.shape[0])]
        case "side" | "side_bias":
            stacked = np.stack([a.reshape(-1) for a in arrays])
            return [stacked if link.layout == "side" else stacked[:, 0]]
    return [x]


def _to_published(link: Link, arrays: list[np.ndarray]) -> list[np.ndarray]:
    x = arrays[0]
    match link.layout:
        case "conv":
            return [x.transpose(3, 2, 0, 1)]
        case "up":
            return [x.transpose(2, 3, 0, 1)]
        case "dense":
            return [x.T]
        case "qkv":
            return [np.concatenate([a.reshape(a.shape[0], -1).T for a in arrays])]
        case "qkv_bias":
            return [np.concatenate([a.reshape(-1) for a in arrays])]
        case "heads_out":
            return [x.reshape(-1, x.shape[-1]).T]
        case "side" | "side_bias":
            return [row.reshape(link.shape) for row in x]
    return [x]


def _put(tree: dict[str, Any], path: str, value: np.ndarray) -> None:
    *parents, leaf = path.split("/")
    for p in parents:
        tree = tree.setdefault(p, {})
    tree[leaf] = value


def _get(tree: Any, path: str) -> Any:
    for p in path.split("/"):
        tree = tree[p]
    return tree


def paths(found: Iterable[Link]) -> list[str]:
    """Our variable paths, in order."""
    return [path for link in found for path in link.ours]
