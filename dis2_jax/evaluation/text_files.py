"""Write result files whole or not at all."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from dis2_jax.schema import Dis2Error


def write_texts(folder: Path, texts: Mapping[str, str]) -> list[Path]:
    """Write ``{name: text}`` to ``folder`` and return the paths. Raises ``Dis2Error`` where it cannot."""
    paths = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            paths.append(folder / name)
            partial = folder / f"{name}.partial"
            partial.write_text(text)
            partial.replace(paths[-1])
    except OSError as e:
        raise Dis2Error(f"{folder} cannot be written: {e.strerror}") from e
    return paths
