"""Parse the TOML card of a bring-your-own dataset."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from dis2_jax.data.builders.folder_card import (
    SPLITS,
    Box,
    Code,
    FolderCard,
    FolderLabel,
    FolderModality,
    FolderSplit,
)
from dis2_jax.data.builders.scene_list import read_scene_list, splits_of
from dis2_jax.data.builders.tiles import check_tile_size
from dis2_jax.data.builders.toml_table import TomlTable
from dis2_jax.schema import ClassLegend, Dis2Error, ModalityKind, check_modality_name, nearest

_PALETTE = (
    (230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178), (213, 94, 0),
    (204, 121, 167), (153, 153, 153), (120, 80, 40), (150, 220, 60), (90, 40, 160), (40, 60, 60),
)  # fmt: skip


def load_card(path: str | Path, *, source: str | Path = ".") -> FolderCard:
    """Read a card; split lists named by file are looked up beside the card, then in ``source``.

    Raises ``Dis2Error`` with the card's path and the key that is missing, unknown (nearest one offered) or
    wrong.
    """
    path = Path(path)
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as e:
        raise Dis2Error(
            f"{path} not found: `dis2 data prepare folder --example-card` prints a card to start from"
        ) from e
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as e:
        raise Dis2Error(f"{path} is not a TOML file: {e}") from e
    try:
        return _parse_card(path, values, Path(source))
    except Dis2Error as e:
        raise Dis2Error(str(e) if str(e).startswith(str(path)) else f"{path}: {e}") from e


def _parse_card(path: Path, values: Mapping[str, Any], source: Path) -> FolderCard:
    t = TomlTable(values, "")
    name = t.take("name", str)
    description, origin = t.take("description", str, ""), t.take("source", str, "")
    licence, gsd = t.take("licence", str, ""), t.take("ground_sampling_distance", (int, float), None)
    if gsd is not None and not 0 < gsd < math.inf:
        raise Dis2Error(f"ground_sampling_distance = {gsd}: metres per pixel are wanted, above 0")
    tile = _tile(t.take("tile", (int, list)))
    overlaps = {key: t.take(key, int, 0) for key in ("overlap", "test_overlap")}
    for key, pixels in overlaps.items():
        if not 0 <= pixels < min(tile):
            raise Dis2Error(f"{key} = {pixels}: it must be at least 0 and less than the tile's sides {tile}")
    list_name = t.take("scenes", str, "")
    modalities = tuple(
        _modality(m, f"modality {i + 1}", listed=bool(list_name))
        for i, m in enumerate(t.take("modality", list))
    )
    if len(modalities) < 2:
        raise Dis2Error(f"{len(modalities)} [[modality]] block: DIS2 needs at least 2 modalities")
    names = [m.name for m in modalities]
    if len(set(names)) != len(names):
        raise Dis2Error(f"modality names repeat: {', '.join(names)}")
    reference = t.choice("reference", ("label", *names), "label")
    legend, codes = _classes(t.take("class", list))
    label = _label(t.take("label", dict), codes, listed=bool(list_name))
    list_path = _beside(list_name, "scenes", path.parent, source) if list_name else path
    scenes = read_scene_list(list_path, names) if list_name else ()
    if any(s.split for s in scenes) and "split" not in t.values:
        split = FolderSplit("list", ids=splits_of(scenes, list_path, SPLITS))
    else:
        split = _split(t.take("split", dict), path.parent, source)
    t.done()
    return FolderCard(
        path=path,
        name=name,
        modalities=modalities,
        label=label,
        legend=legend,
        split=split,
        tile=tile,
        **overlaps,
        scenes=scenes,
        reference=reference,
        description=description,
        source=origin,
        licence=licence,
        ground_sampling_distance=None if gsd is None else float(gsd),
    )


def _tile(value: int | list[Any]) -> tuple[int, int]:
    sides = [value, value] if isinstance(value, int) else value
    if len(sides) != 2 or not all(isinstance(s, int) for s in sides):
        raise Dis2Error(f"tile = {value!r}: one number or [height, width] is wanted")
    check_tile_size((sides[0], sides[1]))
    return sides[0], sides[1]


def _modality(values: Any, where: str, *, listed: bool) -> FolderModality:
    t = TomlTable(values, where)
    nodata = t.take("nodata", (int, float), None)
    m = FolderModality(
        name=t.take("name", str),
        files="" if listed else _pattern(t, "files"),
        kind=t.choice("kind", get_args(ModalityKind), "other"),
        unit=t.take("unit", str, ""),
        bands=_list_of(t, "bands", int),
        band_names=_list_of(t, "band_names", str),
        nodata=None if nodata is None else float(nodata),
        scale=_finite(t, "scale", 1.0),
        offset=_finite(t, "offset", 0.0),
        optional=t.take("optional", bool, False),
    )
    t.done()
    check_modality_name(m.name)
    if m.scale == 0:
        raise Dis2Error(f"{t.key('scale')} = 0: every value would become the offset; leave it out for none")
    if m.bands and m.band_names and len(m.bands) != len(m.band_names):
        raise Dis2Error(f"[{where}] has {len(m.bands)} bands but {len(m.band_names)} band_names")
    return m


def _finite(t: TomlTable, key: str, default: float) -> float:
    value = float(t.take(key, (int, float), default))
    if not math.isfinite(value):
        raise Dis2Error(f"{t.key(key)} = {value}: a finite number is wanted")
    return value


def _pattern(t: TomlTable, key: str) -> str:
    pattern: str = t.take(key, str)
    if "*" not in pattern.replace("**", ""):
        raise Dis2Error(f"{t.key(key)} = {pattern!r}: a `*` must stand where the scene's id is")
    if Path(pattern).is_absolute():
        raise Dis2Error(f"{t.key(key)} = {pattern!r}: it must be relative to --source")
    return pattern


def _list_of(t: TomlTable, key: str, kind: type) -> tuple[Any, ...]:
    values = t.take(key, list, [])
    if not all(isinstance(v, kind) and not isinstance(v, bool) for v in values):
        raise Dis2Error(f"{t.key(key)} = {values!r}: a list of {kind.__name__} is wanted")
    return tuple(values)


def _classes(blocks: list[Any]) -> tuple[ClassLegend, tuple[tuple[Code, ...], ...]]:
    names: list[str] = []
    colors: list[tuple[int, int, int]] = []
    codes: list[tuple[Code, ...]] = []
    for i, block in enumerate(blocks):
        t = TomlTable(block, f"class {i + 1}")
        names.append(t.take("name", str))
        if not names[-1].strip():
            raise Dis2Error(f"[class {i + 1}] name is empty: tables and legends need one")
        single, several = t.take("code", (int, list), None), t.take("codes", list, None)
        if (single is None) == (several is None):
            raise Dis2Error(f"[class {i + 1}] {names[-1]!r}: give either code or codes")
        own = tuple(_code(c, f"[class {i + 1}] code") for c in ([single] if several is None else several))
        if not own:
            raise Dis2Error(f"[class {i + 1}] {names[-1]!r}: codes is empty")
        codes.append(own)
        fallback = own[0] if isinstance(own[0], tuple) else _PALETTE[i % len(_PALETTE)]
        color = _code(t.take("color", list, list(fallback)), f"[class {i + 1}] color")
        assert isinstance(color, tuple)
        colors.append(color)
        t.done()
    plain = tuple(c[0] for c in codes if len(c) == 1 and isinstance(c[0], int))
    legend = ClassLegend(tuple(names), tuple(colors), plain if len(plain) == len(names) else ())
    return legend, tuple(codes)


def _code(value: Any, where: str) -> Code:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if (
        isinstance(value, list)
        and len(value) == 3
        and all(isinstance(v, int) and 0 <= v <= 255 for v in value)
    ):
        return value[0], value[1], value[2]
    raise Dis2Error(f"{where} = {value!r}: an integer or a colour [r, g, b] with 0..255 is wanted")


def _label(values: Mapping[str, Any], codes: tuple[tuple[Code, ...], ...], *, listed: bool) -> FolderLabel:
    t = TomlTable(values, "label")
    files = "" if listed else _pattern(t, "files")
    ignored = t.take("ignore", (int, list), [])
    if isinstance(ignored, int) or (
        len(ignored) == 3 and _all_colored(codes) and isinstance(ignored[0], int)
    ):
        ignored = [ignored]
    ignore = tuple(_code(c, "[label] ignore") for c in ignored)
    unknown = t.choice("unknown", ("refuse", "ignore"), "refuse")
    t.done()
    every = [c for own in codes for c in own] + list(ignore)
    if len({isinstance(c, tuple) for c in every}) > 1:
        raise Dis2Error("class codes and ignore must be all integers or all colours [r, g, b]")
    twice = sorted({str(c) for c in every if every.count(c) > 1})
    if twice:
        raise Dis2Error(f"label code {twice[0]} is given twice")
    return FolderLabel(files=files, codes=codes, ignore=ignore, unknown=unknown)


def _all_colored(codes: tuple[tuple[Code, ...], ...]) -> bool:
    return all(isinstance(c, tuple) for own in codes for c in own)


def _split(values: Mapping[str, Any], beside: Path, source: Path) -> FolderSplit:
    kinds = ("list", "pattern", "region")
    for key in values:
        if key not in kinds:
            raise Dis2Error(f"unknown [split.{key}]{nearest(key, kinds)}: choose from {', '.join(kinds)}")
    if len(values) != 1:
        raise Dis2Error(f"[split] needs exactly one of {', '.join(kinds)}, not {', '.join(values) or 'none'}")
    by, table = next(iter(values.items()))
    t = TomlTable(table, f"split.{by}")
    if by == "region":
        found = {s: t.take(s, list, None) for s in SPLITS}
        t.done()
        boxes = {s: _boxes(v, t.key(s)) for s, v in found.items() if v is not None}
        if "validation" not in boxes:
            raise Dis2Error(
                "[split.region] validation is missing: give [top, left, bottom, right] as fractions"
            )
        _check_boxes(boxes)
        return FolderSplit("region", boxes=boxes)
    ids = {}
    for s in SPLITS:
        value = t.take(s, (str, list), None) if s == "test" else t.take(s, (str, list))
        if value is not None:
            ids[s] = _ids(value, t.key(s), by, beside, source)
    t.done()
    return FolderSplit("list" if by == "list" else "pattern", ids=ids)


def _ids(value: str | list[Any], key: str, by: str, beside: Path, source: Path) -> tuple[str, ...]:
    if isinstance(value, str) and by == "list":
        path = _beside(value, key, beside, source)
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as e:
            raise Dis2Error(f"{key} = {value!r}: {path} cannot be read as text: {e}") from e
        return tuple(line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#"))
    values = [value] if isinstance(value, str) else value
    if not all(isinstance(v, str) for v in values):
        raise Dis2Error(f'{key} = {value!r}: scene ids as text are wanted, such as ["a1", "a2"]')
    return tuple(values)


def _beside(name: str, key: str, beside: Path, source: Path) -> Path:
    found = [p for p in (beside / name, source / name) if p.is_file()]
    if not found:
        raise Dis2Error(f"{key} = {name!r}: no such file beside the card or in {source}")
    return found[0]


def _boxes(value: list[Any], key: str) -> tuple[Box, ...]:
    boxes = value if value and isinstance(value[0], list) else [value]
    for b in boxes:
        if not isinstance(b, list) or len(b) != 4 or not all(isinstance(v, (int, float)) for v in b):
            raise Dis2Error(f"{key} = {b!r}: [top, left, bottom, right] is wanted")
        if not (0 <= b[0] < b[2] <= 1 and 0 <= b[1] < b[3] <= 1):
            raise Dis2Error(
                f"{key} = {b!r}: fractions with 0 <= top < bottom <= 1 and 0 <= left < right <= 1 are wanted"
            )
    return tuple((float(b[0]), float(b[1]), float(b[2]), float(b[3])) for b in boxes)


def _check_boxes(boxes: Mapping[str, tuple[Box, ...]]) -> None:
    flat = [(split, b) for split, own in boxes.items() for b in own]
    for i, (split, a) in enumerate(flat):
        for other, b in flat[:i]:
            if a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]:
                raise Dis2Error(f"[split.region] {other} {list(b)} and {split} {list(a)} overlap")
