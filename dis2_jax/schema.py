"""What a dataset, a class legend and a missing-modality scenario are: plain frozen dataclasses, no JAX."""

from __future__ import annotations

import dataclasses
import difflib
import itertools
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

IGNORE = 255
"""Label value of pixels that take part in nothing, in every prepared dataset."""

CARD_FILE = "dataset_card.json"
INPUTS_FILE = "inputs.json"
_NAME = re.compile(r"[a-z][a-z0-9_]*")

ModalityKind = Literal["optical", "sar", "height", "other"]

Fill = Literal["compensation", "zeros", "specific"]
"""What stands in a branch's slots of missing modalities: the stand-ins that it was trained with, zeros, or the
features of the real modality."""


class Dis2Error(Exception):
    """Bad input, told in one line: what is wrong, where, and the way out. The CLI prints just that line."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Return ``' (did you mean X?)'`` for the closest known name, or an empty string."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f" (did you mean {close[0]!r}?)" if close else ""


@dataclasses.dataclass(frozen=True)
class SourceFormat:
    """How the dataset read this modality's files, so that prediction reads new ones alike.

    ``bands`` are 1-based (empty: all); value in physical units = ``scale`` * number in the file + ``offset``;
    ``nodata`` where the dataset's card overrules the files (NaN never is data and need not be named).
    """

    bands: tuple[int, ...] = ()
    scale: float = 1.0
    offset: float = 0.0
    nodata: float | None = None

    @property
    def rescaled(self) -> bool:
        """Whether numbers change on the way in."""
        return (self.scale, self.offset) != (1.0, 0.0)


def check_modality_name(name: str) -> None:
    """Raise ``Dis2Error`` for a name that cannot become part of a parameter's or a scenario's."""
    if not _NAME.fullmatch(name):
        raise Dis2Error(f"modality name {name!r}: use lower-case letters, digits and _ (no +)")
    if "_to_" in f"_{name}_":
        raise Dis2Error(f"modality name {name!r}: 'to' is kept for naming compensation encoders")


@dataclasses.dataclass(frozen=True)
class Modality:
    """One sensor product: ``channels`` bands on the tile's grid.

    ``mean`` and ``std`` are per channel, in physical ``unit``s, over the training split's valid pixels.
    ``kind`` decides what augmentation may touch (photometric noise: optical only).
    """

    name: str
    channels: int
    kind: ModalityKind = "other"
    unit: str = ""
    bands: tuple[str, ...] = ()
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    source: SourceFormat = SourceFormat()
    product: str = ""
    """What the data's owners call it, such as ``Sentinel-1 GRD, radiometrically terrain-corrected``."""

    def __post_init__(self) -> None:
        check_modality_name(self.name)
        if self.kind not in get_args(ModalityKind):
            raise Dis2Error(
                f"modality {self.name!r}: kind {self.kind!r}{nearest(self.kind, get_args(ModalityKind))} is not one of "
                f"{', '.join(get_args(ModalityKind))}"
            )
        if self.channels < 1:
            raise Dis2Error(f"modality {self.name!r}: channels must be at least 1, not {self.channels}")


@dataclasses.dataclass(frozen=True)
class ClassLegend:
    """The K classes. Prepared labels hold 0..K-1 (the position here) or ``IGNORE``.

    ``codes`` are the values in the source files, ``colors`` RGB 0..255 for pictures.
    """

    names: tuple[str, ...]
    colors: tuple[tuple[int, int, int], ...]
    codes: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if len(self.names) < 2:
            raise Dis2Error(f"a class legend needs at least 2 classes, not {len(self.names)}: {self.names}")
        if len(self.names) > IGNORE:
            raise Dis2Error(f"a class legend holds at most {IGNORE} classes, not {len(self.names)}")
        if len(set(self.names)) != len(self.names):
            raise Dis2Error(f"class names repeat: {', '.join(self.names)}")
        if len(self.colors) != len(self.names):
            raise Dis2Error(f"{len(self.names)} classes but {len(self.colors)} colours")

    def __len__(self) -> int:
        return len(self.names)


