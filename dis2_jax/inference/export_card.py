"""The JSON card of an export: everything that its user must know, and a digest of every file."""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dis2_jax
from dis2_jax.data.normalize import Normalization, statistics
from dis2_jax.inference.model import Model
from dis2_jax.schema import Dis2Error, Modality

CARD = "card.json"
FORMAT = "dis2-export"
FORMAT_VERSION = 1


def describe_model(model: Model) -> dict[str, Any]:
    """Modalities, classes, layouts: what holds for every format."""
    return {
        "name": model.card.name,
        "description": model.card.description,
        "ground_sampling_distance_m": model.card.ground_sampling_distance,
        "input": {
            "layout": "[B, H, W, C]",
            "dtype": "float32",
            "values": "physical units, none NaN or infinite",
            "channels": {m.name: m.channels for m in model.card.modalities},
        },
        "modalities": [_modality(m, model.normalization) for m in model.card.modalities],
        "output": {"layout": "[B, H, W, K]", "dtype": "float32", "values": "class probabilities, sum 1"},
        "classes": [
            {"position": i, "name": name, "color": list(color)}
            for i, (name, color) in enumerate(
                zip(model.card.legend.names, model.card.legend.colors, strict=True)
            )
        ],
    }


def describe_origin(model: Model, workdir: Path) -> dict[str, Any]:
    """Which run and step, and what code wrote the export (``commit`` is null outside a git checkout)."""
    return {
        "run": workdir.resolve().name,
        "step": model.step,
        "dataset": model.card.name,
        "source": model.card.source,
        "licence": model.card.licence,
        "dis2_jax": dis2_jax.__version__,
        "commit": source_commit(),
    }


def describe_tile(model: Model, tile: tuple[int, int] | None) -> dict[str, Any]:
    """``fixed`` (height, width) or null; ``trained`` is the size of the training samples."""
    return {
        "multiple_of": 16,
        "fixed": None if tile is None else list(tile),
        "trained": list(model.network.tile),
    }


def digests(folder: Path) -> dict[str, dict[str, Any]]:
    """Size and SHA-256 of every file below ``folder`` but the card itself."""
    found = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and p != folder / CARD):
        with path.open("rb") as file:
            sha = hashlib.file_digest(file, "sha256").hexdigest()
        found[str(path.relative_to(folder))] = {"bytes": path.stat().st_size, "sha256": sha}
    return found


def write_card(folder: Path, content: Mapping[str, Any]) -> None:
    """Write ``card.json`` into a folder that nobody reads yet."""
    (folder / CARD).write_text(
        json.dumps({"format": FORMAT, "format_version": FORMAT_VERSION, **content}, indent=1)
    )


def check_replaceable(out: Path) -> None:
    """Raise ``Dis2Error`` unless ``out`` is free, empty, or an export with nothing else in it."""
    if not out.exists() and not out.is_symlink():
        return
    if not out.is_dir():
        raise Dis2Error(f"{out} exists and is not a folder: choose another --out")
    if not any(out.iterdir()):
        return
    try:
        card = json.loads((out / CARD).read_text())
        known = {CARD, *card["files"]} if card["format"] == FORMAT else set()
    except (OSError, ValueError, KeyError, TypeError):
        known = set()
    if not known:
        raise Dis2Error(f"{out} exists and is not an export: choose another --out")
    others = [p for p in sorted(out.rglob("*")) if p.is_file() and "__pycache__" not in p.parts]
    strange = [str(p.relative_to(out)) for p in others if str(p.relative_to(out)) not in known]
    if strange:
        raise Dis2Error(
            f"{out} holds {strange[0]}, which no export wrote: move it away or choose another --out"
        )


def source_commit() -> str | None:
    """Commit of the checkout that this package runs from, with ``-dirty`` when it was changed."""
    package = Path(dis2_jax.__file__).resolve().parent
    command = ["git", "-C", str(package), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        tracked = subprocess.run(
            ["git", "-C", str(package), "ls-files", "--error-unmatch", "__init__.py"],
            capture_output=True,
            timeout=20,
        )
        if tracked.returncode:
            return None  # installed, perhaps inside somebody else's repository
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def _modality(modality: Modality, normalization: Normalization) -> dict[str, Any]:
    inside = None
    if normalization == "card":
        mean, std = statistics(modality)
        inside = {"mean": mean.tolist(), "std": std.tolist()}
    return {
        "name": modality.name,
        "kind": modality.kind,
        "channels": modality.channels,
        "bands": list(modality.bands),
        "unit": modality.unit,
        "dtype": "float32",
        "normalization_inside": inside,
    }
