"""The other side of `launch/compare_loaders.py`: a PyTorch DataLoader with albumentations on the records of a dataset.

Runs in an environment of its own (see there), not in that of dis2_jax. It does what `dis2 bench input` does with the
same config values: flips, quarter turns, free rotation, zoom, crop, brightness and contrast of `rgb`, normalisation,
batches of float32 images and int64 labels.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import time
from pathlib import Path
from typing import Any

import albumentations as A
import cv2
import numpy as np
import psutil
import torch
import zstandard
from array_record.python.array_record_data_source import ArrayRecordDataSource
from tensorflow_datasets.proto import tf_example_pb2

cv2.setNumThreads(0)
torch.set_num_threads(1)


class Records(torch.utils.data.Dataset):
    """Tiles of a dataset that `dis2 data prepare synthetic_city` wrote with Zstandard."""

    def __init__(self, folder: Path, *, crop: int, augment: bool) -> None:
        self.paths = sorted(map(str, folder.glob("*-train.array_record-*")))
        card = json.loads((folder / "dataset_card.json").read_text())
        self.tile = tuple(card["tile"])
        self.stats = {m["name"]: (m["mean"], m["std"]) for m in card["modalities"]}
        self.records: Any = None
        self.count = card["splits"]["train"]
        spatial: list[Any] = []
        if augment:
            spatial = [
                A.D4(p=1),
                A.Affine(rotate=(-20, 20), scale=(0.8, 1.25), border_mode=cv2.BORDER_REFLECT_101, p=1),
            ]
        if crop:
            spatial.append(A.RandomCrop(crop, crop))
        self.spatial = A.Compose(spatial, additional_targets={"ndsm": "image"})
        mean, std = self.stats["rgb"]
        tone = [A.RandomBrightnessContrast(0.1, 0.1, p=1)] if augment else []
        self.rgb_only = A.Compose([*tone, A.Normalize(mean=mean, std=std, max_pixel_value=1.0)])

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, i: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        if self.records is None:  # one per worker
            self.records = ArrayRecordDataSource(self.paths)
        record = tf_example_pb2.Example.FromString(self.records[i]).features.feature

        def raster(name: str, dtype: Any, channels: tuple[int, ...]) -> np.ndarray:
            data = zstandard.decompress(record[name].bytes_list.value[0])
            return np.frombuffer(data, dtype).reshape(*self.tile, *channels)

        out = self.spatial(
            image=raster("image/rgb", np.uint8, (3,)),
            ndsm=raster("image/ndsm", np.float32, (1,)),
            mask=raster("label", np.uint8, ()),
        )
        mean, std = self.stats["ndsm"]
        ndsm = (out["ndsm"].reshape(*out["mask"].shape, 1) - np.float32(mean)) / np.float32(std)
        rgb = self.rgb_only(image=out["image"])["image"]
        return (
            torch.from_numpy(np.ascontiguousarray(rgb)),
            torch.from_numpy(np.ascontiguousarray(ndsm)),
            torch.from_numpy(out["mask"].astype(np.int64)),
        )


def cpu_seconds() -> float:
    """Of this process and its workers so far."""
    own = [psutil.Process(p.pid).cpu_times() for p in multiprocessing.active_children()]
    return time.process_time() + sum(t.user + t.system for t in own)


def main() -> None:
    """Measure and write the figures."""
    parser = argparse.ArgumentParser()
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--workers", type=int, required=True)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--crop", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--plain", action="store_true", help="no augmentation but the crop")
    parser.add_argument("--json", type=Path, required=True)
    a = parser.parse_args()
    loader = torch.utils.data.DataLoader(
        Records(a.dataset, crop=a.crop, augment=not a.plain),
        batch_size=a.batch,
        num_workers=a.workers,
        shuffle=True,
        drop_last=True,
        persistent_workers=a.workers > 0,
    )

    def endless() -> Any:
        while True:
            yield from loader

    batches = endless()
    for _ in range(8):
        rgb, ndsm, label = next(batches)
    side = a.crop or loader.dataset.tile[0]
    assert rgb.shape == (a.batch, side, side, 3)
    assert rgb.dtype == ndsm.dtype == torch.float32
    assert label.shape == (a.batch, side, side)
    start, cpu, taken = time.perf_counter(), cpu_seconds(), 0
    while time.perf_counter() < start + a.seconds:
        next(batches)
        taken += a.batch
    seconds, used = time.perf_counter() - start, cpu_seconds() - cpu
    a.json.write_text(json.dumps({"tiles_per_second": taken / seconds, "cpu_ms": 1000 * used / taken}))


if __name__ == "__main__":
    main()
