"""``dis2_jax.load``: a trained model that predicts from whatever modalities it is given."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import jax
import numpy as np
from numpy.typing import ArrayLike

from dis2_jax.data.normalize import Normalization, normalize
from dis2_jax.evaluation.evaluate import check_size
from dis2_jax.models.dis2 import DIS2
from dis2_jax.schema import DatasetCard, Dis2Error, Modality, Scenario, nearest
from dis2_jax.training.checkpoint import load_eval_variables

if TYPE_CHECKING:
    from dis2_jax.inference.inputs import ModalityFile
    from dis2_jax.inference.scene import SceneOptions, SceneResult


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Model:
    """A trained DIS2 with its dataset card. Make one with ``dis2_jax.load``.

    Tiles may have any height and width that are multiples of 16; a model with learned position tables
    (``position='table'``) takes its training size only.
    """

    network: DIS2
    variables: Mapping[str, Any]
    card: DatasetCard
    normalization: Normalization = "card"
    step: int | None = None

    def __repr__(self) -> str:
        inputs = ", ".join(f"{m.name}[{m.channels}]" for m in self.card.modalities)
        answers = ", ".join(str(s) for s in self.scenarios)
        return f"<DIS2 of {self.card.name}: reads {inputs}; {len(self.classes)} classes; answers {answers}>"

    @property
    def modalities(self) -> tuple[str, ...]:
        """Names of everything that the model can read; ``card.modalities`` has channels, units and bands."""
        return self.card.modality_names

    @property
    def scenarios(self) -> tuple[Scenario, ...]:
        """Modality sets that the model answers: the full set, then one per student branch."""
        return self.network.scenarios

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names; ``predict`` returns positions in here."""
        return self.card.legend.names

    def predict_proba(self, images: Mapping[str, ArrayLike]) -> np.ndarray:
        """Class probabilities, float32 ``[B, H, W, K]``, of the branch that fits the modalities given.

        The whole batch runs at once; each modality set and each shape compiles once.

        Args:
            images: modality name -> ``[B, H, W, C]`` of any real dtype in physical units, as stored in the
                dataset. A missing modality is left out. One tile ``[H, W, C]`` gives ``[H, W, K]``.

        Raises:
            Dis2Error: a modality set without a branch, sizes that disagree or that the model cannot read, a
                wrong channel count, or values that are NaN or infinite.
        """
        if not isinstance(images, Mapping):
            names = ", ".join(f"{m!r}: ..." for m in self.modalities)
            raise Dis2Error(f"give arrays by modality, {{{names}}}, not {type(images).__name__}")
        scenario = self.scenario_of(images)
        arrays = {m: self._read(m, images[m]) for m in scenario.available}
        single = self._check_shapes(arrays)
        ready = {m: x[None] if single else x for m, x in arrays.items()}
        out = np.asarray(_probabilities(self.variables, ready, network=self.network, branch=scenario))
        if not np.isfinite(out).all():
            raise Dis2Error(
                "the model's output is not finite: its weights are damaged, load another checkpoint"
            )
        return (out[0] if single else out).astype(np.float32)

    def predict(self, images: Mapping[str, ArrayLike]) -> np.ndarray:
        """Most probable class, int32 ``[B, H, W]`` (or ``[H, W]``). Input and errors as ``predict_proba``."""
        return self.predict_proba(images).argmax(axis=-1).astype(np.int32)

    def predict_scene(
        self,
        images: Mapping[str, str | Path | ModalityFile],
        *,
        out: str | Path,
        also: Mapping[str, str | Path | None] | Sequence[str] = (),
        options: SceneOptions | None = None,
        on_windows: Callable[[int, int], None] | None = None,
        on_note: Callable[[str], None] | None = None,
    ) -> SceneResult:
        """Map a whole scene of any size from raster files; see ``dis2 predict``.

        Args:
            images: modality name -> file; ``inference.inputs.ModalityFile`` chooses bands or a nodata value.
            out: the class map, a GeoTIFF on the grid of the first file.
            also: further products beside it, such as ``("confidence", "quicklook")``, or product -> path.
            options: window, overlap, batch, device and how nodata is treated.
            on_windows: called with (windows done, windows in all).
            on_note: called with each of the result's notes as soon as there is one.

        Raises:
            Dis2Error: bad input or a disk that refuses; older outputs are then untouched.
        """
        from dis2_jax.inference.inputs import ModalityFile
        from dis2_jax.inference.products import output_paths
        from dis2_jax.inference.scene import SceneOptions, predict_scene

        files = {m: f if isinstance(f, ModalityFile) else ModalityFile(Path(f)) for m, f in images.items()}
        paths = output_paths(out, also if isinstance(also, Mapping) else dict.fromkeys(also))
        return predict_scene(
            self, files, paths, options or SceneOptions(), on_windows=on_windows, on_note=on_note
        )

    @functools.cached_property
    def fingerprint(self) -> str:
        """Digest of the weights and of everything else that decides an answer."""
        digest = hashlib.blake2b(digest_size=8)
        digest.update(f"{self.network} {self.card.to_json()} {self.normalization}".encode())
        for leaf in jax.tree.leaves(self.variables):
            digest.update(np.asarray(leaf).tobytes())
        return digest.hexdigest()

    def scenario_of(self, names: Iterable[str]) -> Scenario:
        """Return the branch for a set of modalities. ``Dis2Error`` tells the sets that have one."""
        images = tuple(names)
        supported = ", ".join(str(s) for s in self.scenarios)
        for name in images:
            if name not in self.modalities:
                close = nearest(str(name), self.modalities)
                raise Dis2Error(f"no modality {name!r}{close}; give one of these sets: {supported}")
        given = Scenario(tuple(m for m in self.modalities if m in images))
        if given not in self.scenarios:
            text = f"no branch for {given} alone" if images else "no modality given"
            raise Dis2Error(f"{text}; give one of these sets: {supported}")
        return given

    def _read(self, name: str, values: ArrayLike) -> np.ndarray:
        """One modality as a normalised float32 array, checked by itself."""
        modality = self.card.modality(name)
        x = np.asarray(values)
        if x.dtype.kind not in "iuf":
            raise Dis2Error(f"modality {name!r}: an array of numbers is wanted, not {x.dtype}")
        _check_layout(x, modality)
        with np.errstate(over="ignore", invalid="ignore"):
            ready = normalize(x, modality, self.normalization)
        bad = ready.size - int(np.isfinite(ready).sum())
        if bad:
            raise Dis2Error(
                f"modality {name!r}: {bad} of {ready.size} values are NaN or infinite; fill them, or leave"
                " the modality out"
            )
        return ready

    def _check_shapes(self, arrays: Mapping[str, np.ndarray]) -> bool:
        """Check the modalities against each other and the model; True for one tile without a batch axis."""
        sizes = {m: x.shape[:-1] for m, x in arrays.items()}
        if len(set(sizes.values())) > 1:
            told = ", ".join(f"{m} {'x'.join(map(str, s))}" for m, s in sizes.items())
            raise Dis2Error(f"modalities disagree in size: {told}; bring them to one grid")
        size = next(iter(sizes.values()))
        if 0 in size:
            raise Dis2Error(f"images of size {'x'.join(map(str, size))} hold no pixel")
        check_size(self.network, (size[-2], size[-1]))
        return len(size) == 2


