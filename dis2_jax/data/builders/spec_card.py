"""The card of a dataset out of what its builder says and what was measured."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from dis2_jax.data.builders.statistics import ChannelMoments
from dis2_jax.data.builders.tiles import DatasetSpec
from dis2_jax.schema import DatasetCard


def spec_card(
    spec: DatasetSpec, moments: Mapping[str, ChannelMoments], splits: Mapping[str, int]
) -> DatasetCard:
    """Return the card; ``moments`` by modality, of the training split, ``splits``: tiles of each."""
    modalities = tuple(
        dataclasses.replace(
            m, mean=tuple(moments[m.name].mean.tolist()), std=tuple(moments[m.name].std.tolist())
        )
        for m in spec.modalities
    )
    return DatasetCard(
        name=spec.name,
        modalities=modalities,
        legend=spec.legend,
        tile=spec.tile,
        splits=dict(splits),
        description=spec.description,
        source=spec.source,
        licence=spec.licence,
        ground_sampling_distance=spec.ground_sampling_distance,
    )
