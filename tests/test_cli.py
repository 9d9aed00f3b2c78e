"""The command line as a whole: help everywhere, and what it refuses."""

from __future__ import annotations

import argparse
import errno
import subprocess
import sys
import warnings

import pytest

from dis2_jax.cli import evaluate
from dis2_jax.cli.main import build_parser, main

COMMANDS = [
    [],
    ["train"],
    ["evaluate"],
    ["predict"],
    ["compare"],
    ["diagnose"],
    ["degrade"],
    ["report"],
    ["data"],
    ["data", "prepare"],
    ["data", "prepare", "synthetic_city"],
    ["data", "prepare", "ombria"],
    ["data", "prepare", "folder"],
    ["data", "prepare", "potsdam"],
    ["data", "prepare", "vaihingen"],
    ["data", "prepare", "sen12ms"],
    ["data", "prepare", "dfc2020"],
    ["data", "prepare", "terramind_mini"],
    ["data", "index"],
    ["data", "mix"],
    ["data", "inspect"],
    ["import-torch"],
    ["export-torch"],
    ["export"],
    ["bench"],
    ["bench", "step"],
    ["bench", "predict"],
    ["bench", "sharding"],
    ["bench", "plan"],
    ["bench", "input"],
    ["bench", "encodings"],
    ["plan"],
]


def subcommands(parser, path=()):
    """Every path of sub-commands that the parser has."""
    yield list(path)
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, child in action.choices.items():
                yield from subcommands(child, (*path, name))


def test_no_command_is_untested():
    assert sorted(subcommands(build_parser())) == sorted(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help_of_every_command(command, capsys):
    with pytest.raises(SystemExit) as e:
        main([*command, "--help"])
    assert e.value.code == 0
    out = capsys.readouterr().out
    assert out.startswith("usage: dis2")
    assert max(map(len, out.splitlines())) < 200


@pytest.mark.parametrize(
    ("command", "nearest"),
    [
        ("train --config c.py --workdir W --confg.train.steps=3", None),
        ("evaluate --workdir W --splt test", "--split"),
        ("compare A B --basline C", "--baseline"),
        ("data prepare synthetic_city --out D --sed 3", "--seed"),
        ("data prepare ombria --out D --source S --hold-out 3", "--holdout"),
        ("data prepare potsdam --out D --source S --cluter ignore", "--clutter"),
        ("data inspect D --shet x.png", "--sheet"),
        ("data index --card c.toml --out D --smples 3", "--samples"),
        ("data mix --recpe m.toml --out D", "--recipe"),
        ("import-torch --checkpoint F --workdir W --crd x", "--card"),
        ("export-torch --workdir W --out F.npz --stp 3", "--step"),
        ("export --workdir W --out D --platfrm cpu", "--platforms"),
        ("predict --workdir W --modality rgb=a.tif --out m.tif --overlp 3", "--overlap"),
        ("bench step --stepz 3", None),
        ("bench predict --workdir W --sise 3", "--size"),
    ],
)
def test_unknown_options_are_refused_in_one_line(command, nearest, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(command.split()) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("dis2: error: ")
    if nearest:
        assert nearest in lines[0]
    assert not list(tmp_path.iterdir())


def test_help_needs_neither_jax_nor_tensorflow_datasets():
    code = (
        "import sys; from dis2_jax.cli.main import build_parser; build_parser();"
        "print([m for m in ('jax', 'tensorflow_datasets', 'torch', 'tensorflow') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_warnings_of_libraries_are_not_for_the_user(monkeypatch, capsys):
    monkeypatch.setattr(evaluate, "run", lambda *_: warnings.warn("of a library", stacklevel=1))
    command = ["evaluate", "--workdir", "W"]
    with pytest.raises(UserWarning):
        main(command)  # called from Python they stay
    monkeypatch.setattr(sys, "argv", ["dis2", *command])
    monkeypatch.setattr(sys, "warnoptions", [])
    assert main() == 0
    assert capsys.readouterr().err == ""


def test_python_dash_m_and_the_exit_status():
    done = subprocess.run(
        [sys.executable, "-m", "dis2_jax", "evaluate", "--workdir", "/nowhere/at/all"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    last = done.stderr.splitlines()[-1]
    assert last.startswith("dis2: error: ")
    assert "/nowhere/at/all" in last
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("number", "told"), [("ENOSPC", "the disk is full"), ("EDQUOT", "your quota is used up")]
)
def test_a_place_without_room_is_one_line(monkeypatch, capsys, number, told):
    def full(*_):
        raise OSError(getattr(errno, number), "no room", "w/config.json")

    monkeypatch.setattr(evaluate, "run", full)
    assert main(["evaluate", "--workdir", "w"]) == 2
    assert capsys.readouterr().err == f"dis2: error: w/config.json: {told}; free some space\n"