def load(
    workdir: str | Path, *, checkpoint: Literal["best", "last"] | int = "best", tta: bool = False
) -> Model:
    """Load a training run's model for prediction.

    Args:
        workdir: what ``dis2 train --workdir`` wrote.
        checkpoint: ``best`` by validation, ``last``, or a step.
        tta: test-time augmentation: average over the image turned and mirrored (square ones 8 ways, others 4).

    Raises:
        Dis2Error: no such workdir or checkpoint, or a damaged one.
    """
    run = load_eval_variables(workdir, checkpoint)
    return Model(
        network=run.model.clone(tta=tta),
        variables=run.variables,
        card=run.card,
        normalization=run.config.data.normalize,
        step=run.step,
    )


@functools.partial(jax.jit, static_argnames=("network", "branch"))
def _probabilities(
    variables: Mapping[str, Any], images: Mapping[str, jax.Array], *, network: DIS2, branch: Scenario
) -> Any:
    return network.apply(variables, images, scenario=branch, method="predict")


def _check_layout(x: np.ndarray, modality: Modality) -> None:
    wanted = f"[B, H, W, {modality.channels}] or [H, W, {modality.channels}]"
    if x.ndim not in (3, 4):
        hint = "; add the channel axis with x[..., None]" if x.ndim == 2 and modality.channels == 1 else ""
        raise Dis2Error(f"modality {modality.name!r}: shape {x.shape} where {wanted} is wanted{hint}")
    if x.shape[-1] != modality.channels:
        raise Dis2Error(
            f"modality {modality.name!r}: {x.shape[-1]} channels where it has {modality.channels}:"
            f" shape {x.shape}, wanted {wanted}"
        )
