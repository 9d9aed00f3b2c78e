"""What the pipeline hands to training and evaluation."""

from __future__ import annotations

from typing import NotRequired, TypedDict

import numpy as np


class Drawn(TypedDict):
    """What was drawn for each row, for the accelerator to carry out; ``[h, w]`` is the size of the samples.

    ``row``, ``col`` (float32 ``[B, h]``), ``row_along``, ``col_along`` (``[B, w]``): see ``resample.Positions``.
    ``tones``: optical modality -> float32 ``[B, 4, C]``: gain, offset, lowest and highest value.
    """

    row: np.ndarray
    row_along: np.ndarray
    col: np.ndarray
    col_along: np.ndarray
    tones: dict[str, np.ndarray]


class Batch(TypedDict):
    """B tiles as numpy arrays; M modalities in the card's order, C channels of each.

    ``image``: modality name -> float32 ``[B, H, W, C]``, normalised; all 0 where the modality is absent.
    ``label``: int32 ``[B, H, W]``, 0..K-1 or 255 (ignored).
    ``available``: bool ``[B, M]``, whether the tile really has the modality.
    ``valid``: bool ``[B]``; False: a padding row of the last evaluation batch (image 0, label 255, nothing
    available, index -1).
    ``index``: int32 ``[B]``, record number in the split; in training on scenes the number of the draw.

    A tile that has none of the modalities in use is all ignored (label 255).

    Training batches with ``data.augment = 'device'`` hold whole tiles as they are stored instead, ``image`` in the
    stored dtypes and ``label`` uint8, and ``drawn``.
    """

    image: dict[str, np.ndarray]
    label: np.ndarray
    available: np.ndarray
    valid: np.ndarray
    index: np.ndarray
    drawn: NotRequired[Drawn]


class Rows(Batch):
    """A batch on its way through the pipeline.

    ``skipped``: bytes ``[B]``, what was wrong with the tile that should have stood there; empty: nothing.

    ``tables`` of packed batches: modality -> float32 ``[B, 256, C]``, what the network sees of each of the 256 values.
    ``image`` then holds such modalities as uint8, and ``label`` is uint8. See ``PackedTrainBatch``.
    """

    skipped: np.ndarray
    tables: NotRequired[dict[str, np.ndarray]]
