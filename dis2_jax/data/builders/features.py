"""The TFDS features of a prepared dataset (the only place that spells the record layout)."""

from __future__ import annotations

from typing import Any

import numpy as np

from dis2_jax.data.builders.tiles import DatasetSpec


def record_features(spec: DatasetSpec) -> Any:
    """Return the ``tfds.features.FeaturesDict`` of one record.

    ``image/{modality}`` ``[H, W, C]`` in the stored dtype, ``label`` uint8 ``[H, W]``, ``available`` bool
    ``[M]`` in the card's order, ``tile_id`` text. Rasters are zlib-compressed: TFDS's PNG codec would need
    TensorFlow.
    """
    import tensorflow_datasets as tfds

    def raster(shape: tuple[int, ...], dtype: str) -> Any:
        return tfds.features.Tensor(shape=shape, dtype=np.dtype(dtype), encoding="zlib")

    image = {
        m.name: raster((*spec.tile, m.channels), dtype)
        for m, dtype in zip(spec.modalities, spec.dtypes, strict=True)
    }
    return tfds.features.FeaturesDict(
        {
            "image": tfds.features.FeaturesDict(image),
            "label": raster(spec.tile, "uint8"),
            "available": tfds.features.Tensor(shape=(len(spec.modalities),), dtype=np.bool_),
            "tile_id": tfds.features.Text(),
        }
    )