@dataclasses.dataclass(frozen=True)
class DatasetCard:
    """Everything that training, evaluation and prediction must know of a prepared dataset.

    ``splits`` maps split name to number of tiles; ``tile`` is (height, width) in pixels of every stored tile.
    """

    name: str
    modalities: tuple[Modality, ...]
    legend: ClassLegend
    tile: tuple[int, int]
    splits: dict[str, int]
    description: str = ""
    source: str = ""
    licence: str = ""
    ground_sampling_distance: float | None = None
    """Metres per pixel."""
    class_pixels: dict[str, tuple[int, ...]] = dataclasses.field(default_factory=dict)
    """Per split: pixels of each class, then ignored pixels (K + 1 numbers)."""
    inputs: dict[str, str] = dataclasses.field(default_factory=dict)
    """SHA-256 of the files that the dataset was made of; of ``inputs.json``, which lists them, where they are many."""

    def __post_init__(self) -> None:
        names = self.modality_names
        if len(names) < 2:
            raise Dis2Error(f"dataset {self.name!r}: DIS2 needs at least 2 modalities, got {list(names)}")
        if len(set(names)) != len(names):
            raise Dis2Error(f"dataset {self.name!r}: modality names repeat: {', '.join(names)}")

    @property
    def modality_names(self) -> tuple[str, ...]:
        """Names in the model's order."""
        return tuple(m.name for m in self.modalities)

    def modality(self, name: str) -> Modality:
        """Look a modality up; an unknown name raises ``Dis2Error`` with the nearest known one."""
        for m in self.modalities:
            if m.name == name:
                return m
        known = self.modality_names
        raise Dis2Error(
            f"no modality {name!r} in {self.name!r}{nearest(name, known)}; it has {', '.join(known)}"
        )

    def select(self, names: Sequence[str]) -> DatasetCard:
        """Return the card with only these modalities, in the card's order. No names: all of them."""
        if not names:
            return self
        wanted = {self.modality(n).name for n in names}
        return dataclasses.replace(self, modalities=tuple(m for m in self.modalities if m.name in wanted))

    def to_json(self) -> str:
        """Serialise; ``from_json`` is the exact inverse."""
        return json.dumps(dataclasses.asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str) -> DatasetCard:
        """Parse what ``to_json`` wrote. Raises ``Dis2Error`` when the text is not a card."""
        try:
            d: dict[str, Any] = json.loads(text)
            modalities = tuple(_modality(m) for m in d.pop("modalities"))
            legend = d.pop("legend")
            return cls(
                modalities=modalities,
                legend=ClassLegend(
                    names=tuple(legend["names"]),
                    colors=tuple((int(r), int(g), int(b)) for r, g, b in legend["colors"]),
                    codes=tuple(legend["codes"]),
                ),
                tile=(int(d["tile"][0]), int(d.pop("tile")[1])),
                splits={str(k): int(v) for k, v in d.pop("splits").items()},
                class_pixels={k: tuple(v) for k, v in d.pop("class_pixels", {}).items()},
                **d,
            )
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as e:
            raise Dis2Error(f"not a dataset card: {type(e).__name__}: {e}") from e

    @classmethod
    def load(cls, dataset_dir: str | Path) -> DatasetCard:
        """Read ``<dataset_dir>/dataset_card.json``."""
        path = Path(dataset_dir) / CARD_FILE
        if not path.is_file():
            raise Dis2Error(
                f"{path} not found: make the dataset with `dis2 data prepare ... --out {dataset_dir}`"
            )
        try:
            return cls.from_json(path.read_text())
        except (OSError, UnicodeDecodeError) as e:
            raise Dis2Error(f"{path} cannot be read: {e}") from e
        except Dis2Error as e:
            raise Dis2Error(f"{path}: {e}") from e


def _modality(values: dict[str, Any]) -> Modality:
    fields = _tuples(values)
    for key in ("mean", "std"):
        fields[key] = tuple(float(v) for v in fields.get(key, ()))
    return Modality(**fields | {"source": SourceFormat(**_tuples(fields.get("source", {})))})


def _tuples(values: dict[str, Any]) -> dict[str, Any]:
    """JSON's lists, back to the tuples of the dataclasses."""
    return {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}


@dataclasses.dataclass(frozen=True)
class Scenario:
    """The set of modalities that are there, written ``rgb+ndsm``, always in the dataset's modality order."""

    available: tuple[str, ...]

    def __str__(self) -> str:
        return "+".join(self.available)

    @classmethod
    def parse(cls, text: str, modalities: Sequence[str]) -> Scenario:
        """Read ``'a+b'`` (any order, spaces allowed). Unknown, repeated or no names raise ``Dis2Error``."""
        names = [n.strip() for n in text.split("+") if n.strip()]
        return cls.of(names, modalities)

    @classmethod
    def of(cls, names: Iterable[str], modalities: Sequence[str]) -> Scenario:
        """Build from names in any order."""
        given = list(names)
        for n in given:
            if n not in modalities:
                raise Dis2Error(
                    f"no modality {n!r}{nearest(n, modalities)}; the dataset has {', '.join(modalities)}"
                )
        if not given or len(set(given)) != len(given):
            raise Dis2Error(f"a scenario names each available modality once, got {'+'.join(given)!r}")
        return cls(tuple(m for m in modalities if m in given))

    @classmethod
    def full(cls, modalities: Sequence[str]) -> Scenario:
        """Everything is there."""
        return cls(tuple(modalities))

    @classmethod
    def students(cls, spec: str | Sequence[str], modalities: Sequence[str]) -> tuple[Scenario, ...]:
        """Read a config's choice of student branches.

        ``'all'``: every non-empty proper subset; ``'single'``: each modality alone; ``'drop_one'``: each
        modality missing once; ``'default'``: both single ones for M = 2, otherwise single and drop-one
        together; else a list of ``'a+b'`` texts (or one comma-separated text). Never contains the full set;
        no scenario twice.
        """
        if isinstance(spec, str) and spec in ("all", "single", "drop_one", "default"):
            m = len(modalities)
            sizes = {"all": range(1, m), "single": (1,), "drop_one": (m - 1,), "default": (1, m - 1)}[spec]
            chosen = [
                cls(tuple(c)) for n in dict.fromkeys(sizes) for c in itertools.combinations(modalities, n)
            ]
        else:
            texts = spec.split(",") if isinstance(spec, str) else spec
            chosen = [cls.parse(t, modalities) for t in texts]
        for s in chosen:
            if len(s.available) == len(modalities):
                raise Dis2Error(f"scenario {s} is the full set: it needs no student branch")
        if not chosen:
            raise Dis2Error("no student scenario: name at least one, such as " + modalities[0])
        return tuple(dict.fromkeys(chosen))
