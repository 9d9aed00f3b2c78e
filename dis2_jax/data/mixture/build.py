"""``dis2 data mix``: bring datasets under one card.

Tiles are normalised with joint statistics, those of the mixture's training batches: one card then says how any
input of a modality is read, at prediction too. Modalities that share a name therefore must be the same product.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from dis2_jax.data.builders.cutting import Rect, count_tiles
from dis2_jax.data.builders.tiles import check_tile_size
from dis2_jax.data.mixture.parser import IGNORED, MemberRecipe, MixtureRecipe, load_recipe
from dis2_jax.data.mixture.recipe import MIXTURE_FILE, Member, Mixture, card_digest, member_split
from dis2_jax.data.normalize import statistics
from dis2_jax.data.prepare import Prepared, check_out
from dis2_jax.files import whole_folder, write_whole
from dis2_jax.schema import CARD_FILE, IGNORE, ClassLegend, DatasetCard, Dis2Error, Modality, nearest


@dataclasses.dataclass(frozen=True)
class _Loaded:
    """A member with its card. ``modalities``: name in the mixture -> the member's own modality."""

    recipe: MemberRecipe
    card: DatasetCard
    modalities: dict[str, Modality]

    @property
    def name(self) -> str:
        return self.recipe.name

    def joint_class(self, own: str) -> str:
        """Name in the mixture of one of the member's classes."""
        return self.recipe.classes.get(own, own)


def mix_datasets(recipe_file: str | Path, out: str | Path, *, overwrite: bool = False) -> Prepared:
    """Write a dataset folder that reads its tiles from the members of a TOML description.

    Raises ``Dis2Error`` naming the key or the member: a dataset that is missing or is a mixture itself, names that
    it does not have, modalities of one name that differ, a class that no member has, a tile that does not fit.
    """
    check_out(Path(out), overwrite=overwrite)
    recipe = load_recipe(recipe_file)
    try:
        members = [_load(m) for m in recipe.members]
        legend = _legend(recipe, members)
        tile = _tile(recipe, members)
        out = Path(out).absolute()
        mixture = Mixture(tuple(_member(m, legend, tile, out) for m in members))
        modalities = _modalities(recipe, members, [m.weight for m in mixture.members])
        card = _card(recipe, members, legend, tile, modalities)
    except Dis2Error as e:
        raise Dis2Error(f"{recipe.path}: {e}") from e
    with whole_folder(out) as folder:
        write_whole(folder / CARD_FILE, card.to_json())
        write_whole(folder / MIXTURE_FILE, mixture.to_json())
    return Prepared(card, tuple(_notes(members, mixture, legend, modalities)))


def _load(recipe: MemberRecipe) -> _Loaded:
    card = DatasetCard.load(recipe.dir)
    if (recipe.dir / MIXTURE_FILE).is_file():
        raise Dis2Error(f"member {recipe.name!r} is a mixture itself: name its members here")
    renamed = {there: joint for joint, there in recipe.modalities.items()}
    for there in renamed:
        card.modality(there)
    own = {renamed.get(m.name, m.name): m for m in card.modalities}
    if len(own) < len(card.modalities):
        raise Dis2Error(f"member {recipe.name!r}: two of its modalities get one name")
    for name in recipe.classes:
        if name not in card.legend.names:
            raise Dis2Error(
                f"member {recipe.name!r} has no class {name!r}{nearest(name, card.legend.names)}; it has "
                f"{', '.join(card.legend.names)}"
            )
    return _Loaded(recipe, card, own)


def _legend(recipe: MixtureRecipe, members: Sequence[_Loaded]) -> ClassLegend:
    """The classes wanted, or all that there are; colours from the recipe, else from the first member that has one."""
    colors: dict[str, tuple[int, int, int]] = {}
    for m in members:
        for own, color in zip(m.card.legend.names, m.card.legend.colors, strict=True):
            if m.joint_class(own) != IGNORED:
                colors.setdefault(m.joint_class(own), color)
    for name in recipe.classes:
        if name not in colors:
            raise Dis2Error(
                f"no member has a class {name!r}{nearest(name, colors)}; there are {', '.join(colors)} "
                "(map one to it in [member.classes])"
            )
    names = tuple(recipe.classes) or tuple(colors)
    return ClassLegend(names, tuple(recipe.classes.get(n) or colors[n] for n in names))


def _tile(recipe: MixtureRecipe, members: Sequence[_Loaded]) -> tuple[int, int]:
    smallest = tuple(min(m.card.tile[i] for m in members) for i in (0, 1))
    tile = recipe.tile or (smallest[0], smallest[1])
    if tile[0] > smallest[0] or tile[1] > smallest[1]:
        raise Dis2Error(
            f"tile = {list(tile)} is larger than the smallest tile of a member, {list(smallest)}: lower it, or prepare "
            "that member with larger tiles"
        )
    check_tile_size(tile)
    return tile


def _member(m: _Loaded, legend: ClassLegend, tile: tuple[int, int], out: Path) -> Member:
    joint = [m.joint_class(own) for own in m.card.legend.names]
    size = m.card.splits.get("train", 0) * m.card.tile[0] * m.card.tile[1] / (tile[0] * tile[1])
    return Member(
        name=m.name,
        dir=os.path.relpath(m.recipe.dir.resolve(), out),
        weight=m.recipe.weight or size,
        modalities={joint: own.name for joint, own in m.modalities.items()},
        classes=tuple(legend.names.index(n) if n in legend.names else IGNORE for n in joint),
        card=card_digest(m.recipe.dir),
    )


