"""A TFDS feature: an array whose bytes are compressed with Zstandard, which TFDS itself does not offer.

``features.json`` of prepared datasets names this class by its module: moving it would orphan them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow_datasets as tfds
import zstandard

LEVEL = 3
"""Higher levels take several times as long to write and save a few percent; reading is as fast."""


class ZstdTensor(tfds.features.Tensor):
    """Like ``tfds.features.Tensor(encoding="zlib")``, and read in a fraction of the time.

    ``shape`` must be known in full. Decoded arrays are read-only.
    """

    def __init__(self, *, shape: tuple[int, ...], dtype: Any) -> None:
        super().__init__(shape=shape, dtype=dtype, encoding="bytes")

    def encode_example(self, example_data: Any) -> bytes:
        """Return the compressed bytes of an array ``[*shape]`` of the feature's dtype."""
        return zstandard.compress(super().encode_example(example_data), LEVEL)

    def decode_example_np(self, example_data: bytes) -> np.ndarray:
        """Return the array. Raises ``zstandard.ZstdError``, and ``ValueError`` for another size."""
        data = zstandard.decompress(example_data)
        return np.frombuffer(data, self.np_dtype).reshape(self.shape)

    @classmethod
    def from_json_content(cls, value: Any) -> ZstdTensor:
        """Read what ``to_json_content`` wrote."""
        return cls(shape=tuple(value["shape"]), dtype=np.dtype(value["dtype"]))

    def to_json_content(self) -> Any:
        """Describe the feature for ``features.json``."""
        return {"shape": list(self.shape), "dtype": np.dtype(self.np_dtype).name}
