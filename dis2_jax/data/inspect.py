"""Look at a prepared dataset: read every record, count, tabulate, draw a contact sheet."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from dis2_jax.data.builders.statistics import class_counts
from dis2_jax.data.checksums import verify_checksums
from dis2_jax.data.opening import open_tiles
from dis2_jax.data.true_color import shown_bands
from dis2_jax.schema import IGNORE, ClassLegend, DatasetCard, Dis2Error, Modality

SHEET_FILE = "contact_sheet.png"
_IGNORED_COLOR = (40, 40, 40)


@dataclasses.dataclass(frozen=True)
class SplitReport:
    """Tiles, pixels per class and ignored (``[K + 1]``), tiles that have each modality (``[M]``)."""

    tiles: int
    class_pixels: tuple[int, ...]
    available: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Inspection:
    """The result of reading a whole dataset."""

    folder: Path
    card: DatasetCard
    splits: dict[str, SplitReport]


def inspect_dataset(folder: str | Path, *, progress: bool = False) -> Inspection:
    """Compare every shard with its checksum, then read and check every record of every split.

    Raises ``Dis2Error`` for a missing, cut or corrupt shard (named), and contents that differ from the card.
    """
    folder = Path(folder)
    card = DatasetCard.load(folder)
    verify_checksums(folder)
    splits = {split: _inspect_split(folder, card, split, progress=progress) for split in card.splits}
    return Inspection(folder, card, splits)


def _inspect_split(folder: Path, card: DatasetCard, split: str, *, progress: bool) -> SplitReport:
    from tqdm import tqdm

    source = open_tiles(folder, split, card)
    counts = np.zeros(len(card.legend) + 1, np.int64)
    available = np.zeros(len(card.modalities), np.int64)
    for i in tqdm(
        range(len(source)), desc=f"{split:>10}", unit="tile", disable=not progress, mininterval=0.5
    ):
        tile = source[i]
        counts += class_counts(tile["label"], len(card.legend))
        available += tile["available"]
    found = tuple(int(n) for n in counts)
    if split in card.class_pixels and card.class_pixels[split] != found:
        raise Dis2Error(
            f"{folder}: the labels of split {split!r} are not those its card counted: "
            "prepare the dataset again"
        )
    return SplitReport(len(source), found, tuple(int(n) for n in available))


def describe(inspection: Inspection) -> str:
    """Write the inspection as plain text tables."""
    card = inspection.card
    size = f"{card.tile[0]} x {card.tile[1]}"
    gsd = f", {card.ground_sampling_distance:g} m per pixel" if card.ground_sampling_distance else ""
    lines = [f"{card.name}: tiles of {size} pixels{gsd}, {len(card.legend)} classes"]
    lines += [text for text in (card.description, card.source, card.licence) if text]
    return "\n".join(
        [*lines, "", _split_table(inspection), "", _class_table(inspection), "", _modality_table(card)]
    )


def _split_table(inspection: Inspection) -> str:
    names = inspection.card.modality_names
    rows = [["split", "tiles", *(f"with {n}" for n in names)]]
    rows += [[s, str(r.tiles), *map(str, r.available)] for s, r in inspection.splits.items()]
    return _table(rows)


def _class_table(inspection: Inspection) -> str:
    """Class shares of the labelled pixels, and the ignored share of all."""

    def share(n: int, total: int) -> str:
        return f"{100 * n / total:.2f} %" if total else "-"

    reports = inspection.splits.values()
    rows = [["class", *inspection.splits]]
    for k, name in enumerate(inspection.card.legend.names):
        rows.append([name, *(share(r.class_pixels[k], sum(r.class_pixels[:-1])) for r in reports)])
    rows.append(["(ignored)", *(share(r.class_pixels[-1], sum(r.class_pixels)) for r in reports)])
    return _table(rows)


def _modality_table(card: DatasetCard) -> str:
    rows = [["modality", "kind", "unit", "band", "mean", "std"]]
    for m in card.modalities:
        for c in range(m.channels):
            head = [m.name, m.kind, m.unit] if c == 0 else ["", "", ""]
            band = m.bands[c] if m.bands else str(c + 1)
            numbers = [f"{v[c]:.4g}" if v else "-" for v in (m.mean, m.std)]
            rows.append([*head, band, *numbers])
    return _table(rows, left=4)


def _table(rows: list[list[str]], *, left: int = 1) -> str:
    widths = [max(len(r[i]) for r in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            c.ljust(w) if i < left else c.rjust(w) for i, (c, w) in enumerate(zip(r, widths, strict=True))
        ).rstrip()
        for r in rows
    )


def draw_contact_sheet(
    folder: str | Path, card: DatasetCard, path: str | Path, *, split: str = "train", rows: int = 8
) -> Path:
    """Draw evenly spaced tiles of a split: rows tiles, columns modalities and label. Returns the PNG's path.

    Red, green and blue by their names, or bands 1 to 3, make the colours; values are stretched from the 2nd to the
    98th percentile over the sheet. Absent modalities are left blank.
    """
    from matplotlib.figure import Figure

    source = open_tiles(folder, split, card)
    chosen = np.unique(np.linspace(0, len(source) - 1, min(rows, len(source))).astype(int))
    tiles = [source[int(i)] for i in chosen]
    columns = len(card.modalities) + 1
    figure = Figure(figsize=(1.9 * columns + 1.6, 1.95 * len(tiles) + 0.3), layout="constrained")
    axes = figure.subplots(len(tiles), columns, squeeze=False)
    for j, m in enumerate(card.modalities):
        there = [bool(t["available"][j]) for t in tiles]
        pictures = stretch(
            [t["image"][m.name] for t, is_there in zip(tiles, there, strict=True) if is_there], m
        )
        left = iter(pictures)
        for axis, is_there in zip(axes[:, j], there, strict=True):
            _show(axis, next(left) if is_there else None, "absent")
        axes[0, j].set_title(m.name, fontsize=9)
    for axis, first, tile in zip(axes[:, -1], axes[:, 0], tiles, strict=True):
        _show(axis, paint_label(tile["label"], card.legend), "")
        first.set_ylabel(tile["tile_id"][-24:], fontsize=6)
    axes[0, -1].set_title("label", fontsize=9)
    _add_legend(figure, card.legend)
    path = Path(path)
    try:
        figure.savefig(path, dpi=110)
    except OSError as e:
        raise Dis2Error(f"cannot write {path} ({e.strerror or e}): name another place with --sheet") from e
    except ValueError as e:  # a suffix that Matplotlib does not know
        raise Dis2Error(f"cannot write {path} ({e}): name a .png with --sheet") from e
    return path


def stretch(images: list[np.ndarray], modality: Modality) -> list[np.ndarray]:
    """Turn rasters ``[H, W, C]`` into uint8 pictures ``[H, W, 3]``, stretched alike from 2 to 98 %.

    Eight-bit images keep their hue (one stretch for all bands); other bands have their own scales.
    """
    if not images:
        return []
    bands = list(shown_bands(modality))
    stacked = np.stack([x[..., bands] for x in images]).astype(np.float32)
    over = (0, 1, 2, 3) if images[0].dtype == np.uint8 else (0, 1, 2)
    low, high = np.percentile(stacked, (2, 98), axis=over)
    scaled = np.clip((stacked - low) / np.maximum(high - low, 1e-6), 0, 1)
    pictures = (255 * scaled).astype(np.uint8)
    return [np.broadcast_to(p, (*p.shape[:2], 3)) for p in pictures]


def paint_label(label: np.ndarray, legend: ClassLegend) -> np.ndarray:
    """Turn a label ``[H, W]`` (0..K-1 or ``IGNORE``) into the legend's colours, uint8 ``[H, W, 3]``."""
    table = np.zeros((IGNORE + 1, 3), np.uint8)
    table[: len(legend)] = legend.colors
    table[IGNORE] = _IGNORED_COLOR
    return table[label]


def _show(axis: Any, picture: np.ndarray | None, note: str) -> None:
    axis.set_xticks([])
    axis.set_yticks([])
    if picture is None:
        axis.text(0.5, 0.5, note, ha="center", va="center", transform=axis.transAxes, fontsize=8)
    else:
        axis.imshow(picture, interpolation="nearest")


def _add_legend(figure: Any, legend: ClassLegend) -> None:
    from matplotlib.patches import Patch

    entries = [*zip(legend.names, legend.colors, strict=True), ("(ignored)", _IGNORED_COLOR)]
    patches = [
        Patch(
            facecolor=(color[0] / 255, color[1] / 255, color[2] / 255),
            edgecolor="black",
            linewidth=0.5,
            label=name,
        )
        for name, color in entries
    ]
    figure.legend(handles=patches, loc="outside right upper", fontsize=7, frameon=False)
