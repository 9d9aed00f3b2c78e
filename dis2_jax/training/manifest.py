"""SHA-256 of every file of a checkpoint, written into it before it gets its final name. No JAX.

Orbax restores a flipped byte without a word (STACK.md), so nothing is read before its digest is right.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from dis2_jax.files import write_whole
from dis2_jax.schema import Dis2Error

MANIFEST = "manifest.json"
# Orbax rewrites this one after our callback (commit time); nothing of the run depends on it.
_NOT_DIGESTED = frozenset({MANIFEST, "_CHECKPOINT_METADATA"})
_THREADS = 4


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What a finished checkpoint holds: (bytes, sha256) per file, and the validation metric that ranks it."""

    files: dict[str, tuple[int, str]]
    metric: float | None = None


def write(folder: Path, manifest: Manifest) -> None:
    """Store the manifest in ``folder``, whole or not at all, with a digest of itself."""
    body = {"metric": manifest.metric, "files": {k: list(v) for k, v in manifest.files.items()}}
    write_whole(folder / MANIFEST, json.dumps({**body, "digest": _digest_of(body)}, indent=1))


def make(folder: Path, *, metric: float | None) -> Manifest:
    """Digest every file below ``folder``."""
    names = sorted(
        str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file() and p.name not in _NOT_DIGESTED
    )
    return Manifest(files=_digests(folder, names), metric=metric)


def read(folder: Path) -> Manifest:
    """Read the manifest. Raises ``Dis2Error`` when it is absent or damaged."""
    path = folder / MANIFEST
    try:
        body = json.loads(path.read_text())
        digest = body.pop("digest")
        files = {str(k): (int(size), str(sha)) for k, (size, sha) in body["files"].items()}
    except FileNotFoundError as e:
        raise Dis2Error(f"{folder} has no {MANIFEST}: its save was interrupted") from e
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as e:
        raise Dis2Error(f"{path} is damaged ({type(e).__name__})") from e
    if digest != _digest_of(body):
        raise Dis2Error(f"{path} is damaged: its digest is not the written one")
    return Manifest(files=files, metric=body["metric"])


def verify(folder: Path) -> Manifest:
    """Return the manifest if every file is as written; else ``Dis2Error`` names the first bad file."""
    manifest = read(folder)
    for name, (size, _) in manifest.files.items():
        path = folder / name
        if not path.is_file():
            raise Dis2Error(f"{path} is missing")
        if path.stat().st_size != size:
            raise Dis2Error(f"{path} is damaged: {path.stat().st_size} bytes instead of {size}")
    for name, found in _digests(folder, list(manifest.files)).items():
        if found != manifest.files[name]:
            raise Dis2Error(f"{folder / name} is damaged: its content is not what was saved")
    return manifest


def _digests(folder: Path, names: list[str]) -> dict[str, tuple[int, str]]:
    with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:  # hashing releases the interpreter lock
        return dict(zip(names, pool.map(lambda name: _digest(folder / name), names), strict=True))


def _digest(path: Path) -> tuple[int, str]:
    with path.open("rb") as f:
        sha = hashlib.file_digest(f, "sha256").hexdigest()
        return f.tell(), sha


def _digest_of(body: Mapping[str, object]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
