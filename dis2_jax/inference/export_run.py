"""Run an exported DIS2 with jax alone: `pip install jax flatbuffers` (jax.export reads its files with the second).

    python run.py probabilities.npy rgb=photo.npy ndsm=height.npy      (or one .npz that holds arrays by these names)

Give the modalities that are there: [B, H, W, C] or [H, W, C], in the physical units of card.json. Class probabilities
come out, float32 [B, H, W, K] or [H, W, K]. From Python, with this folder on sys.path: `run.predict({"rgb": rgb})`.
"""

import functools
import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import export

HERE = Path(__file__).resolve().parent
CARD = json.loads((HERE / "card.json").read_text())


@functools.cache
def load(scenario: str) -> Any:
    """Read the function of one modality set and its weights; it compiles once per input shape."""
    function = CARD["functions"][scenario]
    for name in (function["file"], "weights.npz"):
        if hashlib.sha256((HERE / name).read_bytes()).hexdigest() != CARD["files"][name]["sha256"]:
            raise ValueError(f"{HERE / name} is damaged; copy or export it again")
    with np.load(HERE / "weights.npz") as arrays:
        weights = jax.device_put({name: arrays[name] for name in function["weights"]})
    call = export.deserialize(bytearray((HERE / function["file"]).read_bytes())).call
    return functools.partial(jax.jit(call), weights)


def predict(images: dict[str, Any]) -> np.ndarray:
    """Probabilities for arrays by modality name; what the model cannot read is a ValueError of one line."""
    channels = {m["name"]: m["channels"] for m in CARD["modalities"]}
    scenario = "+".join(sorted(images, key=[*channels, *images].index))
    if scenario not in CARD["functions"]:
        raise ValueError(f"cannot read {scenario or 'nothing'}; give one of {', '.join(CARD['functions'])}")
    ready = {m: np.asarray(x, np.float32) for m, x in images.items()}
    size, fixed = ready[min(ready)].shape[:-1], CARD["tile"]["fixed"]
    if len(size) not in (2, 3) or any(x.shape != (*size, channels[m]) for m, x in ready.items()):
        wanted = ", ".join(f"{m} [B, H, W, {channels[m]}]" for m in ready)
        raise ValueError(
            f"wanted {wanted} of one size, got {', '.join(str(x.shape) for x in ready.values())}"
        )
    if 0 in size or (list(size[-2:]) != fixed if fixed else any(side % 16 for side in size[-2:])):
        raise ValueError(f"sides {size[-2:]} must be {fixed or 'multiples of 16'}, and the batch not empty")
    if not all(np.isfinite(x).all() for x in ready.values()):
        raise ValueError("values are NaN or infinite: fill them, or leave the modality out")
    batch = {m: x.reshape(-1, *x.shape[-3:]) for m, x in ready.items()}
    return np.asarray(load(scenario)(batch)).reshape(*size, -1)


def main(out: str, *inputs: str) -> None:
    """Read .npy and .npz files, predict, write ``out``."""
    images: dict[str, Any] = {}
    for name, given, path in (text.partition("=") for text in inputs):
        images |= {name: np.load(path)} if given else dict(np.load(name))
    probabilities = predict(images)
    with open(f"{out}.partial", "wb") as file:
        np.save(file, probabilities)
    Path(f"{out}.partial").replace(out)


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except RuntimeError as e:
        wrote = CARD["written_with"]["jax"]
        versions = f"jax {wrote} wrote this, older ones cannot read it; here is {jax.__version__}"
        sys.exit(f"run.py: error: {str(e).splitlines()[0]} ({versions})")
    except Exception as e:  # one line, whatever it is
        sys.exit(f"run.py: error: {e}")
