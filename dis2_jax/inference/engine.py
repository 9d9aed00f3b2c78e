"""Runs windows through one branch of a model: compiled once per branch, the same bits whatever the batch."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dis2_jax.models.dis2 import DIS2
from dis2_jax.schema import Dis2Error, Scenario

_BATCH_BYTES = 64 * 2**20
"""Inputs and outputs of a batch by default stay below this."""
MAX_BATCH = 64
_LEAST_SLOTS = 2
"""With one slot XLA sees through the loop over windows and fuses otherwise: other last bits than larger batches."""


def pick_device(name: str | None) -> jax.Device:
    """Read ``cpu``, ``gpu``, ``tpu`` or ``gpu:1``; None: JAX's first. ``Dis2Error`` lists what is there."""
    if name is None:
        return jax.local_devices()[0]
    kind, _, number = name.partition(":")
    try:
        devices = jax.local_devices(backend=kind)
    except RuntimeError as e:
        there = ", ".join(sorted({d.platform for d in jax.devices()} | {"cpu"}))
        raise Dis2Error(f"--device {name}: not on this machine; there is {there}") from e
    index = number or "0"
    if not index.isdecimal() or int(index) >= len(devices):
        raise Dis2Error(f"--device {name}: there are {len(devices)} {kind} devices, counted from 0")
    return devices[int(index)]


def default_batch(window: tuple[int, int], *, channels: int, classes: int) -> int:
    """Windows per call whose inputs and outputs stay small; activations are one window's in any case."""
    size = 4 * window[0] * window[1] * (channels + classes)
    return int(np.clip(_BATCH_BYTES // size, 1, MAX_BATCH))


class Engine:
    """One model on one device with one window size.

    Windows of a batch run one after the other inside one compiled call. Running them side by side would change
    the last bits with the batch size; it gained nothing on CPU, where this was measured.
    """

    def __init__(
        self,
        network: DIS2,
        variables: Mapping[str, Any],
        *,
        window: tuple[int, int],
        batch: int,
        device: jax.Device,
    ) -> None:
        self.window, self.batch = window, batch
        self._network, self._device = network, device
        self._variables = jax.device_put(variables, device)

    def start(self, scenario: Scenario, windows: Sequence[Mapping[str, np.ndarray]]) -> jax.Array:
        """Start up to ``batch`` windows ``{modality: [h, w, C]}``; the device may still compute on return."""
        channels = dict(self._network.modalities)
        images = {}
        for m in scenario.available:
            x = np.zeros((max(self.batch, _LEAST_SLOTS), *self.window, channels[m]), np.float32)
            for i, w in enumerate(windows):
                x[i] = w[m]
            images[m] = x
        with self._told():
            placed = jax.device_put(images, self._device)
            count = jax.device_put(np.int32(len(windows)), self._device)
            return _probabilities(self._variables, placed, count, network=self._network, branch=scenario)

    def finish(self, started: jax.Array, count: int) -> np.ndarray:
        """Wait for the first ``count`` windows: probabilities float32 ``[count, h, w, K]``."""
        with self._told():
            found = np.asarray(started)[:count]
        if not np.isfinite(found).all():
            raise Dis2Error(
                "the model's output is not finite: its weights are damaged, load another checkpoint"
            )
        return found

    def _told(self) -> _OutOfMemory:
        return _OutOfMemory(self.window)


class _OutOfMemory:
    """Says in one line that a window is too large for the device."""

    def __init__(self, window: tuple[int, int]) -> None:
        self._window = window

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, value: BaseException | None, trace: Any) -> None:
        if isinstance(value, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" in str(value):
            height, width = self._window
            raise Dis2Error(
                f"a window of {height} x {width} pixels does not fit the device's memory: choose a smaller"
                " --window"
            ) from value


@functools.partial(jax.jit, static_argnames=("network", "branch"))
def _probabilities(
    variables: Mapping[str, Any],
    images: Mapping[str, jax.Array],
    count: jax.Array,
    *,
    network: DIS2,
    branch: Scenario,
) -> jax.Array:
    """Probabilities ``[B, h, w, K]`` of the first ``count`` windows of ``images[m]`` ``[B, h, w, C]``."""
    size = next(iter(images.values())).shape[:3]

    def one(i: jax.Array, done: jax.Array) -> jax.Array:
        window = {m: jax.lax.dynamic_index_in_dim(x, i) for m, x in images.items()}
        p: Any = network.apply(variables, window, scenario=branch, method="predict")
        return jax.lax.dynamic_update_slice_in_dim(done, p.astype(jnp.float32), i, axis=0)

    return jax.lax.fori_loop(0, count, one, jnp.zeros((*size, network.num_classes), jnp.float32))
