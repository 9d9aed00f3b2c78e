"""PyTorch state dicts as numpy: ``.npz`` and ``.safetensors`` always, its own files with torch."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from dis2_jax.schema import Dis2Error

StateDict = dict[str, np.ndarray]

_WRAPPERS = ("module.", "_orig_mod.")
"""What DataParallel and torch.compile put in front of every name."""


def read_state_dict(path: str | Path) -> StateDict:
    """Read name -> array (dtypes kept, bfloat16 as float32) of a ``.npz``, ``.safetensors`` or PyTorch file.

    A PyTorch file is the state dict, or has it under ``model_state_dict`` or ``state_dict``. Any other suffix
    than the first two means PyTorch: the published script writes none. Raises ``Dis2Error``.
    """
    path = Path(path)
    if not path.is_file():
        raise Dis2Error(f"{path} not found: name a state dict (.pth, .npz or .safetensors)")
    reader = {".npz": _read_npz, ".safetensors": _read_safetensors}.get(path.suffix.lower(), _read_torch)
    try:
        state_dict = _unwrap(reader(path))
    except Dis2Error:
        raise
    except Exception as e:  # each library has its own errors for damaged files
        text = (str(e).strip() or type(e).__name__).splitlines()[0]
        raise Dis2Error(f"{path}: cannot be read as a state dict: {text}") from e
    if not state_dict:
        raise Dis2Error(f"{path}: no arrays in it")
    return state_dict


def write_state_dict(path: str | Path, state_dict: Mapping[str, np.ndarray]) -> None:
    """Write, whole or not at all. The suffix chooses: ``.pth``, ``.pt``, ``.npz``, ``.safetensors``."""
    path = Path(path)
    suffix = path.suffix.lower()
    writers: dict[str, Callable[[Path, StateDict], None]] = {
        ".npz": _write_npz,
        ".safetensors": _write_safetensors,
        ".pth": _write_torch,
        ".pt": _write_torch,
    }
    if suffix not in writers:
        raise Dis2Error(f"{path}: the name must end in one of {', '.join(writers)}")
    # safetensors writes the memory as it lies, so a transposed view would come out scrambled.
    arrays = {name: np.ascontiguousarray(a).reshape(np.shape(a)) for name, a in state_dict.items()}
    partial = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        writers[suffix](partial, arrays)
        os.replace(partial, path)
    except OSError as e:
        raise Dis2Error(f"{path}: cannot be written: {e.strerror or e}") from e
    finally:
        partial.unlink(missing_ok=True)


def _unwrap(state_dict: StateDict) -> StateDict:
    for prefix in _WRAPPERS:
        if state_dict and all(name.startswith(prefix) for name in state_dict):
            return _unwrap({name.removeprefix(prefix): a for name, a in state_dict.items()})
    return state_dict


def _read_npz(path: Path) -> StateDict:
    with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
        return dict(file)


def _write_npz(path: Path, state_dict: StateDict) -> None:
    with path.open("wb") as file:
        np.savez(file, **state_dict)  # type: ignore[arg-type]


def _read_safetensors(path: Path) -> StateDict:
    from safetensors.numpy import load_file

    return dict(load_file(path))


def _write_safetensors(path: Path, state_dict: StateDict) -> None:
    from safetensors.numpy import save_file

    save_file(state_dict, path)


def _torch(path: Path) -> ModuleType:
    try:
        import torch
    except ImportError as e:
        raise Dis2Error(
            f"{path}: PyTorch is needed for this file: `pip install 'dis2-jax[torch]'`, "
            "or use a .npz or .safetensors state dict"
        ) from e
    return torch


def _read_torch(path: Path) -> StateDict:
    torch = _torch(path)
    loaded = torch.load(path, map_location="cpu", weights_only=True)
    for key in ("model_state_dict", "state_dict"):
        if isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping):
            loaded = loaded[key]
    if not isinstance(loaded, Mapping):
        raise Dis2Error(f"{path}: no state dict in it, but a {type(loaded).__name__}")
    odd = [str(name) for name, value in loaded.items() if not isinstance(value, torch.Tensor)]
    if odd:
        raise Dis2Error(f"{path}: not a state dict: {', '.join(odd[:5])} hold no tensor")
    return {name: _to_numpy(torch, value) for name, value in loaded.items()}


def _to_numpy(torch: ModuleType, value: Any) -> np.ndarray:
    return (value.float() if value.dtype == torch.bfloat16 else value).detach().numpy()


def _write_torch(path: Path, state_dict: StateDict) -> None:
    torch = _torch(path)
    tensors = {name: torch.from_numpy(array.copy()) for name, array in state_dict.items()}
    torch.save({"model_state_dict": tensors}, path)
