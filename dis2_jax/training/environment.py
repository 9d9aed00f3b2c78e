"""``environment.json``: where and on what a run was trained, and what that took, one entry per session. No JAX.

A session is one start of ``dis2 train`` in the workdir. Its entry is written at the start and brought up to date
at every checkpoint and at the end, so a killed one lacks only the time since its last checkpoint.
"""

from __future__ import annotations

import dataclasses
import datetime
import importlib.metadata
import json
import platform
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dis2_jax.data.cores import cores
from dis2_jax.files import write_whole
from dis2_jax.schema import Dis2Error

ENVIRONMENT_FILE = "environment.json"
PACKAGES = ("dis2-jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")


@dataclasses.dataclass(frozen=True)
class Session:
    """One start of a training. Steps are counts: ``first_step`` were done before it, ``last_step`` after it.

    ``seconds`` is wall time from the start of the session to its last update, compilation and validation
    included. None: not known there.
    """

    started: str
    """UTC, ISO 8601."""
    first_step: int
    last_step: int
    seconds: float
    batch_size: int
    """Tiles per step over all hosts."""
    commit: str | None
    """Of the git checkout that the package runs from."""
    modified: bool | None
    """Whether that checkout's files differed from the commit."""
    versions: dict[str, str]
    python: str
    platform: str
    backend: str
    device: str
    devices: int
    processes: int
    cpu: str | None
    cpu_count: int | None
    """Cores that the process may use on its host."""
    flops_per_step: dict[str, float] = dataclasses.field(default_factory=dict)
    """Students of a step, such as ``rgb, ndsm`` -> floating-point operations of the step on all devices, as XLA
    counts them in the compiled program."""

    @property
    def tile_steps(self) -> int:
        """Tiles that passed through training steps."""
        return (self.last_step - self.first_step) * self.batch_size


class SessionLog:
    """Keeps this session's entry in ``<workdir>/environment.json``. Only one process of a job may open it."""

    def __init__(
        self, workdir: str | Path, *, step: int, batch_size: int, hardware: Mapping[str, Any]
    ) -> None:
        self._path = Path(workdir) / ENVIRONMENT_FILE
        self._before = read_sessions(workdir)
        self._since = time.monotonic()
        commit, modified = checkout()
        self._session = Session(
            started=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            first_step=step,
            last_step=step,
            seconds=0.0,
            batch_size=batch_size,
            commit=commit,
            modified=modified,
            versions=package_versions(),
            python=platform.python_version(),
            platform=platform.platform(),
            cpu=cpu_model(),
            cpu_count=cores(),
            **hardware,
        )
        self.update(step=step)

    def note_flops(self, students: str, flops: float) -> None:
        """Keep a count until the next update."""
        known = {**self._session.flops_per_step, students: flops}
        self._session = dataclasses.replace(self._session, flops_per_step=known)

    def update(self, *, step: int) -> None:
        """Write the entry as of ``step``, whole or not at all."""
        seconds = round(time.monotonic() - self._since, 3)
        self._session = dataclasses.replace(self._session, last_step=step, seconds=seconds)
        sessions = [dataclasses.asdict(s) for s in (*self._before, self._session)]
        try:
            write_whole(self._path, json.dumps({"sessions": sessions}, indent=1) + "\n")
        except OSError as e:
            raise Dis2Error(f"{self._path} cannot be written: {e.strerror}") from e


def read_sessions(workdir: str | Path) -> tuple[Session, ...]:
    """Read ``environment.json``, oldest first; a run of an older version has none. Damaged: ``Dis2Error``."""
    path = Path(workdir) / ENVIRONMENT_FILE
    if not path.is_file():
        return ()
    try:
        return tuple(Session(**entry) for entry in json.loads(path.read_text())["sessions"])
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise Dis2Error(f"{path} is damaged ({type(e).__name__}: {e}): remove or restore it") from e


def package_versions() -> dict[str, str]:
    """Versions of what a result depends on."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def checkout() -> tuple[str | None, bool | None]:
    """Commit of the checkout that this package runs from, and whether files differ; (None, None) without one."""
    root = Path(__file__).resolve().parents[2]
    top = _git(root, "rev-parse", "--show-toplevel")
    if top is None or Path(top).resolve() != root:  # an installed package inside somebody's repository
        return None, None
    changes = _git(root, "status", "--porcelain")
    return _git(root, "rev-parse", "HEAD"), None if changes is None else bool(changes)


def cpu_model() -> str | None:
    """Name of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or None
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, None) or platform.processor() or None


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "--no-optional-locks", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
