"""Rows of a plan, one worker process each: a crash, a refusal or a timeout fails its row only."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import tempfile
import time
import zlib
from pathlib import Path

from dis2_jax.files import write_whole
from dis2_jax.planning.devices import environment
from dis2_jax.planning.request import Failure, Request, Row
from dis2_jax.schema import Dis2Error


@dataclasses.dataclass(frozen=True)
class RowStore:
    """A folder of finished rows. A request that is answered there is not compiled again."""

    folder: Path

    def path(self, request: Request) -> Path:
        """File of a row; with a number of its own where another request took the plain name."""
        plain = self.folder / f"{request.key}.json"
        if not plain.is_file() or self.read_file(plain).request == request:
            return plain
        return self.folder / f"{request.key}_{zlib.crc32(request.to_json().encode()):08x}.json"

    def read(self, request: Request) -> Row | None:
        """Return the row; None where there is none, or it failed for want of time."""
        path = self.path(request)
        row = self.read_file(path) if path.is_file() else None
        if row is None or row.request != request:
            return None
        final = row.failure is None or row.failure.reason in ("does not fit", "refused")
        return row if final else None

    def read_file(self, path: Path) -> Row:
        """Read one file; ``Dis2Error`` when it is no row."""
        try:
            return Row.from_json(path.read_text())
        except (OSError, KeyError, ValueError, TypeError) as e:
            raise Dis2Error(
                f"{path}: no row of a plan ({type(e).__name__}: {e}); delete it to compile again"
            ) from e

    def all(self) -> list[Row]:
        """Every row of the folder, by name."""
        return [self.read_file(path) for path in sorted(self.folder.glob("*.json"))]

    def write(self, row: Row) -> None:
        """Put a row there, whole or not at all."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_whole(self.path(row.request), row.to_json() + "\n")


def run_row(request: Request, *, timeout: float, hlo: Path | None = None) -> Row:
    """Compile one row in a process of its own; ``timeout`` in seconds."""
    with tempfile.TemporaryDirectory(prefix="dis2_plan_") as folder:
        asked, answered = Path(folder, "request.json"), Path(folder, "row.json")
        asked.write_text(request.to_json())
        command = [sys.executable, "-m", "dis2_jax.planning.worker", str(asked), str(answered)]
        start = time.perf_counter()
        try:
            done = subprocess.run(
                command + ([str(hlo)] if hlo else []),
                env=_environment(request),
                capture_output=True,
                text=True,
                timeout=timeout,
                check=False,
            )
        except subprocess.TimeoutExpired:
            failure = Failure("timeout", f"not compiled within {timeout:.0f} s (--timeout)")
            return Row(request, None, failure, time.perf_counter() - start)
        if answered.is_file():
            return Row.from_json(answered.read_text())
        failure = Failure("crashed", _last_words(done))
        return Row(request, None, failure, time.perf_counter() - start)


def _environment(request: Request) -> dict[str, str]:
    # The persistent cache would answer in place of the compiler whose time is reported.
    inherited = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
    return {**inherited, **environment(request.machine)}


def _last_words(done: subprocess.CompletedProcess[str]) -> str:
    lines = [line.strip() for line in (done.stderr or "").splitlines() if line.strip()]
    return f"worker ended with status {done.returncode}: {lines[-1][:300] if lines else 'no message'}"
