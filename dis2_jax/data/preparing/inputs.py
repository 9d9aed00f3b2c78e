"""Checksums of the files that a dataset is made of."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path

from dis2_jax.files import write_whole
from dis2_jax.schema import Dis2Error

NOTE_SUFFIX = ".input"

_REMEMBERED = 64 * 2**20
"""Files from this size on are hashed once for all jobs; smaller ones by every job that reads them."""


@dataclasses.dataclass(frozen=True)
class InputFile:
    """A file as a job found it."""

    size: int
    mtime_ns: int
    sha256: str

    def is_still(self, path: Path, memory: Path) -> bool:
        """Whether the file is the same: by size and time, and by its contents where only the time differs."""
        try:
            size, mtime_ns = _stat(path)
            return size == self.size and (
                mtime_ns == self.mtime_ns or look_at(path, memory).sha256 == self.sha256
            )
        except Dis2Error:  # gone
            return False


def look_at(path: Path, memory: Path) -> InputFile:
    """Return size, time and checksum; those of large files are kept in the folder ``memory``."""
    stat = _stat(path)
    note = memory / f"{hashlib.sha256(str(path.absolute()).encode()).hexdigest()[:32]}{NOTE_SUFFIX}"
    if stat[0] < _REMEMBERED:
        return InputFile(*stat, _sha256(path))
    try:
        known = InputFile(**json.loads(note.read_text()))
    except (OSError, ValueError, TypeError):
        known = None
    if known is None or (known.size, known.mtime_ns) != stat:
        known = InputFile(*stat, _sha256(path))
        write_whole(note, json.dumps(dataclasses.asdict(known)))
    return known


def check_unchanged(path: Path, found: InputFile) -> None:
    """Raise ``Dis2Error`` if the file was written to since ``look_at``."""
    if _stat(path) != (found.size, found.mtime_ns):
        raise Dis2Error(
            f"{path} was changed while it was read: let it come to rest and run the command again"
        )


def _stat(path: Path) -> tuple[int, int]:
    try:
        stat = path.stat()
    except OSError as e:
        raise Dis2Error(f"{path} cannot be read ({e.strerror or e})") from e
    return stat.st_size, stat.st_mtime_ns


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as f:
            return hashlib.file_digest(f, "sha256").hexdigest()
    except OSError as e:
        raise Dis2Error(f"{path} cannot be read ({e.strerror or e})") from e
