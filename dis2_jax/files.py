"""Files that are whole or not there at all."""

from __future__ import annotations

import os
from pathlib import Path


def write_whole(path: str | Path, content: str | bytes) -> None:
    """Write a file under another name beside it, and give it its own once all of it is on the disk.

    A reader sees the old file or the new one, also after a crash. ``OSError`` is the caller's to explain; the old
    file is then as it was.
    """
    path = Path(path)
    partial = path.with_name(f"{path.name}.partial")
    try:
        with partial.open("wb") as f:
            f.write(content.encode() if isinstance(content, str) else content)
            f.flush()
            os.fsync(f.fileno())
        partial.replace(path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise
