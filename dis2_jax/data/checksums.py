"""``SHA256SUMS`` of a prepared dataset: what its shards were when they were written, as ``sha256sum -c`` reads it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from dis2_jax.files import write_whole
from dis2_jax.schema import Dis2Error

CHECKSUMS_FILE = "SHA256SUMS"


def write_checksums(sums: Mapping[str, str], folder: Path) -> None:
    """Write ``{file name: sha256}``."""
    write_whole(folder / CHECKSUMS_FILE, "".join(f"{sums[name]}  {name}\n" for name in sorted(sums)))


def verify_checksums(folder: Path) -> None:
    """Read every listed file and compare. Raises ``Dis2Error`` naming a missing or changed one.

    Datasets that were prepared before there was a list pass.
    """
    path = folder / CHECKSUMS_FILE
    if not path.is_file():
        return
    for line in path.read_text(errors="replace").splitlines():
        wanted, _, name = line.partition("  ")
        if not name:
            raise Dis2Error(f"{path} is damaged ({line[:40]!r}): copy or prepare the dataset again")
        try:
            with (folder / name).open("rb") as f:
                found = hashlib.file_digest(f, "sha256").hexdigest()
        except OSError as e:
            raise Dis2Error(
                f"{folder / name} cannot be read ({e.strerror or e}): copy or prepare the dataset again"
            ) from e
        if found != wanted:
            raise Dis2Error(
                f"{folder / name} is not the file that was prepared (its checksum differs from {path}): "
                "copy or prepare the dataset again"
            )
