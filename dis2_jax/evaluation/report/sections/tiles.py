"""Best, typical and worst tiles in pictures."""

from __future__ import annotations

import dataclasses

from dis2_jax.evaluation.pictures.palette import readable
from dis2_jax.evaluation.report.blocks import Block, LegendBlock, MissingBlock, NoteBlock, Section, TileBlock
from dis2_jax.evaluation.report.drawing.render import render
from dis2_jax.evaluation.report.drawing.sheet import draw_sheet
from dis2_jax.evaluation.report.drawing.thumbnails import picture_rows
from dis2_jax.evaluation.report.inputs import Inputs
from dis2_jax.evaluation.report.pick import RULE, Picked, pick_tiles
from dis2_jax.evaluation.report.sections.text import ratio
from dis2_jax.evaluation.report.tile_views import TileView, view_tiles
from dis2_jax.schema import Dis2Error

_ATTENTION = (
    "Class attention is where the query of a class looks in the coarsest map (stride 16): yellow most, each picture"
    " scaled to its own maximum."
)

_RECOLORED = "Colours of the dataset that colour-blind readers would confuse are replaced by others here."


def tiles(inputs: Inputs, *, count: int) -> Section:
    """Up to ``count`` tiles of each group; 0 leaves them out."""
    return Section("tiles", "Tiles", tuple(_blocks(inputs, count)), f"{RULE} {_ATTENTION}" if count else "")


def _blocks(inputs: Inputs, count: int) -> list[Block]:
    if not count:
        return [MissingBlock("Left out.", f"{inputs.command('report')} --tiles 2")]
    if inputs.tiles.value is None:
        return [MissingBlock(inputs.tiles.why, inputs.command("evaluate"))]
    picked = pick_tiles(inputs.tiles.value, [s.name for s in inputs.evaluation.real], count=count)
    if not picked:
        return [NoteBlock("No tile has a score.")]
    try:
        views = view_tiles(inputs.workdir, picked, split=inputs.split, checkpoint=inputs.checkpoint)
    except Dis2Error as e:
        return [MissingBlock(f"The tiles cannot be shown: {e}.")]
    legend = readable(inputs.card.legend)
    colors = tuple("#{:02x}{:02x}{:02x}".format(*c) for c in legend.colors)
    blocks: list[Block] = [LegendBlock(tuple(zip(legend.names, colors, strict=True)))]
    if legend.colors != inputs.card.legend.colors:
        blocks.append(NoteBlock(_RECOLORED))
    number: dict[str, int] = {}
    for view in views:
        group = view.picked.group
        number[group] = number.get(group, 0) + 1
        blocks.append(_tile(view, name=f"tile-{group}-{number[group]}"))
    return blocks


def _tile(view: TileView, *, name: str) -> TileBlock:
    rows = picture_rows(view)
    p = view.picked
    each = ", ".join(f"{s} {ratio(m)}" for s, m in p.miou.items())
    return TileBlock(
        name=name,
        title=f"{_group(p)}: {p.tile_id} (record {p.record}), score {ratio(p.score)}",
        alt=f"Inputs, reference, maps, errors and class attention of tile {p.tile_id}; mIoU {each}.",
        rows=rows,
        sheet=dataclasses.replace(render(draw_sheet(rows, view.card.legend), name=name), inline=""),
    )


def _group(picked: Picked) -> str:
    return picked.group.capitalize()
