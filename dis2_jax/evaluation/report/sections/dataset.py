"""What the model was trained on, from the card in the workdir."""

from __future__ import annotations

from dis2_jax.evaluation.report.blocks import Block, FactsBlock, Section, TableBlock
from dis2_jax.evaluation.report.inputs import Inputs
from dis2_jax.evaluation.report.sections.text import NONE
from dis2_jax.schema import DatasetCard


def dataset(inputs: Inputs) -> Section:
    """Facts, splits with class shares, modalities."""
    card = inputs.card
    facts = [("Name", card.name), ("Tile", f"{card.tile[0]} x {card.tile[1]} px")]
    if card.ground_sampling_distance:
        facts.append(("Ground sampling distance", f"{card.ground_sampling_distance:g} m"))
    told = (("Description", card.description), ("Source", card.source), ("Licence", card.licence))
    facts += [(name, text) for name, text in told if text]
    facts.append(("Folder", inputs.config.data.dir or NONE))
    blocks: list[Block] = [FactsBlock(tuple(facts))]
    if card.splits:
        blocks.append(_splits(card))
    blocks.append(_modalities(card))
    return Section("dataset", "Dataset", tuple(blocks))


def _splits(card: DatasetCard) -> TableBlock:
    rows = []
    for split, tiles in card.splits.items():
        pixels = card.class_pixels.get(split)
        shares = [NONE] * (len(card.legend) + 1)
        if pixels:
            labelled, everything = sum(pixels[:-1]) or 1, sum(pixels) or 1
            shares = [f"{n / labelled:.1%}" for n in pixels[:-1]] + [f"{pixels[-1] / everything:.1%}"]
        rows.append((split, f"{tiles:,}", *shares))
    return TableBlock(
        caption="Tiles, and classes as shares of labelled pixels",
        head=("split", "tiles", *card.legend.names, "ignored"),
        rows=tuple(rows),
    )


def _modalities(card: DatasetCard) -> TableBlock:
    rows = []
    for m in card.modalities:
        for c in range(m.channels):
            band = m.bands[c] if len(m.bands) == m.channels else str(c + 1)
            numbers = [f"{v[c]:.4g}" if len(v) == m.channels else NONE for v in (m.mean, m.std)]
            rows.append((m.name, band, m.kind, m.unit or NONE, *numbers))
    head = ("modality", "band", "kind", "unit", "mean", "std")
    return TableBlock(
        caption="Modalities, statistics of the training split", head=head, rows=tuple(rows), text=(1, 2, 3)
    )
