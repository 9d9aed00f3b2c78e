"""How large a dataset's own tiles are in each encoding, and how long they take to decode."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np

from dis2_jax.data.builders.features import ENCODINGS, raster_feature
from dis2_jax.data.opening import open_tiles
from dis2_jax.schema import DatasetCard, Dis2Error

_ROUNDS = 3
Encode = Callable[[np.ndarray], bytes]
Decode = Callable[[bytes], np.ndarray]


@dataclasses.dataclass(frozen=True)
class RasterFigures:
    """Means over the tiles of one raster in one encoding; times are CPU milliseconds of one thread."""

    raster: str
    encoding: str
    raw_bytes: float
    stored_bytes: float
    encode_ms: float
    decode_ms: float


@dataclasses.dataclass(frozen=True)
class EncodingBench:
    """What was measured. PNG is there for rasters that it can hold: 8 or 16 bits, 1, 3 or 4 channels."""

    dataset: str
    tiles: int
    figures: tuple[RasterFigures, ...]

    def lines(self) -> list[str]:
        """Return a table: rasters by encoding, then whole records."""
        titles = ("KiB/tile", 9), ("of raw", 7), ("encode ms", 10), ("decode ms", 10), ("MB/s", 6)
        head = " ".join([f"{'raster':14} {'encoding':8}", *(f"{text:>{n}}" for text, n in titles)])
        rows = [_row(f) for f in self.figures]
        whole = [_row(self._total(e)) for e in ENCODINGS]
        return [f"{self.dataset}: {self.tiles} tiles; CPU time of one thread", head, *rows, *whole]

    def _total(self, encoding: str) -> RasterFigures:
        own = [f for f in self.figures if f.encoding == encoding]
        sums = [
            sum(getattr(f, k) for f in own) for k in ("raw_bytes", "stored_bytes", "encode_ms", "decode_ms")
        ]
        return RasterFigures("(record)", encoding, *sums)


def bench_encodings(dataset_dir: str | Path, *, split: str = "train", tiles: int = 32) -> EncodingBench:
    """Encode and decode evenly spaced tiles of a dataset of any kind; absent modalities are left out.

    Raises ``Dis2Error`` for a dataset that cannot be read.
    """
    if tiles < 1:
        raise Dis2Error(f"--tiles {tiles}: it must be at least 1")
    card = DatasetCard.load(dataset_dir)
    source = open_tiles(dataset_dir, split, card)
    picked = sorted(set(np.linspace(0, len(source) - 1, tiles).astype(int).tolist()))
    rasters: dict[str, list[np.ndarray]] = {name: [] for name in (*card.modality_names, "label")}
    for tile in (source[i] for i in picked):
        for name, there in zip(card.modality_names, tile["available"], strict=True):
            if there:
                rasters[name].append(tile["image"][name])
        rasters["label"].append(tile["label"])
    figures = [_measure(name, own) for name, own in rasters.items() if own]
    return EncodingBench(str(dataset_dir), len(picked), tuple(f for own in figures for f in own))


def _measure(name: str, arrays: Sequence[np.ndarray]) -> list[RasterFigures]:
    found = []
    for encoding, (encode, decode) in _codecs(arrays[0]).items():
        started = time.thread_time()
        stored = [encode(x) for x in arrays]
        encode_ms = 1000 * (time.thread_time() - started) / len(arrays)
        for x, data in zip(arrays, stored, strict=True):
            if not np.array_equal(decode(data).reshape(x.shape), x):
                raise Dis2Error(f"{name} does not come back from {encoding} as it was")
        found.append(
            RasterFigures(
                name,
                encoding,
                raw_bytes=arrays[0].nbytes,
                stored_bytes=sum(map(len, stored)) / len(stored),
                encode_ms=encode_ms,
                decode_ms=min(_decode_ms(decode, stored) for _ in range(_ROUNDS)),
            )
        )
    return found


def _decode_ms(decode: Decode, stored: Sequence[bytes]) -> float:
    started = time.thread_time()
    for data in stored:
        decode(data)
    return 1000 * (time.thread_time() - started) / len(stored)


def _codecs(x: np.ndarray) -> Mapping[str, tuple[Encode, Decode]]:
    codecs: dict[str, tuple[Encode, Decode]] = {}
    for encoding in ENCODINGS:
        feature = raster_feature(x.shape, x.dtype.name, encoding)
        codecs[encoding] = (feature.encode_example, feature.decode_example_np)
    if x.dtype in (np.uint8, np.uint16) and (x.ndim == 2 or x.shape[-1] in (1, 3, 4)):
        codecs["png"] = (_to_png, _from_png)
    return codecs


def _to_png(x: np.ndarray) -> bytes:
    done, data = cv2.imencode(".png", x)
    if not done:
        raise Dis2Error(f"OpenCV cannot write {x.dtype} {list(x.shape)} as PNG")
    return bytes(data)


def _from_png(data: bytes) -> np.ndarray:
    return np.asarray(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED))


def _row(f: RasterFigures) -> str:
    speed = f.raw_bytes / f.decode_ms / 1000 if f.decode_ms > 0.01 else float("inf")
    shown = f"{speed:6.0f}" if np.isfinite(speed) else "     -"
    return (
        f"{f.raster:14} {f.encoding:8} {f.stored_bytes / 1024:9.1f} {100 * f.stored_bytes / f.raw_bytes:6.1f}%"
        f" {f.encode_ms:10.2f} {f.decode_ms:10.3f} {shown}"
    )
