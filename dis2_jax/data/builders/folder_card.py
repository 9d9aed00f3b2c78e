"""The TOML card of a bring-your-own dataset: its dataclasses, its parser, and an example that explains it."""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

from dis2_jax.data.builders.tiles import check_tile_size
from dis2_jax.schema import ClassLegend, Dis2Error, ModalityKind, nearest

SPLITS = ("train", "validation", "test")
Code = int | tuple[int, int, int]
Box = tuple[float, float, float, float]

_PALETTE = (
    (230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178), (213, 94, 0),
    (204, 121, 167), (153, 153, 153), (120, 80, 40), (150, 220, 60), (90, 40, 160), (40, 60, 60),
)  # fmt: skip
_MISSING = object()

EXAMPLE_CARD = """\
# A card tells `dis2 data prepare folder` what your files are. Paths are relative to --source.
#     dis2 data prepare folder --source DIR --card card.toml --out OUT
name = "my_city"                 # lower case, digits and _
description = "Orthophotos and heights of my city, 2023"
licence = "CC-BY-4.0"
ground_sampling_distance = 0.2   # metres per pixel
tile = 256                       # or [height, width]; multiples of 16
overlap = 64                     # pixels that neighbouring TRAINING tiles share; elsewhere none overlap

# One block per modality (at least two), in the order the model shall see them. What `*` stands for is the
# scene's id: photos/a7_rgb.tif and heights/a7.tif are both scene "a7". PNG or GeoTIFF, any number type.
[[modality]]
name = "rgb"
files = "photos/*_rgb.tif"
kind = "optical"                 # optical | sar | height | other: only optical gets colour noise in training
bands = [1, 2, 3]                # optional; bands count from 1; default: all
band_names = ["red", "green", "blue"]   # optional

[[modality]]
name = "ndsm"
files = "heights/*.tif"
kind = "height"
unit = "m"
nodata = -9999                   # optional (default: what the GeoTIFF says); nan is allowed
scale = 0.01                     # optional: stored value = scale * file value + offset, as float32
offset = 0.0
optional = true                  # scenes without this file are used, with the modality marked absent

[label]
files = "labels/*.png"           # one band of codes, a palette image, or RGB colours
ignore = [255]                   # codes (or [r, g, b] colours) that take part in nothing
unknown = "refuse"               # what other codes mean: refuse (default, lists them) | ignore

[[class]]                        # at least two
name = "road"
code = 1                         # or several, `codes = [1, 4]`, or a colour, `code = [255, 255, 255]`
color = [255, 255, 255]          # optional, for pictures

[[class]]
name = "building"
code = 2
color = [0, 0, 255]

# The split: exactly one of [split.list], [split.pattern], [split.region]. `test` may be left out.
[split.pattern]                  # scene ids by pattern
train = ["a*", "b*"]
validation = ["c1", "c2"]
test = ["c*"]                    # where several fit, validation comes before test, and test before train

# [split.list]                   # scene ids, or the name of a text file with one id per line
# train = "train.txt"
# validation = ["c1", "c2"]

# [split.region]                 # parts of every scene: [top, left, bottom, right] as fractions
# validation = [0.0, 0.75, 0.5, 1.0]
# test = [0.5, 0.75, 1.0, 1.0]   # train gets the rest
"""


@dataclasses.dataclass(frozen=True)
class FolderModality:
    """A ``[[modality]]`` block. ``bands`` are 1-based (empty: all); ``nodata`` None: what each file says."""

    name: str
    files: str
    kind: ModalityKind = "other"
    unit: str = ""
    bands: tuple[int, ...] = ()
    band_names: tuple[str, ...] = ()
    nodata: float | None = None
    scale: float = 1.0
    offset: float = 0.0
    optional: bool = False

    @property
    def rescaled(self) -> bool:
        """Whether values change between file and dataset."""
        return self.scale != 1.0 or self.offset != 0.0


@dataclasses.dataclass(frozen=True)
class FolderLabel:
    """The ``[label]`` block; ``codes[i]`` are those of class i, all of them integers or all colours."""

    files: str
    codes: tuple[tuple[Code, ...], ...]
    ignore: tuple[Code, ...] = ()
    unknown: Literal["refuse", "ignore"] = "refuse"

    @property
    def colored(self) -> bool:
        """Whether labels are RGB pictures."""
        return isinstance(self.codes[0][0], tuple)


