"""Make every output of a scene from its finished strips, and put them in place together."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import dis2_jax
from dis2_jax.inference import beside, outputs, products
from dis2_jax.inference.journal import Journal
from dis2_jax.inference.quicklook import draw_quicklook
from dis2_jax.inference.strips import StripPredictor
from dis2_jax.inference.vector import Simplify, write_polygons

if TYPE_CHECKING:
    from dis2_jax.inference.scene import SceneResult


def assemble(
    predictor: StripPredictor,
    done: Journal,
    paths: Mapping[str, Path],
    result: SceneResult,
    *,
    simplify: Simplify | None,
) -> list[str]:
    """Write all of ``paths`` inside the journal's folder first, then replace the old files, the map last.

    Returns notes on what the map before left and is gone. Raises ``OSError`` when the disk refuses; nothing is
    replaced then.
    """
    model, scene = predictor.model, predictor.scene
    made = {name: done.folder / f"{name}{path.suffix}" for name, path in paths.items()}
    for name in products.RASTERS:
        if name in paths:
            product = products.product(name, model.card.legend, model.scenarios)
            strips = strip_places(predictor, done, name)
            outputs.write_cog(product, strips, scene.grid, _tags(predictor), made[name])
    if "quicklook" in paths:
        draw_quicklook(model.card, model.scenarios, scene, made, result)
    if "vector" in paths:
        write_polygons(made["map"], model.card.legend, made["vector"], simplify=simplify)
    beside.record(made, paths)
    notes = beside.remove_stale(paths)
    outputs.put_in_place({made[name]: path for name, path in reversed(list(paths.items()))})
    return notes


def strip_places(
    predictor: StripPredictor, done: Journal, name: str
) -> dict[Path, tuple[int, int, int, int]]:
    """A product's strip files with their place in the scene: row, column, height, width."""
    return {
        done.file(name, (i, s)): (top, panel.left, bottom - top, panel.right - panel.left)
        for i, panel in enumerate(predictor.grid.panels)
        for s, (top, bottom) in enumerate(predictor.grid.rows.strips)
    }


def _tags(predictor: StripPredictor) -> dict[str, str]:
    model, (height, width) = predictor.model, predictor.engine.window
    return {
        "DIS2_MODEL": f"{model.card.name}, step {model.step}, {model.fingerprint}",
        "DIS2_MODALITIES": "+".join(predictor.scene.names),
        "DIS2_WINDOW": f"{height} x {width}, overlap {predictor.grid.rows.overlap}",
        "TIFFTAG_SOFTWARE": f"dis2_jax {dis2_jax.__version__}",
    }