def _modalities(
    recipe: MixtureRecipe, members: Sequence[_Loaded], weights: Sequence[float]
) -> tuple[Modality, ...]:
    names = list(dict.fromkeys(name for m in members for name in m.modalities))
    for name in recipe.modalities:
        if name not in names:
            raise Dis2Error(
                f"no member has a modality {name!r}{nearest(name, names)}; there are {', '.join(names)}"
            )
    found = []
    for name in recipe.modalities or names:
        own = {
            m.name: (m.modalities[name], w)
            for m, w in zip(members, weights, strict=True)
            if name in m.modalities
        }
        found.append(_joint(name, own))
    return tuple(found)


def _joint(name: str, own: Mapping[str, tuple[Modality, float]]) -> Modality:
    """One modality out of the members'; statistics of the pixels of a mixed batch."""
    (first, (a, _)), *others = own.items()
    for member, (b, _) in others:
        for what in ("channels", "kind", "unit", "bands"):
            x, y = getattr(a, what), getattr(b, what)
            if x != y and x and y:
                raise Dis2Error(
                    f"modality {name!r} is not the same in {first!r} and {member!r} ({what}: {x} and {y}): give one "
                    "another name in [member.modalities]"
                )
    for m, _ in own.values():
        statistics(m)  # refuses a card without them
    if not others:
        return dataclasses.replace(a, name=name)
    means, deviations = (np.array([getattr(m, k) for m, _ in own.values()]) for k in ("mean", "std"))
    weights = np.array([w for _, w in own.values()])
    share = weights / weights.sum()
    mean = share @ means
    variance = share @ (np.square(deviations) + np.square(means)) - np.square(mean)
    return dataclasses.replace(
        a,
        name=name,
        unit=next((m.unit for m, _ in own.values() if m.unit), ""),
        bands=next((m.bands for m, _ in own.values() if m.bands), ()),
        mean=tuple(mean.tolist()),
        std=tuple(np.sqrt(np.maximum(variance, 0)).tolist()),
    )


def _card(
    recipe: MixtureRecipe,
    members: Sequence[_Loaded],
    legend: ClassLegend,
    tile: tuple[int, int],
    modalities: tuple[Modality, ...],
) -> DatasetCard:
    splits: dict[str, int] = {}
    single: dict[str, int] = {}
    for m in members:
        per_tile = count_tiles(Rect(0, 0, *m.card.tile), tile)
        for split, tiles in m.card.splits.items():
            splits[split] = splits.get(split, 0) + tiles * per_tile
            single[member_split(split, m.name)] = tiles * per_tile
    sizes = {m.card.ground_sampling_distance for m in members}
    return DatasetCard(
        name=recipe.name,
        modalities=modalities,
        legend=legend,
        tile=tile,
        splits=splits | single,
        description="mixture of " + ", ".join(f"{m.name} ({m.card.name})" for m in members),
        source="; ".join(dict.fromkeys(m.card.source for m in members if m.card.source)),
        licence="; ".join(dict.fromkeys(m.card.licence for m in members if m.card.licence)),
        ground_sampling_distance=sizes.pop() if len(sizes) == 1 else None,
    )


def _notes(
    members: Sequence[_Loaded], mixture: Mixture, legend: ClassLegend, modalities: Sequence[Modality]
) -> list[str]:
    """What the user should see before training: shares, what is missing where, what is ignored, and scale."""
    total = sum(m.weight for m in mixture.members)
    notes = []
    for loaded, m in zip(members, mixture.members, strict=True):
        absent = [j.name for j in modalities if j.name not in m.modalities]
        names = loaded.card.legend.names
        ignored = [n for n, k in zip(names, m.classes, strict=True) if k == IGNORE]
        notes.append(
            f"{m.name}: {100 * m.weight / total:.3g} % of a batch; absent: {', '.join(absent) or 'nothing'}; "
            f"ignored classes: {', '.join(ignored) or 'none'}"
        )
    if not any(len(m.modalities) == len(modalities) for m in mixture.members):
        own = ("+".join(j.name for j in modalities if j.name in m.modalities) for m in mixture.members)
        sets = ",".join(dict.fromkeys(own))
        notes.append(
            f"no member has every modality, so no tile trains the full branch: give the members' sets students, "
            f"model.students = {sets!r}"
        )
    return notes + [n for j in modalities if (n := _far_apart(j.name, members))]


def _far_apart(name: str, members: Sequence[_Loaded]) -> str:
    """Warn of one modality in two scales: reflectance in one member, 8-bit numbers in the other."""
    pairs = [(m.name, *statistics(m.modalities[name])) for m in members if name in m.modalities]
    for a, mean_a, std_a in pairs:
        for b, mean_b, std_b in pairs:
            if (mean_b - mean_a > 5 * np.maximum(std_a, std_b)).any() or (std_b > 10 * std_a).any():
                return (
                    f"{name} is in another range in {b} (mean {mean_b.mean():.3g}, std {std_b.mean():.3g}) than in {a} "
                    f"({mean_a.mean():.3g}, {std_a.mean():.3g}): if it is another product, give it another name"
                )
    return ""
