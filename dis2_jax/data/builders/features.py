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


def serialize(features: Any, example: dict[str, Any]) -> bytes:
    """Return an example as the bytes of a TFDS record, the same in every run.

    TFDS leaves the order of the features to protobuf, which changes it from process to process.
    """
    from tensorflow_datasets.proto import tf_example_pb2

    message = tf_example_pb2.Example.FromString(features.serialize_example(example))
    return bytes(message.SerializeToString(deterministic=True))