@dataclasses.dataclass(frozen=True)
class FolderSplit:
    """How scenes (``list``, ``pattern``: ``ids``) or their parts (``region``: ``boxes``) are split."""

    by: Literal["list", "pattern", "region"]
    ids: dict[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    boxes: dict[str, tuple[Box, ...]] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class FolderCard:
    """A parsed card."""

    path: Path
    name: str
    modalities: tuple[FolderModality, ...]
    label: FolderLabel
    legend: ClassLegend
    split: FolderSplit
    tile: tuple[int, int]
    overlap: int = 0
    description: str = ""
    source: str = ""
    licence: str = ""
    ground_sampling_distance: float | None = None


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


class _Table:
    """A TOML table whose keys are taken one by one with a type; ``done`` refuses the ones left over."""

    def __init__(self, values: Any, where: str) -> None:
        if not isinstance(values, Mapping):
            raise Dis2Error(f"[{where}] must be a table" if where else "the card must be a table")
        self.values, self.where, self.known = dict(values), where, list[str]()

    def key(self, name: str) -> str:
        return f"[{self.where}] {name}" if self.where else name

    def take(self, name: str, kind: type | tuple[type, ...], default: Any = _MISSING) -> Any:
        self.known.append(name)
        if name not in self.values:
            if default is _MISSING:
                close = nearest(name, self.values)
                raise Dis2Error(
                    f"{self.key(name)} is missing{close}: see `dis2 data prepare folder --example-card`"
                )
            return default
        value = self.values.pop(name)
        kinds = kind if isinstance(kind, tuple) else (kind,)
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            wanted = " or ".join(k.__name__ for k in kinds)
            raise Dis2Error(f"{self.key(name)} = {value!r}: {wanted} is wanted")
        return value

    def choice(self, name: str, options: tuple[str, ...], default: str) -> Any:
        value = self.take(name, str, default)
        if value not in options:
            raise Dis2Error(
                f"{self.key(name)} = {value!r}{nearest(value, options)}: choose from {', '.join(options)}"
            )
        return value

    def done(self) -> None:
        for name in self.values:
            raise Dis2Error(
                f"unknown key {self.key(name)}{nearest(name, self.known)}; known are {', '.join(self.known)}"
            )


def _parse_card(path: Path, values: Mapping[str, Any], source: Path) -> FolderCard:
    t = _Table(values, "")
    name = t.take("name", str)
    description, origin = t.take("description", str, ""), t.take("source", str, "")
    licence, gsd = t.take("licence", str, ""), t.take("ground_sampling_distance", (int, float), None)
    tile = _tile(t.take("tile", (int, list)))
    overlap = t.take("overlap", int, 0)
    if not 0 <= overlap < min(tile):
        raise Dis2Error(f"overlap = {overlap}: it must be at least 0 and less than the tile's sides {tile}")
    modalities = tuple(_modality(m, f"modality {i + 1}") for i, m in enumerate(t.take("modality", list)))
    if len(modalities) < 2:
        raise Dis2Error(f"{len(modalities)} [[modality]] block: DIS2 needs at least 2 modalities")
    names = [m.name for m in modalities]
    if len(set(names)) != len(names):
        raise Dis2Error(f"modality names repeat: {', '.join(names)}")
    legend, codes = _classes(t.take("class", list))
    label = _label(t.take("label", dict), codes)
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
        overlap=overlap,
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


def _modality(values: Any, where: str) -> FolderModality:
    t = _Table(values, where)
    nodata = t.take("nodata", (int, float), None)
    m = FolderModality(
        name=t.take("name", str),
        files=_pattern(t, "files"),
        kind=t.choice("kind", get_args(ModalityKind), "other"),
        unit=t.take("unit", str, ""),
        bands=_list_of(t, "bands", int),
        band_names=_list_of(t, "band_names", str),
        nodata=None if nodata is None else float(nodata),
        scale=float(t.take("scale", (int, float), 1.0)),
        offset=float(t.take("offset", (int, float), 0.0)),
        optional=t.take("optional", bool, False),
    )
    t.done()
    if m.bands and m.band_names and len(m.bands) != len(m.band_names):
        raise Dis2Error(f"[{where}] has {len(m.bands)} bands but {len(m.band_names)} band_names")
    return m


def _pattern(t: _Table, key: str) -> str:
    pattern: str = t.take(key, str)
    if "*" not in pattern.replace("**", ""):
        raise Dis2Error(f"{t.key(key)} = {pattern!r}: a `*` must stand where the scene's id is")
    if Path(pattern).is_absolute():
        raise Dis2Error(f"{t.key(key)} = {pattern!r}: it must be relative to --source")
    return pattern


def _list_of(t: _Table, key: str, kind: type) -> tuple[Any, ...]:
    values = t.take(key, list, [])
    if not all(isinstance(v, kind) and not isinstance(v, bool) for v in values):
        raise Dis2Error(f"{t.key(key)} = {values!r}: a list of {kind.__name__} is wanted")
    return tuple(values)


def _classes(blocks: list[Any]) -> tuple[ClassLegend, tuple[tuple[Code, ...], ...]]:
    names: list[str] = []
    colors: list[tuple[int, int, int]] = []
    codes: list[tuple[Code, ...]] = []
    for i, block in enumerate(blocks):
        t = _Table(block, f"class {i + 1}")
        names.append(t.take("name", str))
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


def _label(values: Mapping[str, Any], codes: tuple[tuple[Code, ...], ...]) -> FolderLabel:
    t = _Table(values, "label")
    files = _pattern(t, "files")
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
    t = _Table(table, f"split.{by}")
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
        found = [p for p in (beside / value, source / value) if p.is_file()]
        if not found:
            raise Dis2Error(f"{key} = {value!r}: no such file beside the card or in {source}")
        lines = found[0].read_text(encoding="utf-8").splitlines()
        return tuple(line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#"))
    values = [value] if isinstance(value, str) else value
    if not all(isinstance(v, str) for v in values):
        raise Dis2Error(f'{key} = {value!r}: scene ids as text are wanted, such as ["a1", "a2"]')
    return tuple(values)


def _boxes(value: list[Any], key: str) -> tuple[Box, ...]:
    boxes = value if value and isinstance(value[0], list) else [value]
    for b in boxes:
        if len(b) != 4 or not all(isinstance(v, (int, float)) for v in b):
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
