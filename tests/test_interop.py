"""Published state dicts: names, shapes, layouts, files, and the two commands."""

from __future__ import annotations

import importlib.util
import json
import zlib

import jax
import numpy as np
import pytest
from flax import traverse_util

from dis2_jax.cli import export_torch, import_torch
from dis2_jax.config_file import read
from dis2_jax.interop import names
from dis2_jax.interop.state_dict import read_state_dict, write_state_dict
from dis2_jax.interop.transfer import export_checkpoint, import_checkpoint
from dis2_jax.models.dis2 import DIS2
from dis2_jax.schema import ClassLegend, DatasetCard, Dis2Error, Modality
from dis2_jax.training.checkpoint import load_eval_variables
from dis2_jax.training.state import init_variables

MODEL = DIS2(
    modalities=(("rgb", 3), ("ndsm", 1)),
    num_classes=3,
    students=(("rgb",), ("ndsm",)),
    tile=(32, 48),
    width=8,
    depth=1,
    feed_forward=24,
)
needs_torch = pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="PyTorch is not installed")
FORMATS = ["w.npz", "w.safetensors", pytest.param("w.pth", marks=needs_torch)]


def fake_state_dict(model=MODEL):
    """Every published name with random numbers, what nothing uses included."""
    shapes = {name: link.shape for link in names.links(model) for name in link.published}
    shapes |= names.unused_shapes(model)

    def fill(name, shape):
        if name.endswith("num_batches_tracked"):
            return np.asarray(7, np.int64)
        z = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape)
        z = np.abs(z) + 0.5 if name.endswith("running_var") else z / max(1, np.sqrt(np.prod(shape[1:])))
        return z.astype(np.float32)

    return {name: fill(name, shape) for name, shape in shapes.items()}


def used(state_dict, model=MODEL):
    return {n: a for n, a in state_dict.items() if n not in names.unused_shapes(model)}


def assert_same(a, b):
    assert a.keys() == b.keys()
    for name in a:
        assert a[name].dtype == b[name].dtype, name
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


@pytest.mark.parametrize("pool", ["attention", "mean"])
def test_every_variable_has_published_names_and_its_shape(pool):
    model = MODEL.clone(pool=pool, parent=None)
    wanted = traverse_util.flatten_dict(jax.eval_shape(lambda: init_variables(model, seed=0)), sep="/")
    state_dict = fake_state_dict(model)
    made = traverse_util.flatten_dict(names.to_variables(state_dict, model=model), sep="/")
    assert {p: a.shape for p, a in made.items()} == {p: a.shape for p, a in wanted.items()}
    published = [n for link in names.links(model) for n in link.published]
    assert len(published) == len(set(published))
    assert not set(published) & set(names.unused_shapes(model))


def test_back_and_forth_keeps_every_bit_in_any_dtype():
    state_dict = {n: a.astype(np.float64) for n, a in used(fake_state_dict()).items()}
    variables = names.to_variables(state_dict, model=MODEL)
    assert_same(names.from_variables(variables, model=MODEL), state_dict)
    gradients = names.from_variables({"params": variables["params"]}, model=MODEL)
    assert gradients.keys() == {n for n in state_dict if "running_" not in n}


def test_modalities_of_other_names_are_mapped_by_order():
    other = MODEL.clone(modalities=(("s2", 3), ("s1", 1)), students=(("s2",), ("s1",)), parent=None)
    variables = names.to_variables(fake_state_dict(), model=other)
    assert "compensation_s2_to_s1" in variables["params"]
    assert_same(names.from_variables(variables, model=other), used(fake_state_dict()))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"position": "sincos"}, "position"),
        ({"students": (("rgb",),)}, "student"),
        ({"modalities": (("a", 1), ("b", 1), ("c", 1)), "students": (("a",),)}, "2 modalities"),
    ],
)
def test_models_that_the_published_names_cannot_hold_are_refused(change, text):
    with pytest.raises(Dis2Error, match=text):
        names.links(MODEL.clone(**change, parent=None))


@pytest.mark.parametrize("name", FORMATS)
def test_files_round_trip(tmp_path, name):
    state_dict = fake_state_dict()
    state_dict["full_fuse.unify.weight"] = np.asfortranarray(state_dict["full_fuse.unify.weight"])
    write_state_dict(tmp_path / name, state_dict)
    assert_same(read_state_dict(tmp_path / name), state_dict)
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_data_parallel_prefix_is_stripped(tmp_path):
    np.savez(tmp_path / "w.npz", **{f"module.{n}": a for n, a in fake_state_dict().items()})
    assert_same(read_state_dict(tmp_path / "w.npz"), fake_state_dict())


@needs_torch
def test_training_script_file_without_suffix_and_half_precision(tmp_path):
    import torch

    tensors = {n: torch.from_numpy(np.array(a)) for n, a in fake_state_dict().items()}
    tensors["full_fuse.unify.bias"] = tensors["full_fuse.unify.bias"].bfloat16()
    path = tmp_path / "1755540780_loss0.6658"
    torch.save({"model_state_dict": tensors, "optim_state_dict": {"state": {}}, "best_loss": 0.5}, path)
    got = read_state_dict(path)
    assert got.keys() == tensors.keys()
    assert got["full_fuse.unify.bias"].dtype == np.float32
    np.testing.assert_array_equal(got["full_fuse.unify.weight"], tensors["full_fuse.unify.weight"].numpy())


