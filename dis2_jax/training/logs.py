"""What a run leaves to read: ``metrics.jsonl``, TensorBoard files, and a progress line."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from tensorboardX import SummaryWriter
from tqdm import tqdm

from dis2_jax.files import write_whole
from dis2_jax.schema import Dis2Error

METRICS_FILE = "metrics.jsonl"
TENSORBOARD_FOLDER = "tensorboard"
_LINE_SECONDS = 10.0
"""At most one progress line in this time where stderr is not a terminal."""


class RunLog:
    """Appends to ``metrics.jsonl`` and ``tensorboard/``; a context manager.

    Opened with the step that training continues from: whatever an earlier, killed process logged beyond it is
    removed, so the file reads as that of a run never stopped. Only one process of a job may open it.
    """

    def __init__(self, workdir: str | Path, *, step: int) -> None:
        self.path = Path(workdir) / METRICS_FILE
        self._kept = _truncate(self.path, step=step)
        self._file = self.path.open("a")
        self._board = SummaryWriter(
            str(Path(workdir) / TENSORBOARD_FOLDER), purge_step=step + 1 if step else None
        )

    def __enter__(self) -> RunLog:
        return self

    def __exit__(self, *_: object) -> None:
        self._board.close()
        with contextlib.suppress(OSError):
            self._file.close()

    def has(self, kind: str, *, step: int) -> bool:
        """Whether the kept part of the file holds this entry."""
        return (kind, step) in self._kept

    def scalars(self, kind: str, values: Mapping[str, Any], *, step: int) -> None:
        """One line ``{"step", "kind", ...values}``; numbers also go to TensorBoard. NaN becomes null."""
        line = {"step": step, "kind": kind, **{k: _plain(v) for k, v in values.items()}}
        try:
            self._file.write(json.dumps(line) + "\n")
            self._file.flush()
        except OSError as e:
            raise Dis2Error(f"{self.path} cannot be written: {e.strerror}") from e
        for key, value in values.items():
            if isinstance(value, float):
                self._board.add_scalar(f"{kind}/{key}", value, step)

    def images(self, images: Mapping[str, np.ndarray], *, step: int) -> None:
        """Show uint8 ``[H, W, 3]`` pictures in TensorBoard."""
        for name, image in images.items():
            self._board.add_image(name, image, step, dataformats="HWC")


class Progress:
    """A bar on a terminal; elsewhere a line every ten seconds. ``on=False``: silent (other hosts)."""

    def __init__(self, *, start: int, total: int, on: bool = True) -> None:
        self._step, self._total, self._on = start, total, on
        self._printed = time.monotonic()
        self._bar = None
        if on and sys.stderr.isatty():
            self._bar = tqdm(
                initial=start,
                total=total,
                unit="step",
                dynamic_ncols=True,
                smoothing=0.1,
                bar_format="{percentage:3.0f}% |{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}{postfix}]",
            )

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, kind: type[BaseException] | None, e: object, tb: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.close()

    def advance(self) -> None:
        """One step more."""
        self._step += 1
        if self._bar is not None:
            self._bar.update()

    def show(self, *, loss: float, tiles_per_second: float | None, seconds_per_step: float | None) -> None:
        """Show the newest loss, speed and time left; in a file only when the last line is old enough."""
        speed = "compiling" if tiles_per_second is None else f"{tiles_per_second:.1f} tiles/s"
        if self._bar is not None:
            self._bar.set_postfix_str(f"loss {loss:.4f}, {speed}")
        elif self._on and (time.monotonic() - self._printed > _LINE_SECONDS or self._step == self._total):
            self._printed = time.monotonic()
            steps = self._total - self._step
            left = "" if seconds_per_step is None else f"  {_clock(steps * seconds_per_step)} left"
            self._print(f"step {self._step}/{self._total}  loss {loss:.4f}  {speed}{left}")

    def say(self, text: str) -> None:
        """Print a line without breaking the bar."""
        if self._on:
            self._print(text)

    def _print(self, text: str) -> None:
        if self._bar is not None:
            self._bar.write(text, file=sys.stderr)
        else:
            print(text, file=sys.stderr, flush=True)


class Speed:
    """Tiles per second since the last ``restart``, which leaves out compilation and validation."""

    def __init__(self, *, tiles_per_step: int) -> None:
        self._tiles = tiles_per_step
        self.restart()

    def restart(self) -> None:
        """Start a window now."""
        self._since, self._steps = time.perf_counter(), 0

    def count(self) -> None:
        """One step more in this window."""
        self._steps += 1

    @property
    def seconds_per_step(self) -> float | None:
        """Mean over the window; None when it is empty."""
        return (time.perf_counter() - self._since) / self._steps if self._steps else None

    @property
    def tiles_per_second(self) -> float | None:
        """Likewise."""
        seconds = self.seconds_per_step
        return self._tiles / seconds if seconds else None


def _truncate(path: Path, *, step: int) -> set[tuple[str, int]]:
    """Drop entries beyond ``step`` and a last line that a kill cut; return what stays."""
    if not path.is_file():
        return set()
    kept: dict[tuple[str, int], str] = {}
    for line in path.read_text().splitlines():
        try:
            entry = json.loads(line)
            key = (str(entry["kind"]), int(entry["step"]))
        except (ValueError, KeyError, TypeError):
            continue
        if key[1] <= step:
            kept[key] = line
    write_whole(path, "".join(f"{line}\n" for line in kept.values()))
    return set(kept)


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not np.isfinite(value) else value


def _clock(seconds: float) -> str:
    minutes, s = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{s:02}" if hours else f"{minutes}:{s:02}"
