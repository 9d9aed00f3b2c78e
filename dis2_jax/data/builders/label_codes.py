"""Source label codes (integers or RGB colours) to class numbers, and a count of those that no class has."""

from __future__ import annotations

import dataclasses

import numpy as np

from dis2_jax.data.builders.folder_card import Code, FolderLabel
from dis2_jax.data.rasters import RasterReader, Window
from dis2_jax.schema import IGNORE, Dis2Error

_LISTED = 12
_NO_CODE = int(np.iinfo(np.int64).min)
"""Stands for NaN where that is a label file's nodata."""


@dataclasses.dataclass(frozen=True)
class LabelCoder:
    """Maps codes to 0..K-1 or ``IGNORE``. ``codes`` are sorted, colours packed as r * 65536 + g * 256 + b."""

    codes: np.ndarray
    classes: np.ndarray
    colored: bool

    @classmethod
    def of(cls, label: FolderLabel) -> LabelCoder:
        """Build from a card's label block."""
        pairs = [(_pack(c), i) for i, own in enumerate(label.codes) for c in own]
        pairs += [(_pack(c), IGNORE) for c in label.ignore]
        pairs.sort()
        return cls(
            codes=np.array([c for c, _ in pairs], np.int64),
            classes=np.array([k for _, k in pairs], np.uint8),
            colored=label.colored,
        )

    def read(self, reader: RasterReader, window: Window | None = None) -> np.ndarray:
        """Read packed codes int64 ``[h, w]`` of a label file. ``Dis2Error`` when it has the wrong form."""
        return self.pack(reader.read(window), reader)

    def pack(self, x: np.ndarray, reader: RasterReader) -> np.ndarray:
        """Turn what was read, ``[h, w, C]``, into packed codes int64 ``[h, w]``; errors as ``read``."""
        if self.colored:
            if reader.info.palette and x.dtype == np.uint8:
                x = reader.colors()[x[..., 0]]
            if x.shape[-1] not in (3, 4) or x.dtype != np.uint8:
                raise Dis2Error(
                    f"{reader.path} is {x.dtype} with {x.shape[-1]} bands, but the card's codes are colours: "
                    "give integer codes or an RGB label"
                )
            c = x.astype(np.int64)
            return c[..., 0] * 65536 + c[..., 1] * 256 + c[..., 2]
        if x.shape[-1] != 1:
            raise Dis2Error(
                f"{reader.path} has {x.shape[-1]} bands, but the card's codes are integers: "
                "give colours as code = [r, g, b] or a label of one band"
            )
        codes = x[..., 0]
        if codes.dtype.kind != "f":
            return codes.astype(np.int64)
        nodata = reader.info.nodata
        absent = np.isnan(codes) if nodata is not None and np.isnan(nodata) else np.zeros(codes.shape, bool)
        if not (absent | (np.isfinite(codes) & (codes == np.rint(codes)))).all():
            raise Dis2Error(f"{reader.path} holds numbers that are not integers: labels must be codes")
        return np.where(absent, _NO_CODE, np.where(absent, 0, codes).astype(np.int64))

    def read_classes(self, reader: RasterReader, window: Window) -> np.ndarray:
        """Read a window of a label file as uint8 class numbers ``[h, w]``."""
        return self.encode(self.read(reader, window))

    def encode(self, packed: np.ndarray) -> np.ndarray:
        """Return uint8 class numbers of packed codes; codes that nobody named become ``IGNORE``."""
        at = np.minimum(np.searchsorted(self.codes, packed), len(self.codes) - 1)
        return np.where(self.codes[at] == packed, self.classes[at], IGNORE).astype(np.uint8)

    def ignored(self, packed: np.ndarray) -> np.ndarray:
        """Return bool, True at the codes that the card lists to be ignored."""
        return np.isin(packed, self.codes[self.classes == IGNORE])

    def unknown(self, packed: np.ndarray, *, nodata: float | None = None) -> dict[int, int]:
        """Count the codes outside the legend, save the file's own ``nodata``: packed code -> pixels."""
        values, counts = np.unique(packed, return_counts=True)
        return {
            int(v): int(n)
            for v, n in zip(values, counts, strict=True)
            if v not in self.codes and v != _NO_CODE and (v != nodata or self.colored)
        }

    def listing(self, counts: dict[int, int]) -> str:
        """Write counted codes for a message, most frequent first."""
        ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
        texts = [f"{self._text(code)} ({n} pixels)" for code, n in ordered[:_LISTED]]
        more = f" and {len(ordered) - _LISTED} more" if len(ordered) > _LISTED else ""
        return ", ".join(texts) + more

    def _text(self, code: int) -> str:
        return str([code >> 16, code >> 8 & 255, code & 255]) if self.colored else str(code)


def _pack(code: Code) -> int:
    return code if isinstance(code, int) else code[0] * 65536 + code[1] * 256 + code[2]