@pytest.mark.parametrize(
    ("name", "content"),
    [("gone.npz", None), ("cut.npz", b"PK\3\4"), ("cut.safetensors", b"1"), ("none.npz", {})],
)
def test_unreadable_files_are_named(tmp_path, name, content):
    path = tmp_path / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        np.savez(path, **content)
    with pytest.raises(Dis2Error, match=name) as e:
        read_state_dict(path)
    assert "\n" not in str(e.value)


def test_unknown_output_suffix_is_refused(tmp_path):
    with pytest.raises(Dis2Error, match="npz"):
        write_state_dict(tmp_path / "w.bin", fake_state_dict())


def damaged(kind):
    state_dict = fake_state_dict()
    if kind == "missing":
        del state_dict["rgb_encoder.e1.weight"]  # the width is read from this one, among others
    elif kind == "extra":
        state_dict["full_fuse.unify.scale"] = np.ones(3, np.float32)
    else:
        state_dict["full_fuse.unify.weight"] = np.ones((64, 64, 1, 1), np.float32)
    return state_dict


@pytest.mark.parametrize(
    ("kind", "line"),
    [
        ("missing", "missing: rgb_encoder.e1.weight"),
        ("extra", "extra: full_fuse.unify.scale"),
        ("reshaped", "reshaped: full_fuse.unify.weight: (64, 64, 1, 1) found, (64, 128, 1, 1) wanted"),
    ],
)
def test_names_that_do_not_fit_are_listed_and_nothing_is_written(tmp_path, capsys, kind, line):
    np.savez(tmp_path / "w.npz", **damaged(kind))
    with pytest.raises(names.StateDictError, match="nothing was written"):
        run(import_torch, "--checkpoint", tmp_path / "w.npz", "--workdir", tmp_path / "W", "--tile", "32x48")
    assert capsys.readouterr().err.splitlines() == [line]
    assert [p.name for p in tmp_path.iterdir()] == ["w.npz"]


def test_a_foreign_state_dict_lists_every_name(tmp_path):
    np.savez(tmp_path / "w.npz", **{"conv.weight": np.ones((2, 2)), "conv.bias": np.ones(2)})
    with pytest.raises(names.StateDictError) as e:
        import_checkpoint(tmp_path / "w.npz", tmp_path / "W")
    assert e.value.mismatch.extra == ("conv.weight", "conv.bias")
    assert len(e.value.mismatch.missing) == len(
        {n for link in names.links(MODEL.clone(num_classes=5, depth=2, parent=None)) for n in link.published}
    )


@pytest.mark.parametrize("name", FORMATS)
def test_import_then_export_is_exact(tmp_path, capsys, name):
    write_state_dict(tmp_path / name, fake_state_dict())
    workdir = tmp_path / "W"
    run(import_torch, "--checkpoint", tmp_path / name, "--workdir", workdir, "--tile", "32x48")
    assert "full_classwise_decoder.seg_d4.weight" in capsys.readouterr().out
    run(export_torch, "--workdir", workdir, "--out", tmp_path / "out" / name)
    back = read_state_dict(tmp_path / "out" / name)
    assert back.keys() == fake_state_dict().keys()
    assert_same(used(back), used(fake_state_dict()))
    assert not any(back[n].any() for n in names.unused_shapes(MODEL))


def test_an_imported_workdir_has_the_weights_and_the_released_switches(tmp_path):
    np.savez(tmp_path / "w.npz", **fake_state_dict())
    import_checkpoint(tmp_path / "w.npz", tmp_path / "W", tile=(32, 48))
    model = read(tmp_path / "W").model
    assert (model.position, model.class_scale, model.pool) == ("table", "sum", "attention")
    assert (model.width, model.depth, model.feed_forward) == (8, 1, 24)
    trained = load_eval_variables(tmp_path / "W")
    assert trained.model == MODEL
    wanted = names.to_variables(fake_state_dict(), model=MODEL)
    jax.tree.map(np.testing.assert_array_equal, trained.variables, wanted)
    with pytest.raises(Dis2Error, match="not empty"):
        import_checkpoint(tmp_path / "w.npz", tmp_path / "W", tile=(32, 48))


def test_a_card_names_the_modalities_and_the_dataset(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    card = DatasetCard(
        name="floods",
        modalities=(Modality("s2", 3, kind="optical"), Modality("s1", 1, kind="sar")),
        legend=ClassLegend(names=("dry", "wet", "rest"), colors=((0, 0, 0), (0, 0, 255), (9, 9, 9))),
        tile=(32, 48),
        splits={"train": 3},
    )
    (folder / "dataset_card.json").write_text(card.to_json())
    (folder / "dataset_info.json").write_text(json.dumps({}))
    np.savez(tmp_path / "w.npz", **fake_state_dict())
    made = import_checkpoint(tmp_path / "w.npz", tmp_path / "W", card=folder / "dataset_card.json")
    assert made.card == card
    assert read(tmp_path / "W").data.dir == str(folder.resolve())
    exported = export_checkpoint(tmp_path / "W", tmp_path / "back.npz")
    assert any("s2 is called rgb" in note for note in exported.notes)
    with pytest.raises(Dis2Error, match="position tables know one tile size"):
        import_checkpoint(tmp_path / "w.npz", tmp_path / "V", card=folder, tile=(32, 32))
    assert not (tmp_path / "V").exists()


def run(command, *arguments):
    """Parse and run one sub-command, as the CLI does."""
    import argparse

    parser = argparse.ArgumentParser()
    command.add_parser(parser.add_subparsers(required=True))
    name = command.__name__.rsplit(".", 1)[-1].replace("_", "-")
    parsed, rest = parser.parse_known_args([name, *map(str, arguments)])
    parsed.func(parsed, rest)
