"""All processes of a job must run the same thing: config, code, data card, workdir."""

from __future__ import annotations

import collections
import contextlib
import hashlib
import json
import platform
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

import dis2_jax
from dis2_jax.config import Config
from dis2_jax.distributed.jointly import JointError, gather_texts, jointly, name_processes, several
from dis2_jax.schema import DatasetCard, Dis2Error

MAY_DIFFER = frozenset({"data.dir", "data.workers"})
"""Config keys that may have another value on each host: where its copy of the data lies, how many readers it has."""
_LISTED = 4


def check_agreement(parts: Mapping[str, Any]) -> None:
    """Compare ``{part: JSON-like value}`` over all processes. Every process must call it, with the same names.

    Digests are compared; only of a part that differs the content is exchanged. Raises ``JointError`` on every
    process: which part, which of its keys, which processes, and the values.
    """
    if not several():
        return
    texts = {name: json.dumps(value, sort_keys=True) for name, value in parts.items()}
    digests = [hashlib.sha256(text.encode()).digest() for text in texts.values()]
    rows = multihost_utils.process_allgather(np.frombuffer(b"".join(digests), np.uint8))
    for (name, text), column in zip(texts.items(), np.split(rows, len(texts), axis=1), strict=True):
        if (column != column[0]).any():
            raise JointError(disagreement(name, gather_texts(text)))


def disagreement(part: str, texts: Sequence[str]) -> str:
    """Say in one line which keys of ``part`` differ between the JSON ``texts`` of the processes, and how.

    The value that most processes have is taken for the right one.
    """
    flat = [_leaves(json.loads(text)) for text in texts]
    differences = []
    for key in dict.fromkeys(key for leaves in flat for key in leaves):
        values = [json.dumps(leaves.get(key)) for leaves in flat]
        counts = collections.Counter(values)
        if len(counts) == 1:
            continue
        usual = counts.most_common(1)[0][0]
        others: dict[str, list[int]] = {}
        for i, value in enumerate(values):
            if value != usual:
                others.setdefault(value, []).append(i)
        told = ", ".join(f"{v} on {name_processes(numbers)}" for v, numbers in others.items())
        differences.append(f"{key + ' ' if key else ''}is {told}, {usual} on the others")
    more = f"; and {len(differences) - _LISTED} more" if len(differences) > _LISTED else ""
    return f"the processes do not agree on the {part}: {'; '.join(differences[:_LISTED])}{more}"


def config_part(config: Config) -> dict[str, Any]:
    """What of a config must agree, as ``{"a.b": value}``."""
    return {k: v for k, v in _leaves(config.to_dict()).items() if k not in MAY_DIFFER}


def card_part(card: DatasetCard) -> Any:
    """What of a data card must agree: all."""
    return json.loads(card.to_json())


def code_part(versions: Mapping[str, str]) -> dict[str, Any]:
    """Versions of what computes, and a digest of this package's source files (a commit says less: files change)."""
    source = hashlib.sha256()
    root = Path(dis2_jax.__file__).parent
    for path in sorted(root.rglob("*.py")):
        source.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes() + b"\0")
    return {
        "source digest": source.hexdigest()[:12],
        "python": ".".join(platform.python_version_tuple()[:2]),
        **versions,
    }


def check_shared(folder: Path, *, wait: float = 20.0) -> None:
    """Raise ``JointError`` unless all processes see the same ``folder``: process 0 leaves a file, the others look.

    ``wait``: seconds that a network file system may take to show it.
    """
    if not several():
        return
    mark = folder / f".seen-by-all-{gather_texts(uuid.uuid4().hex)[0]}"
    with jointly():
        if jax.process_index() == 0:
            try:
                folder.mkdir(parents=True, exist_ok=True)
                mark.touch()
            except OSError as e:
                raise Dis2Error(f"{folder} cannot be written: {e.strerror}; choose another --workdir") from e
    try:
        with jointly():
            if not _appears(mark, wait):
                raise Dis2Error(
                    f"{folder} is not the folder that process 0 sees: it must be on shared storage"
                )
    finally:
        if jax.process_index() == 0:
            with contextlib.suppress(OSError):
                mark.unlink()


def _appears(path: Path, wait: float) -> bool:
    end = time.monotonic() + wait
    while True:
        with contextlib.suppress(OSError):
            list(path.parent.iterdir())  # makes NFS ask the server again
        if path.exists():
            return True
        if time.monotonic() > end:
            return False
        time.sleep(0.2)


def _leaves(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested mappings and lists as ``{"a.b.0": leaf}``."""
    if isinstance(value, Mapping):
        items = [(str(k), v) for k, v in value.items()]
    elif isinstance(value, (list, tuple)) and any(isinstance(v, (Mapping, list, tuple)) for v in value):
        items = [(str(i), v) for i, v in enumerate(value)]
    else:
        return {prefix: value}
    found: dict[str, Any] = {}
    for key, inner in items:
        found |= _leaves(inner, f"{prefix}.{key}" if prefix else key)
    return found
