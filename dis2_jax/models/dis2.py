"""The whole network: shared encoders, a full (teacher) branch, one student branch per missing-modality scenario."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from dis2_jax.models.cflm import ClassScale, ClasswiseAttention, ClasswiseDecoder
from dis2_jax.models.encoders import Encoder, Features, UnimodalHead
from dis2_jax.models.fusion import HierarchicalFusion, Position
from dis2_jax.models.layers import AttentionPool, stat_dtype
from dis2_jax.models.views import views
from dis2_jax.schema import Fill, Scenario

Pool = Literal["attention", "mean"]
Remat = Literal["none", "decoder", "branch", "full"]
"""What a training step computes again for its gradient instead of keeping it: nothing; the classwise decoders; whole
branches; all parts of the network, encoders and heads too."""


@flax.struct.dataclass
class BranchOutput:
    """One branch's results. ``maps`` f1..f4 and ``token`` come from the fusion, the rest from CFLM and decoder."""

    logits: jax.Array
    """``[B, H, W, K]``."""
    penultimate: jax.Array
    """``[B, H, W, w]``."""
    side_logits: list[jax.Array]
    """Strides 16, 8, 4, 2, each ``[B, h, w, K]``; empty at inference."""
    maps: list[jax.Array]
    token: jax.Array
    """g: ``[B, d4]``."""
    attention: jax.Array
    """CFLM's attention ``[B, K, H/16, W/16]``."""


@flax.struct.dataclass
class StudentOutput:
    """A student branch and what its distillation and orthogonality terms compare."""

    branch: BranchOutput
    pooled: list[jax.Array]
    """Pooled f1..f3 of this student, ``[B, d_l]``."""
    compensation: dict[str, list[jax.Array]]
    """``'a_to_m'``: pooled e1..e3 of that compensation encoder."""


@flax.struct.dataclass
class DLKDOutput:
    """Everything one training step needs: teacher and students together."""

    full: BranchOutput
    full_pooled: list[jax.Array]
    unimodal: dict[str, jax.Array]
    """Logits ``[B, H, W, K]`` of each modality's own head."""
    specific: dict[str, list[jax.Array]]
    """Pooled e1..e3 of the source modalities of the students asked for."""
    students: dict[str, StudentOutput]
    """By scenario text, such as ``'rgb'``."""


class Branch(nn.Module):
    """Fusion, CFLM and classwise decoder of one scenario, with weights of their own."""

    modalities: Sequence[str]
    num_classes: int
    width: int
    tile: tuple[int, int]
    heads: int
    depth: int
    feed_forward: int
    dropout: float
    position: Position
    class_scale: ClassScale
    dtype: jax.typing.DTypeLike
    remat: Remat = "none"

    @nn.compact
    def __call__(
        self, slots: Sequence[Features], *, train: bool, side: bool, weight: jax.Array | None = None
    ) -> BranchOutput:
        """``slots[m]`` are the specific or compensation features of modality m."""
        fused = HierarchicalFusion(
            self.modalities,
            self.width,
            self.tile,
            self.heads,
            self.depth,
            self.feed_forward,
            self.dropout,
            self.position,
            self.dtype,
            name="fusion",
        )(slots, train=train, weight=weight)
        classes = ClasswiseAttention(self.num_classes, self.class_scale, self.dtype, name="cflm")(
            fused.maps[3]
        )
        decoder = ClasswiseDecoder(self.num_classes, self.width, self.dtype, name="decoder")
        again = side and self.remat == "decoder"
        decoded = run(decoder, lambda d, *given: d(*given, side=side), classes, fused, again=again)
        return BranchOutput(
            logits=decoded.logits,
            penultimate=decoded.penultimate,
            side_logits=decoded.side_logits,
            maps=fused.maps,
            token=fused.token,
            attention=classes.attention,
        )


