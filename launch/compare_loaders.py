"""Compare the input pipeline with a PyTorch DataLoader + albumentations on the same records, in turns.

Developers only. Make a dataset and a throw-away environment for the other side, then run this in ours:

    dis2 data prepare synthetic_city --scene 1024 --tile 512 --train-scenes 320 --test-scenes 0 --out /tmp/city512
    python3 -m venv /tmp/torch && /tmp/torch/bin/pip install torch==2.13.0 albumentations==2.0.8 zstandard \
        array_record tensorflow-datasets psutil
    python launch/compare_loaders.py /tmp/city512 --torch-python /tmp/torch/bin/python
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

AUGMENT = ["rotate_degrees=20.0", "scale=0.8,1.25", "photometric=0.1"]


def run(command: list[str], out: Path) -> dict[str, Any]:
    """Run a measurement and return its figures."""
    subprocess.run([*command, "--json", str(out)], check=True, stdout=subprocess.DEVNULL)
    figures: dict[str, Any] = json.loads(out.read_text())
    return figures


def main() -> None:
    """Alternate the sides and print medians."""
    parser = argparse.ArgumentParser()
    parser.add_argument("dataset")
    parser.add_argument("--torch-python", required=True)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--crop", type=int, default=0, help="side in pixels (default: the whole tile)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=8.0)
    a = parser.parse_args()
    values = [f"dir={a.dataset}", f"crop={a.crop},{a.crop}", *AUGMENT]
    ours = ["dis2", "bench", "input", "--seconds", str(a.seconds), *(f"--config.data.{v}" for v in values)]
    readers = f"--config.data.workers={a.workers}"
    other = [a.torch_python, str(Path(__file__).with_name("torch_loader.py")), a.dataset]
    other += ["--workers", str(a.workers), "--crop", str(a.crop), "--seconds", str(a.seconds)]
    sides = {
        "host": [*ours, readers],
        "threads": [*ours, "--config.data.workers=0"],
        "device": [*ours, readers, "--config.data.augment=device"],
        "torch": other,
    }
    found: dict[str, list[dict[str, Any]]] = {side: [] for side in sides}
    with tempfile.TemporaryDirectory() as folder:
        for k in range(a.rounds):
            for side, command in sides.items():
                found[side].append(run(command, Path(folder) / "figures.json"))
                print(k, side, _text(found[side][-1]), file=sys.stderr, flush=True)
    for side, rounds in found.items():
        speed, cpu = (statistics.median(f[k] for f in rounds) for k in ("tiles_per_second", "cpu_ms"))
        line = f"{side:7} {speed:7.1f} tiles/s, {cpu:6.2f} ms of CPU per tile"
        pairs = list(zip(rounds, found["torch"], strict=True))
        line += f"; speed {statistics.median(f['tiles_per_second'] / t['tiles_per_second'] for f, t in pairs):.2f} x"
        line += f" and CPU {statistics.median(f['cpu_ms'] / t['cpu_ms'] for f, t in pairs):.2f} x torch's"
        if side != "torch":
            slower = statistics.median(f["bare_tiles_per_second"] / f["tiles_per_second"] for f in rounds)
            line += f"; {slower:.2f} x the time of the bare loop"
            line += f", {statistics.median(f['cpu_ms'] / f['bare_cpu_ms'] for f in rounds):.2f} x its CPU"
        print(line)


def _text(figures: dict[str, Any]) -> str:
    keys = ("tiles_per_second", "cpu_ms", "bare_tiles_per_second", "bare_cpu_ms")
    return ", ".join(f"{k} {figures[k]:.2f}" for k in keys if k in figures)


if __name__ == "__main__":
    main()
