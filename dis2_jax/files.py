"""Files and folders that are whole or not there at all."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import socket
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TypeVar

from dis2_jax.schema import Dis2Error

LOCK_FILE = ".lock"

Parsed = TypeVar("Parsed")


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
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise


def no_room(error: OSError) -> Dis2Error | None:
    """Tell a full disk or a used-up quota; None where ``error`` is something else."""
    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
        return None
    what = "the disk is full" if error.errno == errno.ENOSPC else "your quota is used up"
    return Dis2Error(f"{error.filename or 'output'}: {what}; free some space")


def write_results(folder: Path, files: Mapping[str, str | bytes]) -> list[Path]:
    """Write ``{name: content}`` below ``folder``, each file whole or not at all; return the paths.

    Raises ``Dis2Error`` where the folder or a file cannot be written.
    """
    paths = [folder / name for name in files]
    try:
        for path, content in zip(paths, files.values(), strict=True):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, content)
    except OSError as e:
        raise Dis2Error(f"{folder} cannot be written: {e.strerror}") from e
    return paths


def read_results(path: str | Path, parse: Callable[[str], Parsed], *, command: str) -> Parsed:
    """Read a file that ``command`` writes. Raises ``Dis2Error`` where it is missing or ``parse`` refuses it."""
    if not Path(path).is_file():
        raise Dis2Error(f"{path} not found: write it with `{command} --workdir ...`")
    try:
        return parse(Path(path).read_text())
    except (OSError, UnicodeDecodeError) as e:
        raise Dis2Error(f"{path} cannot be read: {e}") from e
    except Dis2Error as e:
        raise Dis2Error(f"{path}: {e}") from e


@contextlib.contextmanager
def whole_folder(out: Path) -> Iterator[Path]:
    """Yield an empty hidden folder beside ``out`` that takes its place when the block ends well.

    An older ``out`` is there until then, and stays when the block fails. Raises ``Dis2Error`` for what the system
    refuses meanwhile (no permission, a full disk).
    """
    partial = out.with_name(f".{out.name}.partial-{_mark()}")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        clear_leftovers(out)
        partial.mkdir()
        yield partial
        take_place(partial, out)
    except OSError as e:
        raise Dis2Error(
            f"cannot write in {out.parent} ({e.strerror or e}): make room there or choose another --out"
        ) from e
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def take_place(partial: Path, out: Path) -> None:
    """Give the folder ``partial`` the name ``out``; an older ``out`` is gone after that, and back if it fails."""
    old = out.with_name(f".{out.name}.old-{_mark()}")
    if out.exists():
        out.rename(old)
    try:
        partial.rename(out)
    except OSError:
        if old.exists():
            old.rename(out)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _mark() -> str:
    return f"{socket.gethostname()}-{os.getpid()}"


def clear_leftovers(out: Path) -> None:
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


@contextlib.contextmanager
def locked_folder(
    folder: Path, *, command: str, flag: str, part: str = "", error: type[Dis2Error] = Dis2Error
) -> Iterator[None]:
    """Make a folder and keep other processes from it; the lock dies with its process, the folder stays.

    ``part``: only from the files whose names begin so, as those agree who use them. Raises ``error`` when another
    ``command`` holds it, or when it cannot be made or locked; ``flag`` chooses another.
    """
    held = f"{folder / part}.*" if part else folder
    with contextlib.ExitStack() as stack:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            f = stack.enter_context((folder / (f".{part}.lock" if part else LOCK_FILE)).open("w"))
            fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as e:
            raise error(f"{held} is in use by another `{command}`; wait for that one or end it") from e
        except OSError as e:
            raise error(f"{folder} cannot be written ({e.strerror or e}): choose another {flag}") from e
        yield


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