class LevelPools(nn.Module):
    """Pool maps of levels 1-3 to vectors, for the loss terms."""

    kind: Pool = "attention"
    dtype: jax.typing.DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, maps: Sequence[jax.Array]) -> list[jax.Array]:
        """``maps[l]`` ``[B, h, w, d_l]`` -> ``[B, d_l]``."""
        if self.kind == "mean":
            return [x.astype(stat_dtype(x.dtype)).mean((1, 2)) for x in maps[:3]]
        return [AttentionPool(None, self.dtype, name=f"level{i + 1}")(x) for i, x in enumerate(maps[:3])]


class DIS2(nn.Module):
    """DIS2 for M >= 2 modalities (METHOD.md).

    Apply modes: ``__call__`` (training), ``predict``, ``branch``, and its two halves ``slots`` and ``answer``.

    ``modalities`` are (name, channels) in order; ``students`` the available-sets that get a branch; ``tile``
    (H, W) matters only to ``position='table'``. Sides of inputs are multiples of 16. With ``tta``, ``predict``
    averages over the symmetries of the grid (see ``views``), one after the other.
    """

    modalities: tuple[tuple[str, int], ...]
    num_classes: int
    students: tuple[tuple[str, ...], ...]
    tile: tuple[int, int] = (512, 512)
    width: int = 32
    heads: int = 8
    depth: int = 2
    feed_forward: int = 256
    dropout: float = 0.1
    position: Position = "table"
    class_scale: ClassScale = "sum"
    pool: Pool = "attention"
    dtype: jax.typing.DTypeLike = jnp.float32
    remat: Remat = "none"
    tta: bool = False

    def setup(self) -> None:
        """Make the parts; a part costs nothing in a mode that does not call it."""
        names = self.names
        self.encoder = {m: Encoder(self.width, self.dtype) for m in names}
        self.head = {m: UnimodalHead(self.width, self.num_classes, self.dtype) for m in names}
        self.compensation = {pair: Encoder(self.width, self.dtype) for pair in self.pairs(self.students)}
        self.full = self._branch()
        self.student = {"+".join(s): self._branch() for s in self.students}
        sources = [m for m in names if any(m in s for s in self.students)]
        self.pools_full = LevelPools(self.pool, self.dtype)
        self.pools_student = {"+".join(s): LevelPools(self.pool, self.dtype) for s in self.students}
        self.pools_specific = {m: LevelPools(self.pool, self.dtype) for m in sources}
        self.pools_compensation = {m: LevelPools(self.pool, self.dtype) for m in sources}

    def _branch(self) -> Branch:
        return Branch(
            modalities=self.names,
            num_classes=self.num_classes,
            width=self.width,
            tile=self.tile,
            heads=self.heads,
            depth=self.depth,
            feed_forward=self.feed_forward,
            dropout=self.dropout,
            position=self.position,
            class_scale=self.class_scale,
            dtype=self.dtype,
            remat=self.remat,
        )

    @property
    def names(self) -> tuple[str, ...]:
        """Modality names in order."""
        return tuple(name for name, _ in self.modalities)

    @property
    def scenarios(self) -> tuple[Scenario, ...]:
        """What the model can answer: the full set, then its students."""
        return (Scenario(self.names), *(Scenario(s) for s in self.students))

    def pairs(self, students: Iterable[Sequence[str]]) -> tuple[str, ...]:
        """Compensation encoders ``'a_to_m'`` that these students look through: a available, m missing."""
        return tuple(
            f"{a}_to_{m}"
            for a in self.names
            for m in self.names
            if any(a in s and m not in s for s in students)
        )

    def used_modules(self, students: Iterable[Scenario]) -> dict[str, list[tuple[str, ...]]]:
        """Top-level parameter names that a training step with these students can change, and what it takes.

        The values are sets of modalities: a tile that has all of one of them acts on the module. The full branch's
        pools are not named: they stand behind a stop-gradient (METHOD.md, weakness 3).
        """
        used: dict[str, list[tuple[str, ...]]] = {"full": [self.names]}
        for m in self.names:
            used |= {f"encoder_{m}": [(m,)], f"head_{m}": [(m,)]}
        for s in (s.available for s in students):
            used |= {f"student_{'+'.join(s)}": [s], f"pools_student_{'+'.join(s)}": [self.names]}
            for name in [f"compensation_{pair}" for pair in self.pairs([s])] + [
                f"{part}_{m}" for m in s for part in ("pools_specific", "pools_compensation")
            ]:
                used.setdefault(name, []).append(s)
        return used

    def __call__(
        self,
        images: Mapping[str, jax.Array],
        *,
        students: Sequence[Scenario],
        train: bool,
        available: jax.Array | None = None,
    ) -> DLKDOutput:
        """Full branch and the given students together, sharing the encoders.

        ``images[m]`` is ``[B, H, W, C_m]``; ``available`` ``[B, M]`` bool says which of them are real in each
        tile. What stands in for an absent modality is replaced by zeros, and its tile is left out of every
        batch statistic that it would touch, so its content changes nothing.
        """
        there = None if available is None else available.astype(bool)
        count = self._counts(there)
        specific = {m: self._encode(m, images[m], train=train, weight=count([m])) for m in self.names}
        unimodal = {m: self._head(m, specific[m], train=train, weight=count([m])) for m in self.names}
        full = self._teach(
            self.full, [specific[m] for m in self.names], train=train, weight=count(self.names)
        )
        outputs = {}
        for s in students:
            made = self._compensate(s, images, train=train, count=count)
            branch = self._teach(
                self.student[str(s)], self._slots(s, specific, made), train=train, weight=count(s.available)
            )
            outputs[str(s)] = StudentOutput(
                branch=branch,
                pooled=self.pools_student[str(s)](branch.maps),
                compensation={p: self.pools_compensation[p.split("_to_")[0]](e) for p, e in made.items()},
            )
        sources = [m for m in self.names if any(m in s.available for s in students)]
        return DLKDOutput(
            full=full,
            full_pooled=self.pools_full(full.maps),
            unimodal=unimodal,
            specific={m: self.pools_specific[m](specific[m]) for m in sources},
            students=outputs,
        )

    def branch(self, images: Mapping[str, jax.Array], *, scenario: Scenario) -> BranchOutput:
        """One scenario with running statistics; ``images`` holds only its available modalities."""
        return self.answer(self.slots(images, scenario=scenario), scenario=scenario)

    def slots(
        self, images: Mapping[str, jax.Array], *, scenario: Scenario, fill: Fill = "compensation"
    ) -> list[Features]:
        """Return e1..e4 of every modality's slot in a scenario, with running statistics; no branch runs.

        ``images`` holds the available modalities; with ``fill='specific'`` all of them. ``fill`` says what the
        missing slots hold: anything but ``'compensation'`` is for diagnosis, the branch was never trained on it.
        """
        real = self.names if fill == "specific" else scenario.available
        specific = {m: self._encode(m, images[m], train=False) for m in real}
        if fill == "zeros":
            nothing = [jnp.zeros_like(e) for e in specific[scenario.available[0]]]
            specific = {m: specific.get(m, nothing) for m in self.names}
        if len(specific) == len(self.names):
            return [specific[m] for m in self.names]
        made = self._compensate(scenario, images, train=False, count=self._counts(None))
        return self._slots(scenario, specific, made)

    def answer(self, slots: Sequence[Features], *, scenario: Scenario) -> BranchOutput:
        """Run the scenario's branch, with running statistics, on what ``slots`` returned."""
        whole = len(scenario.available) == len(self.names)
        branch = self.full if whole else self.student[str(scenario)]
        return branch(list(slots), train=False, side=False)

    def predict(self, images: Mapping[str, jax.Array], *, scenario: Scenario) -> jax.Array:
        """Class probabilities ``[B, H, W, K]`` float32 of one scenario."""
        if not self.tta:
            return self._probabilities(images, scenario)
        batch, height, width, _ = next(iter(images.values())).shape
        seen = views((height, width))

        def add(dis2: DIS2, total: jax.Array, k: jax.Array) -> tuple[jax.Array, None]:
            turned = {m: jax.lax.switch(k, [v.of for v in seen], x) for m, x in images.items()}
            p = dis2._probabilities(turned, scenario)
            return total + jax.lax.switch(k, [v.back for v in seen], p), None

        # A loop: compiled once, and one view's activations at a time.
        loop = nn.scan(add, variable_broadcast=True, split_rngs={})
        total = jnp.zeros((batch, height, width, self.num_classes), stat_dtype(self.dtype))
        return loop(self, total, jnp.arange(len(seen)))[0] / len(seen)

    def _probabilities(self, images: Mapping[str, jax.Array], scenario: Scenario) -> jax.Array:
        logits = self.branch(images, scenario=scenario).logits
        return nn.softmax(logits.astype(stat_dtype(logits.dtype)), axis=-1)

    def _encode(self, name: str, x: jax.Array, *, train: bool, weight: jax.Array | None = None) -> Features:
        return self._part(self.encoder[name], _hide(x, weight).astype(self.dtype), train=train, weight=weight)

    def _head(self, name: str, e: Features, *, train: bool, weight: jax.Array | None) -> jax.Array:
        return self._part(self.head[name], e, train=train, weight=weight)

    def _part(self, part: nn.Module, x: Any, *, train: bool, weight: jax.Array | None) -> Any:
        """Run an encoder or a head."""
        again = train and self.remat == "full"
        return run(part, lambda p, x, w: p(x, train=train, weight=w), x, weight, again=again)

    def _teach(
        self, branch: Branch, slots: list[Features], *, train: bool, weight: jax.Array | None
    ) -> BranchOutput:
        """Run a branch with its side logits."""
        again = train and self.remat in ("branch", "full")
        return run(branch, lambda b, x, w: b(x, train=train, side=True, weight=w), slots, weight, again=again)

    def _compensate(
        self, s: Scenario, images: Mapping[str, jax.Array], *, train: bool, count: Any
    ) -> dict[str, Features]:
        """Features of every (available -> missing) encoder of this scenario."""
        made = {}
        for pair in self.pairs([s.available]):
            x = _hide(images[pair.split("_to_")[0]], count(s.available)).astype(self.dtype)
            made[pair] = self._part(self.compensation[pair], x, train=train, weight=count(s.available))
        return made

    def _slots(
        self, s: Scenario, specific: Mapping[str, Features], made: Mapping[str, Features]
    ) -> list[Features]:
        """Each modality's slot: its specific features, or the mean over what the available ones make for it."""
        slots = []
        for m in self.names:
            if m in s.available:
                slots.append(specific[m])
                continue
            stand_ins = [made[f"{a}_to_{m}"] for a in s.available]
            slots.append([sum(level) / len(stand_ins) for level in zip(*stand_ins, strict=True)])
        return slots

    def _counts(self, there: jax.Array | None) -> Any:
        """Return a function: modality names -> ``[B]`` bool, True where all of them are there (None: everywhere)."""

        def count(names: Sequence[str]) -> jax.Array | None:
            if there is None:
                return None
            return jnp.stack([there[:, self.names.index(m)] for m in names]).all(0)

        return count


def run(part: nn.Module, call: Any, *given: Any, again: bool) -> Any:
    """``call(part, *given)``; with ``again`` only ``given`` is kept for the gradient, and the call repeated."""
    return nn.remat(call)(part, *given) if again else call(part, *given)


def _hide(x: jax.Array, weight: jax.Array | None) -> jax.Array:
    """Zeros instead of the samples that do not count."""
    return x if weight is None else jnp.where(weight[:, None, None, None], x, 0)
