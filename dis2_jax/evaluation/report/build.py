"""From a workdir to ``report.html`` and the figures beside it."""

from __future__ import annotations

import dataclasses
import datetime
import importlib.metadata
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from dis2_jax.evaluation.report.blocks import FigureBlock, MissingBlock, Section, TileBlock
from dis2_jax.evaluation.report.drawing.render import Rendered
from dis2_jax.evaluation.report.drawing.style import drawing
from dis2_jax.evaluation.report.inputs import Checkpoint, Inputs, read_inputs
from dis2_jax.evaluation.report.page import Head, write_page
from dis2_jax.evaluation.report.sections.calibration import calibration
from dis2_jax.evaluation.report.sections.configuration import configuration
from dis2_jax.evaluation.report.sections.dataset import dataset
from dis2_jax.evaluation.report.sections.degraded import degraded
from dis2_jax.evaluation.report.sections.diagnostics import diagnostics
from dis2_jax.evaluation.report.sections.headline import headline
from dis2_jax.evaluation.report.sections.provenance import provenance
from dis2_jax.evaluation.report.sections.scores import confusion, scores
from dis2_jax.evaluation.report.sections.text import listing, ratio
from dis2_jax.evaluation.report.sections.tiles import tiles
from dis2_jax.evaluation.report.sections.training import training
from dis2_jax.files import write_whole
from dis2_jax.schema import Dis2Error

INDEX = "index.json"


@dataclasses.dataclass(frozen=True)
class ReportOptions:
    """What to report. None: the run's own choice."""

    out: str | None = None
    """Default: ``<workdir>/report.html``."""
    split: str | None = None
    checkpoint: Checkpoint = "best"
    tiles: int = 2
    """Tiles of each group (best, typical, worst); 0: none, and no model runs."""


@dataclasses.dataclass(frozen=True)
class BuiltReport:
    """Where it lies: the page, the folder with figures, and what is missing, in a line each."""

    page: Path
    figures: Path
    missing: tuple[str, ...]


def build_report(
    workdir: str | Path,
    options: ReportOptions,
    *,
    say: Callable[[str], None] = lambda _: None,
    on_batch: Callable[[int, int], None] | None = None,
) -> BuiltReport:
    """Write the page, and its figures as PNG and SVG into ``<page's name>_figures`` beside it.

    Each file is written whole or not at all; figures of an older report that are no more are removed.

    Raises:
        Dis2Error: bad options, whatever ``read_inputs`` raises, or a place that cannot be written.
    """
    if options.tiles < 0:
        raise Dis2Error(f"--tiles {options.tiles}: it must be at least 0")
    page = Path(options.out) if options.out else Path(workdir) / "report.html"
    if page.is_dir() or page.suffix.lower() not in (".html", ".htm"):
        raise Dis2Error(f"--out {page}: name a file that ends in .html")
    inputs = read_inputs(
        workdir, split=options.split, checkpoint=options.checkpoint, say=say, on_batch=on_batch
    )
    say("drawing ...")
    with drawing():
        sections = make_sections(inputs, tile_count=options.tiles)
    text = write_page(_head(inputs), sections)
    folder = page.with_name(f"{page.stem}_figures")
    try:
        page.parent.mkdir(parents=True, exist_ok=True)
        _write_figures(folder, sections)
        write_whole(page, text)
    except OSError as e:
        raise Dis2Error(f"{e.filename or page} cannot be written: {e.strerror}") from e
    return BuiltReport(page, folder, _missing(sections))


def make_sections(inputs: Inputs, *, tile_count: int) -> tuple[Section, ...]:
    """All of them, in the order of the page. Within ``drawing()``."""
    return (
        headline(inputs),
        scores(inputs),
        confusion(inputs),
        tiles(inputs, count=tile_count),
        calibration(inputs),
        diagnostics(inputs),
        degraded(inputs),
        training(inputs),
        dataset(inputs),
        configuration(inputs),
        provenance(inputs),
    )


def _head(inputs: Inputs) -> Head:
    e = inputs.evaluation
    version = importlib.metadata.version("dis2-jax")
    now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    worst = e.worst
    lead = (
        f"DIS2 on {e.dataset}, from {listing(inputs.card.modality_names)}: mIoU {ratio(e.full.metrics.miou)}"
    )
    if worst is not None and worst.kind != "full":
        lead += f" with everything there, {ratio(worst.metrics.miou)} when only {worst.name} is left"
    return Head(
        title=f"{e.dataset}: {inputs.workdir.resolve().name}",
        lead=f"{lead}.",
        foot=f"Made by dis2_jax {version} on {now} from {inputs.workdir.resolve()}.",
    )


def _figures(sections: Sequence[Section]) -> Iterator[tuple[str, str, str, Rendered]]:
    """Yield (name, title, alt text, drawing)."""
    for section in sections:
        for block in section.blocks:
            if isinstance(block, FigureBlock):
                yield block.name, f"{section.title}: {block.title}", block.alt, block.drawn
            elif isinstance(block, TileBlock) and block.sheet is not None:
                yield block.name, block.title, block.alt, block.sheet


def _write_figures(folder: Path, sections: Sequence[Section]) -> None:
    """Write all figures and ``index.json``, which names them; then remove those that an older index named."""
    folder.mkdir(parents=True, exist_ok=True)
    before = _indexed(folder)
    entries = []
    for name, title, alt, drawn in _figures(sections):
        files = [f"{name}.png", f"{name}.svg"]
        write_whole(folder / files[0], drawn.png)
        write_whole(folder / files[1], drawn.svg)
        entries.append({"name": name, "title": title, "alt": alt, "files": files})
    write_whole(folder / INDEX, json.dumps({"figures": entries}, indent=1))
    for gone in before - {f for e in entries for f in e["files"]}:
        (folder / gone).unlink(missing_ok=True)


def _indexed(folder: Path) -> set[str]:
    """File names in the folder's index that are its own to remove."""
    try:
        entries = json.loads((folder / INDEX).read_text())["figures"]
        names = {str(f) for e in entries for f in e["files"]}
    except (OSError, ValueError, KeyError, TypeError):
        return set()
    return {n for n in names if Path(n).name == n and Path(n).suffix in (".png", ".svg")}


def _missing(sections: Sequence[Section]) -> tuple[str, ...]:
    found = []
    for section in sections:
        for block in section.blocks:
            if isinstance(block, MissingBlock):
                command = f" ({block.command})" if block.command else ""
                found.append(f"{section.title}: {block.text}{command}")
    return tuple(found)
