"""DIS2 in JAX: semantic segmentation of remote-sensing tiles that keeps working when a sensor is missing.

``dis2_jax.load(workdir)`` returns a trained model; everything else is in the sub-packages. Importing this
package does not import JAX: reader processes and the command line's help must not wait for it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from dis2_jax.inference.model import Model

__version__ = "0.1.0"

__all__ = ["__version__", "load"]


def load(
    workdir: str | Path, *, checkpoint: Literal["best", "last"] | int = "best", tta: bool = False
) -> Model:
    """Load a training run's model; see ``dis2_jax.inference.model.load``.

    >>> m = dis2_jax.load("runs/demo")                              # doctest: +SKIP
    >>> m.predict_proba({"rgb": rgb, "ndsm": height}).shape         # doctest: +SKIP
    (8, 256, 256, 6)
    >>> m.predict({"rgb": rgb}).shape                               # doctest: +SKIP
    (8, 256, 256)
    """
    from dis2_jax.inference import model

    return model.load(workdir, checkpoint=checkpoint, tta=tta)
