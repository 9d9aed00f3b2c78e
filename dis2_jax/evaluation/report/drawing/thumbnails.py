"""The small pictures of one tile: inputs, reference, maps, errors, class attention."""

from __future__ import annotations

import io

import matplotlib
import numpy as np
from PIL import Image

from dis2_jax.data.true_color import shown_bands
from dis2_jax.evaluation.pictures.render import render_classes, render_errors, render_modality
from dis2_jax.evaluation.report.blocks import Picture, PictureRow
from dis2_jax.evaluation.report.drawing.style import SCALE
from dis2_jax.evaluation.report.tile_views import TileView
from dis2_jax.schema import IGNORE

_MOST_PIXELS = 256
"""Longer side of a picture; larger tiles are shown smaller."""
_MOST_BYTES = 40_000
"""Above it a photograph is stored as JPEG."""
_MOST_CLASSES = 8
"""Classes whose attention is shown: the largest in the reference."""


def picture_rows(view: TileView) -> tuple[PictureRow, ...]:
    """Rows of pictures, from what went in to where the class queries looked."""
    legend = view.card.legend
    inputs = [_input(view, m.name) for m in view.card.modalities]
    reference = _picture("reference", render_classes(view.reference, legend), _shares(view, view.reference))
    maps, errors = [], []
    for i, (name, prediction) in enumerate(view.predictions.items()):
        whole = i == 0 and len(name.split("+")) == len(view.card.modalities)
        title = f"full: {name}" if whole else f"from {name}"
        counted = view.reference != IGNORE
        wrong = float((prediction != view.reference)[counted].mean()) if counted.any() else 0.0
        drawn = render_classes(prediction, legend)
        maps.append(_picture(title, drawn, f"Map, {title}. {_shares(view, prediction)}"))
        told = f"{wrong:.1%} wrong"
        drawn = render_errors(prediction, view.reference)
        errors.append(_picture(title, drawn, f"Errors, {title}. {told}", note=told))
    rows = [
        PictureRow("Inputs and reference", (*inputs, reference)),
        PictureRow("Maps", tuple(maps)),
        PictureRow("Errors (red), ignored pixels hatched", tuple(errors)),
    ]
    return (*rows, *_attention(view))


def _input(view: TileView, name: str) -> Picture:
    modality = view.card.modality(name)
    x = view.images.get(name)
    if x is None:
        blank = np.full((*view.reference.shape, 3), 128, np.uint8)
        return _picture(name, blank, f"{name} is absent in this tile", note="absent")
    bands = shown_bands(modality)
    note = ""
    if len(bands) == 1:
        low, high = (float(f(x[..., bands[0]])) for f in (np.min, np.max))
        note = f"{low:.3g} to {high:.3g} {modality.unit}".strip()
    elif len(modality.bands) == modality.channels:
        note = ", ".join(modality.bands[b] for b in bands)
    return _picture(name, render_modality(x, modality), f"Input {name}, {note}", note=note)


def _attention(view: TileView) -> tuple[PictureRow, ...]:
    """One row per scenario, one picture per class of the reference, each scaled to its own maximum."""
    legend = view.card.legend
    counts = np.bincount(view.reference[view.reference != IGNORE], minlength=len(legend))
    largest = sorted((k for k in range(len(legend)) if counts[k]), key=lambda k: -counts[k])[:_MOST_CLASSES]
    rows = []
    for name, attention in view.attention.items():
        pictures = []
        for k in sorted(largest):
            share = attention[k] / max(float(attention[k].max()), 1e-12)
            drawn = (matplotlib.colormaps[SCALE](share)[..., :3] * 255).round().astype(np.uint8)
            row, column = np.unravel_index(int(attention[k].argmax()), attention[k].shape)
            there = 100 * np.array([row + 0.5, column + 0.5]) / attention[k].shape
            alt = (
                f"Attention of class {legend.names[k]} in {name}: most at {there[1]:.0f} % from the left,"
                f" {there[0]:.0f} % from the top"
            )
            pictures.append(_picture(legend.names[k], drawn, alt))
        if pictures:
            rows.append(PictureRow(f"Class attention: {name}", tuple(pictures), small=True))
    return tuple(rows)


def _shares(view: TileView, labels: np.ndarray) -> str:
    """Say in words which classes a map holds."""
    counted = labels[(labels >= 0) & (labels < len(view.card.legend))]
    if not counted.size:
        return "No class"
    counts = np.bincount(counted, minlength=len(view.card.legend)) / counted.size
    order = [k for k in np.argsort(-counts) if counts[k] > 0]
    return ", ".join(f"{view.card.legend.names[k]} {counts[k]:.0%}" for k in order)


def _picture(title: str, pixels: np.ndarray, alt: str, *, note: str = "") -> Picture:
    image = Image.fromarray(pixels)
    scale = _MOST_PIXELS / max(image.size)
    if scale < 1:
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        image = image.resize(size, Image.Resampling.NEAREST)
    data, mime = _encode(image, "PNG"), "image/png"
    if len(data) > _MOST_BYTES:
        data, mime = _encode(image, "JPEG"), "image/jpeg"
    return Picture(title, alt, data, (image.height, image.width), note, mime)


def _encode(image: Image.Image, kind: str) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **({"quality": 88} if kind == "JPEG" else {"optimize": True}))
    return out.getvalue()
