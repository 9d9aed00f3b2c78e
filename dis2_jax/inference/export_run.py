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

import jax.export
import numpy as np

HERE = Path(__file__).resolve().parent
CARD = json.loads((HERE / "card.json").read_text())


@functools.cache
def load(scenario: str) -> functools.partial[jax.Array]:
    """Read the function of one modality set and its weights; it compiles once per input shape."""
    function = CARD["functions"][scenario]
    for name in (function["file"], "weights.npz"):
        if hashlib.sha256((HERE / name).read_bytes()).hexdigest() != CARD["files"][name]["sha256"]:
            raise ValueError(f"{HERE / name} is damaged; copy or export it again")
    call = jax.jit(jax.export.deserialize(bytearray((HERE / function["file"]).read_bytes())).call)
    with np.load(HERE / "weights.npz") as arrays:
        return functools.partial(call, jax.device_put({name: arrays[name] for name in function["weights"]}))


def predict(images: dict[str, np.ndarray]) -> np.ndarray:
    """Probabilities for arrays by modality name; what the model cannot read is a ValueError of one line."""
    scenario = "+".join(sorted(images, key=[*CARD["input"]["channels"], *images].index))
    if scenario not in CARD["functions"]:
        raise ValueError(f"cannot read {scenario or 'nothing'}; give one of {', '.join(CARD['functions'])}")
    ready = {m: np.asarray(x, np.float32) for m, x in images.items()}
    size = ready[min(ready)].shape[:-1]
    sides = CARD["tile"]["fixed"] or [side // 16 * 16 for side in size[-2:]]
    wanted = {m: (*size[:-2], *sides, CARD["input"]["channels"][m]) for m in ready}
    bad = [m for m, x in ready.items() if x.shape != wanted[m] or not np.isfinite(x).all()]
    if bad or len(size) not in (2, 3) or 0 in size:
        raise ValueError(f"wanted {wanted}, sides multiples of 16, none NaN or infinite; see {bad or size}")
    batch = {m: x.reshape(-1, *x.shape[-3:]) for m, x in ready.items()}
    return np.asarray(load(scenario)(batch)).reshape(*size, -1)


if __name__ == "__main__":
    try:
        given: dict[str, np.ndarray] = {}
        for name, named, path in (text.partition("=") for text in sys.argv[2:]):
            given |= {name: np.load(path)} if named else np.load(name)
        np.save(arr=predict(given), file=sys.argv[1])
    except Exception as e:  # one line, whatever it is
        hint = f" (jax {jax.__version__} is too old)" if [*jax.__version_info__] < CARD["needs_jax"] else ""
        sys.exit(f"run.py: error: {e}".partition("\n")[0] + hint)
