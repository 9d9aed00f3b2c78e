"""Folder in, folder out: scenes matched by what ``*`` stands for, each with the modalities that it has."""

from __future__ import annotations

import dataclasses
import functools
import glob
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from dis2_jax.data.builders.folder_scenes import match_files
from dis2_jax.inference import products
from dis2_jax.inference.inputs import ModalityFile
from dis2_jax.inference.journal import OutputError
from dis2_jax.inference.scene import SceneOptions, SceneResult, predict_scene, run_fingerprint
from dis2_jax.inference.strips import OnWindows
from dis2_jax.schema import Dis2Error

if TYPE_CHECKING:
    from dis2_jax.inference.model import Model

DONE_FILE = ".dis2_done"
"""In the output folder: fingerprints of finished scenes, one a line, so that a stopped run goes on."""


@dataclasses.dataclass(frozen=True)
class FolderResult:
    """Per scene: what was written, or the line that says why not. ``skipped``: done by an earlier run."""

    done: Mapping[str, SceneResult]
    failed: Mapping[str, str]
    skipped: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Watcher:
    """Who hears of the progress: ``on_scene`` (scene, position from 1, scenes in all), then its windows and notes."""

    on_scene: Callable[[str, int, int], None]
    on_windows: OnWindows
    on_note: Callable[[str, str], None]
    """Called with scene and note."""


def has_pattern(path: str | Path) -> bool:
    """Whether a path stands for several files."""
    return glob.has_magic(str(path))


def find_scenes(patterns: Mapping[str, ModalityFile]) -> dict[str, dict[str, ModalityFile]]:
    """Return scene id -> its files by modality, from patterns such as ``dir/*_rgb.tif``.

    Raises ``Dis2Error``: a pattern without files, without ``*``, or two files with one id.
    """
    scenes: dict[str, dict[str, ModalityFile]] = {}
    for name, file in patterns.items():
        if "*" not in str(file.path):
            raise Dis2Error(
                f"--modality {name}={file.path}: with several scenes it must have a * for their ids"
            )
        root, pattern = _split(file.path)
        for scene, path in match_files(root, pattern, f"--modality {name}").items():
            scenes.setdefault(scene, {})[name] = dataclasses.replace(file, path=path)
    return dict(sorted(scenes.items()))


def predict_folder(
    model: Model,
    patterns: Mapping[str, ModalityFile],
    out: Path,
    also: tuple[str, ...],
    options: SceneOptions,
    *,
    watcher: Watcher | None = None,
) -> FolderResult:
    """Predict every scene to ``out/<id>.tif`` and products beside it; a bad scene does not stop the others.

    The grid is that of ``options.reference`` where a scene has it, else of its first modality. Scenes that are
    already there from the same model, input and options are skipped. Raises ``Dis2Error`` for bad patterns, a
    full disk or an ``out`` that cannot be a folder.
    """
    scenes = find_scenes(patterns)
    if out.exists() and not out.is_dir():
        raise Dis2Error(f"--out {out} is a file; several scenes need a folder")
    done: dict[str, SceneResult] = {}
    failed: dict[str, str] = {}
    skipped: list[str] = []
    finished = _finished(out)
    for position, (scene, files) in enumerate(scenes.items(), 1):
        if watcher:
            watcher.on_scene(scene, position, len(scenes))
        own = dataclasses.replace(
            options, reference=options.reference if options.reference in files else None
        )
        paths = products.output_paths(out / f"{scene}.tif", dict.fromkeys(also))
        try:
            model.scenario_of(files)
            fingerprint = run_fingerprint(model, files, paths, own)
            if fingerprint in finished and all(p.is_file() for p in paths.values()):
                skipped.append(scene)
                continue
            done[scene] = predict_scene(
                model,
                files,
                paths,
                own,
                on_windows=watcher.on_windows if watcher else None,
                on_note=functools.partial(watcher.on_note, scene) if watcher else None,
            )
        except OutputError:  # the next scene would meet it too
            raise
        except Dis2Error as e:
            failed[scene] = str(e)
            continue
        _note(out, fingerprint)
    return FolderResult(done, failed, tuple(skipped))


def _split(path: Path) -> tuple[Path, str]:
    """The folder in front of the first part with a wildcard, and the pattern from there on."""
    parts = path.parts
    first = next(i for i, part in enumerate(parts) if glob.has_magic(part))
    return Path(*parts[:first]) if first else Path(), str(Path(*parts[first:]))


def _finished(out: Path) -> set[str]:
    try:
        return set((out / DONE_FILE).read_text().split())
    except OSError:
        return set()


def _note(out: Path, fingerprint: str) -> None:
    with (out / DONE_FILE).open("a") as f:
        f.write(fingerprint + "\n")
