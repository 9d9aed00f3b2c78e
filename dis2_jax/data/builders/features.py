"""The TFDS features of a prepared dataset (the only place that spells the record layout)."""

from __future__ import annotations

from typing import Any, Literal, get_args

import numpy as np

from dis2_jax.data.builders.tiles import DatasetSpec

Encoding = Literal["raw", "zlib", "zstd"]
"""How the rasters of a record are stored. ``dis2 bench encodings`` compares them on a dataset's own tiles."""

ENCODINGS: tuple[Encoding, ...] = get_args(Encoding)
DEFAULT_ENCODING: Encoding = "zstd"


def record_features(spec: DatasetSpec, encoding: Encoding = DEFAULT_ENCODING) -> Any:
    """Return the ``tfds.features.FeaturesDict`` of one record.

    ``image/{modality}`` ``[H, W, C]`` in the stored dtype, ``label`` uint8 ``[H, W]``, ``available`` bool
    ``[M]`` in the card's order, ``tile_id`` text. Rasters are stored in ``encoding``, which ``features.json`` tells
    to whoever reads them.
    """
    import tensorflow_datasets as tfds

    def raster(shape: tuple[int, ...], dtype: str) -> Any:
        return raster_feature(shape, dtype, encoding)

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


def raster_feature(shape: tuple[int, ...], dtype: str, encoding: Encoding) -> Any:
    """Return the TFDS feature of one raster."""
    import tensorflow_datasets as tfds

    from dis2_jax.data.zstd_tensor import ZstdTensor

    if encoding == "zstd":
        return ZstdTensor(shape=shape, dtype=np.dtype(dtype))
    named = {"raw": "bytes", "zlib": "zlib"}[encoding]
    return tfds.features.Tensor(shape=shape, dtype=np.dtype(dtype), encoding=named)


def serialize(features: Any, example: dict[str, Any]) -> bytes:
    """Return an example as the bytes of a TFDS record, the same in every run.

    TFDS leaves the order of the features to protobuf, which changes it from process to process.
    """
    from tensorflow_datasets.proto import tf_example_pb2

    message = tf_example_pb2.Example.FromString(features.serialize_example(example))
    return bytes(message.SerializeToString(deterministic=True))
