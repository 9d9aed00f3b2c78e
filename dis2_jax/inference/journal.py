"""The unfinished side of a prediction: finished strips on disk, and a journal that lists them.

Everything lives in ``<out>.partial/``. A strip counts once its line is in the journal; the line holds the size and
checksum of its files, so that a killed or full-disk run goes on from what is really there, also when the machine
lost power and the disk never saw some of it. The folder belongs to one run, told by its fingerprint, and to one
process at a time.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dis2_jax.data.rasters import first_line
from dis2_jax.files import LOCK_FILE, locked_folder, write_whole
from dis2_jax.schema import Dis2Error

JOURNAL = "journal.jsonl"

Key = tuple[int, int]
"""Position of panel and strip."""


class OutputError(Dis2Error):
    """The place to write to is at fault, not the scene."""


class Journal:
    """Finished strips of one run. ``facts`` of each strip are what its ``add`` was given."""

    def __init__(self, folder: Path, fingerprint: str) -> None:
        self.folder = folder
        self.facts: dict[Key, dict[str, Any]] = {}
        self.started_over = False
        """Whether the strips of another run were thrown away."""
        self._load(fingerprint)

    def file(self, product: str, key: Key) -> Path:
        """Where a strip's raster lies."""
        return self.folder / f"{product}-{key[0]}-{key[1]}.tif"

    def add(self, key: Key, files: Mapping[str, bytes], facts: Mapping[str, Any]) -> None:
        """Write a strip's rasters (by product), then its line. Raises ``OSError`` when the disk refuses."""
        sums = {}
        for product, content in files.items():
            self.file(product, key).write_bytes(content)
            sums[product] = [len(content), zlib.crc32(content)]
        self._append({"key": list(key), "files": sums, "facts": dict(facts)})
        self.facts[key] = dict(facts)

    def _append(self, line: dict[str, Any]) -> None:
        with (self.folder / JOURNAL).open("a") as f:
            f.write(json.dumps(line) + "\n")

    def _rewrite(self, lines: list[dict[str, Any]]) -> None:
        """Without what a kill left of a line."""
        write_whole(self.folder / JOURNAL, "".join(json.dumps(line) + "\n" for line in lines))

    def _load(self, fingerprint: str) -> None:
        lines = _lines(self.folder / JOURNAL)
        if not lines or lines[0].get("fingerprint") != fingerprint:
            self.started_over = len(lines) > 1
            _empty(self.folder)
            lines = [{"fingerprint": fingerprint}]
        self._rewrite(lines)
        for line in lines[1:]:
            key = (int(line["key"][0]), int(line["key"][1]))
            whole = all(_is_whole(self.file(p, key), *found) for p, found in line["files"].items())
            if whole:
                self.facts[key] = line["facts"]


@contextlib.contextmanager
def opened(out: Path, fingerprint: str) -> Iterator[Journal]:
    """Hold ``<out>.partial/`` for one process; gone after success, kept where a later run can go on.

    It can after an interruption and after a full disk; not after bad input, which a later run would meet again.
    Raises ``Dis2Error`` when the folder cannot be made or another process works there, and for a full disk.
    """
    folder = out.with_name(out.name + ".partial")
    with locked_folder(folder, command="dis2 predict", flag="--out", error=OutputError):
        try:
            yield Journal(folder, fingerprint)
        except Dis2Error:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        except OSError as e:
            raise disk_error(e, folder) from e
        shutil.rmtree(folder, ignore_errors=True)


def disk_error(e: OSError, folder: Path) -> OutputError:
    """Say what the disk said, and that what is done is kept."""
    if e.errno == errno.ENOSPC:
        what = "the disk is full; free some space"
    else:
        what = f"it cannot be written ({e.strerror or e}); mend that"
    return OutputError(f"{folder}: {what} and run the same command again: it goes on from there")


def write_error(e: Exception, target: Path) -> OSError:
    """Return GDAL's complaint as an ``OSError``; a disk without room counts as full, whatever GDAL says."""
    full = "No space left" in str(e) or "No space left" in first_line(e)
    if full or shutil.disk_usage(target.parent).free < 2**20:
        return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))
    return OSError(errno.EIO, first_line(e), str(target))


def _lines(path: Path) -> list[dict[str, Any]]:
    """Whole lines of a journal; a torn last one is left out."""
    try:
        texts = path.read_text().split("\n")[:-1]
    except (OSError, UnicodeDecodeError):
        return []
    lines = []
    for text in texts:
        try:
            lines.append(json.loads(text))
        except ValueError:
            break
    return lines


def _is_whole(path: Path, size: int, checksum: int) -> bool:
    try:
        return path.stat().st_size == size and zlib.crc32(path.read_bytes()) == checksum
    except OSError:
        return False


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        if path.name != LOCK_FILE:
            path.unlink() if path.is_file() else shutil.rmtree(path)
