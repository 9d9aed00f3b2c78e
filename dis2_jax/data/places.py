"""Where the tiles of a prepared dataset lie in the scenes that they were cut from.

A file beside the card, ``tile_places.json``: per split its scenes and, in record order, one line ``[scene, row,
col, height, width]`` per tile. Evaluation stitches scenes with it; nothing else reads it, and datasets whose
tiles are no parts of scenes, or that an older version prepared, do without.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from dis2_jax.files import write_whole
from dis2_jax.schema import Dis2Error

PLACES_FILE = "tile_places.json"


@dataclasses.dataclass(frozen=True)
class Place:
    """Pixels ``row .. row + height``, ``col .. col + width`` of ``scene``: the tile without its padding.

    The tile's own upper left corner is (``row``, ``col``); what lies below or right of the place is padding.
    """

    scene: str
    row: int
    col: int
    height: int
    width: int


def write_places(places: Mapping[str, Sequence[Place]], folder: str | Path) -> None:
    """Write the places of each split (in record order) to a dataset folder; nothing when there are none."""
    if not any(places.values()):
        return
    splits = {}
    for split, own in places.items():
        names = list(dict.fromkeys(p.scene for p in own))
        number = {name: i for i, name in enumerate(names)}
        tiles = [[number[p.scene], p.row, p.col, p.height, p.width] for p in own]
        splits[split] = {"scenes": names, "tiles": tiles}
    write_whole(Path(folder) / PLACES_FILE, json.dumps(splits, separators=(",", ":")))


def load_places(folder: str | Path, split: str, *, tiles: int) -> tuple[Place, ...] | None:
    """Read the places of a split's ``tiles`` records, or None when the dataset does not hold them.

    Raises ``Dis2Error`` for a file that cannot be read or has another number of tiles.
    """
    path = Path(folder) / PLACES_FILE
    if not path.is_file():
        return None
    way_out = "prepare the dataset again, or delete the file to do without scenes"
    try:
        own = json.loads(path.read_text()).get(split)
        if not own or not own["tiles"]:
            return None
        places = tuple(
            Place(own["scenes"][scene], int(row), int(col), int(height), int(width))
            for scene, row, col, height, width in own["tiles"]
        )
    except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError) as e:
        raise Dis2Error(f"{path} cannot be read ({type(e).__name__}: {e}): {way_out}") from e
    if len(places) != tiles:
        raise Dis2Error(f"{path} holds {len(places)} tiles of split {split!r}, not {tiles}: {way_out}")
    return places


def reading_order(places: Sequence[Place]) -> list[int]:
    """Record numbers scene by scene, in each by row and column: whatever order the records are stored in."""
    return sorted(range(len(places)), key=lambda i: (places[i].scene, places[i].row, places[i].col, i))


def any_overlap(places: Sequence[Place]) -> bool:
    """Whether two tiles of one scene share a pixel."""
    ordered = [places[i] for i in reading_order(places)]
    for _, own in itertools.groupby(ordered, key=lambda p: p.scene):
        open_tiles: list[Place] = []
        for p in own:
            open_tiles = [q for q in open_tiles if q.row + q.height > p.row]
            if any(p.col < q.col + q.width and q.col < p.col + p.width for q in open_tiles):
                return True
            open_tiles.append(p)
    return False
