"""A folder that appears complete or not at all, also in place of an older one."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

from dis2_jax.schema import Dis2Error


@contextlib.contextmanager
def whole_folder(out: Path) -> Iterator[Path]:
    """Yield an empty hidden folder beside ``out`` that takes its place when the block ends well.

    An older ``out`` is there until then, and stays when the block fails. Raises ``Dis2Error`` for what the
    system refuses while writing (no permission, a full disk).
    """
    mark = f"{socket.gethostname()}-{os.getpid()}"
    partial = out.with_name(f".{out.name}.partial-{mark}")
    old = out.with_name(f".{out.name}.old-{mark}")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(out)
        partial.mkdir()
        yield partial
        _swap(partial, out, old)
    except OSError as e:
        raise Dis2Error(
            f"cannot write in {out.parent} ({e.strerror or e}): make room there or choose another --out"
        ) from e
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _swap(partial: Path, out: Path, old: Path) -> None:
    if out.exists():
        out.rename(old)
    try:
        partial.rename(out)
    except OSError:
        if old.exists():
            old.rename(out)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _remove_leftovers(out: Path) -> None:
    """Clear up after processes of this host that were killed; an old folder that lost its place gets it back."""
    for kind in ("old", "partial"):
        prefix = f".{out.name}.{kind}-{socket.gethostname()}-"
        for path in out.parent.glob(prefix + "*"):
            pid = path.name.removeprefix(prefix)
            if not pid.isdigit() or _alive(int(pid)):
                continue
            if kind == "old" and not out.exists():
                path.rename(out)
            else:
                shutil.rmtree(path, ignore_errors=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
