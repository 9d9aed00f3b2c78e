"""A list of scenes instead of file patterns: CSV, or (Geo)Parquet, one row per scene.

Columns: ``scene`` (its id), ``label``, one per modality (empty: the scene lacks it), and ``split`` if the card
has no [split]. Others, such as a geometry, are not looked at. Paths are relative to --source, or absolute, or
whatever GDAL opens (``s3://``, ``gs://``, ``https://``, ``/vsi...``).
"""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dis2_jax.schema import Dis2Error, nearest


@dataclasses.dataclass(frozen=True)
class ListedScene:
    """One row; ``files`` holds the modalities that are there, ``split`` is empty where no column says."""

    id: str
    label: str
    files: dict[str, str]
    split: str = ""


def read_scene_list(path: Path, modalities: Sequence[str]) -> tuple[ListedScene, ...]:
    """Read a list, sorted by id. Raises ``Dis2Error`` naming the file and the column or row that is wrong."""
    wanted = ["scene", "label", *modalities]
    columns, rows = _read_parquet(path, wanted) if path.suffix == ".parquet" else _read_csv(path)
    missing = [c for c in wanted if c not in columns]
    if missing:
        raise Dis2Error(
            f"{path} has no column {missing[0]!r}{nearest(missing[0], columns)}; it has {', '.join(columns)}"
        )
    scenes: dict[str, ListedScene] = {}
    for number, row in enumerate(rows, start=1):
        text = {c: str(row[c] if row.get(c) is not None else "").strip() for c in (*wanted, "split")}
        if not text["scene"] or not text["label"]:
            raise Dis2Error(f"{path}: row {number} has no {'label' if text['scene'] else 'scene'}")
        if text["scene"] in scenes:
            raise Dis2Error(f"{path}: scene {text['scene']!r} is listed twice (again in row {number})")
        files = {m: text[m] for m in modalities if text[m]}
        scenes[text["scene"]] = ListedScene(text["scene"], text["label"], files, text["split"])
    if not scenes:
        raise Dis2Error(f"{path} lists no scene")
    return tuple(scenes[i] for i in sorted(scenes))


def splits_of(scenes: Iterable[ListedScene], path: Path, known: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Return split -> scene ids by the column ``split``; rows without one are in no split."""
    found: dict[str, list[str]] = {}
    for s in scenes:
        if s.split and s.split not in known:
            raise Dis2Error(
                f"{path}: split {s.split!r} of scene {s.id!r}{nearest(s.split, known)}: "
                f"choose from {', '.join(known)}"
            )
        if s.split:
            found.setdefault(s.split, []).append(s.id)
    for split in known[:2]:
        if split not in found:
            raise Dis2Error(
                f"{path}: no scene is in split {split!r}: fill a column `split`, or give a [split]"
            )
    return {s: tuple(found[s]) for s in known if s in found}


def _read_csv(path: Path) -> tuple[list[str], list[Mapping[str, Any]]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as f:
            reader = csv.DictReader(f)
            rows: list[Mapping[str, Any]] = list(reader)
            columns = [c for c in reader.fieldnames or () if c]
    except (OSError, UnicodeDecodeError, csv.Error) as e:
        raise Dis2Error(f"{path} cannot be read as CSV: {e}") from e
    for number, row in enumerate(rows, start=1):
        if reader.restkey in row:  # a comma in a path moves everything behind it
            raise Dis2Error(
                f"{path}: row {number} has more fields than there are columns: quote what holds a comma"
            )
    return columns, rows


def _read_parquet(path: Path, wanted: Sequence[str]) -> tuple[list[str], list[Mapping[str, Any]]]:
    import pyarrow
    import pyarrow.parquet

    try:
        columns = pyarrow.parquet.read_schema(path).names
        chosen = [c for c in (*wanted, "split") if c in columns]
        return columns, pyarrow.parquet.read_table(path, columns=chosen).to_pylist()
    except (OSError, pyarrow.ArrowException) as e:
        text = str(e).strip().splitlines()
        raise Dis2Error(f"{path} cannot be read as Parquet: {text[0] if text else type(e).__name__}") from e
