"""Writes miniature publications: the names, folders, archives and encodings of the originals, a few pixels large."""

import zipfile

import numpy as np
from PIL import Image
from raster_files import write_raster

from dis2_jax.data.builders.isprs_labels import COLORS

SIDE = 64


def label_colors(g, size, *, block=8):
    """Blocks of all six class colours: uint8 [h, w, 3]."""
    classes = np.kron(g.integers(0, 6, (-(-size[0] // block), -(-size[1] // block))), np.ones((block, block)))
    classes = classes[: size[0], : size[1]].astype(int)
    return np.array(COLORS, np.uint8)[classes]


def save_jpeg(path, x):
    """Write an 8-bit grey JPEG of best quality."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(x, "L" if x.ndim == 2 else "RGB").save(path, quality=100)


def write_world_file(path, *, origin, pixel):
    """Write a .tfw: pixel sizes and the centre of the first pixel."""
    lines = (pixel, 0.0, 0.0, -pixel, origin[0] + pixel / 2, origin[1] - pixel / 2)
    path.with_suffix(".tfw").write_text("".join(f"{v:.6f}\n" for v in lines))


def pack(folder, *, inner=False):
    """Zip a folder as published: with its own name inside (``inner``) or its content at the top."""
    archive = folder.with_suffix(".zip")
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as z:
        for path in sorted(folder.rglob("*")):
            z.write(path, path.relative_to(folder.parent if inner else folder))
            if path.is_file():
                path.unlink()
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rmdir()
    folder.rmdir()
    return archive


def write_potsdam(root, ids, *, size=(SIDE, SIDE), packed=True, labels="5_Labels_all"):
    """Potsdam scenes in all products, with .tfw files; returns id -> label colours."""
    g = np.random.default_rng(0)
    colors = {}
    for i in ids:
        row, col = (int(n) for n in i.split("_"))
        long = f"{row:02d}_{col:02d}"
        origin = (366_000.0 + 300 * col, 5_808_000.0 - 300 * row)
        rgbir = g.integers(0, 256, (*size, 4), dtype=np.uint8)
        for folder, name, bands in (
            ("2_Ortho_RGB", "RGB", (0, 1, 2)),
            ("3_Ortho_IRRG", "IRRG", (3, 0, 1)),
            ("4_Ortho_RGBIR", "RGBIR", (0, 1, 2, 3)),
        ):
            path = root / folder / f"top_potsdam_{i}_{name}.tif"
            write_raster(path, np.ascontiguousarray(rgbir[..., bands]))
            write_world_file(path, origin=origin, pixel=0.05)
        dsm = g.uniform(30, 60, size).astype(np.float32)
        path = write_raster(root / "1_DSM" / f"dsm_potsdam_{long}.tif", dsm)
        write_world_file(path, origin=origin, pixel=0.05)
        for variant in ("lastools", "ownapproach"):
            smooth = np.kron(g.integers(0, 255, (size[0] // 8 + 1, size[1] // 8 + 1)), np.ones((8, 8)))
            heights = smooth[: size[0], : size[1]].astype(np.uint8)
            save_jpeg(root / "1_DSM_normalisation" / f"dsm_potsdam_{long}_normalized_{variant}.jpg", heights)
        colors[i] = label_colors(g, size)
        write_raster(root / labels / f"top_potsdam_{i}_label.tif", colors[i])
        eroded = colors[i].copy()
        eroded[::8] = 0
        write_raster(root / f"{labels}_noBoundary" / f"top_potsdam_{i}_label_noBoundary.tif", eroded)
    if packed:
        for folder in sorted(p for p in root.iterdir() if p.is_dir()):
            pack(folder, inner=not folder.name.startswith("5_Labels_all"))
    return colors


def write_vaihingen(root, sizes, *, packed=True):
    """Vaihingen areas of the given (height, width): image archive, ground truths, normalised heights."""
    g = np.random.default_rng(1)
    colors = {}
    main = root / "ISPRS_semantic_labeling_Vaihingen"
    for area, size in sizes.items():
        name = f"top_mosaic_09cm_area{area}"
        write_raster(main / "top" / f"{name}.tif", g.integers(0, 256, (*size, 3), dtype=np.uint8))
        write_raster(
            main / "dsm" / f"dsm_09cm_matching_area{area}.tif", g.uniform(240, 290, size).astype(np.float32)
        )
        heights = np.full(size, 10 * int(area), np.uint8)
        heights[: size[0] // 2] = 0
        save_jpeg(root / "nDSM" / f"dsm_09cm_matching_area{area}_normalized.jpg", heights)
        colors[area] = label_colors(g, size)
        complete = root / "ISPRS_semantic_labeling_Vaihingen_ground_truth_COMPLETE"
        write_raster(complete / f"{name}.tif", colors[area])
        write_raster(main / "gts_for_participants" / f"{name}.tif", colors[area])
        eroded = colors[area].copy()
        eroded[::8] = 0
        folder = root / "ISPRS_semantic_labeling_Vaihingen_ground_truth_eroded_COMPLETE"
        write_raster(folder / f"{name}_noBoundary.tif", eroded)
    if packed:
        for folder in sorted(p for p in root.iterdir() if p.is_dir()):
            pack(folder)
    return colors


def write_patches(root, scenes, numbers, *, label, codes, dem=False, side=256):
    """SEN12MS or contest patches: ``<season>/<sensor>_<scene>/<season>_<sensor>_<scene>_p<number>.tif``."""
    g = np.random.default_rng(2)
    written = {}
    for season, scene in scenes:
        for number in numbers:
            arrays = {
                "s1": g.normal(-12, 4, (side, side, 2)).astype(np.float32),
                "s2": g.integers(0, 10_000, (side, side, 13), dtype=np.uint16),
                label: np.kron(g.choice(codes, (8, 8)), np.ones((side // 8, side // 8))).astype(np.uint16),
            }
            if label == "lc":
                arrays["lc"] = np.stack([arrays["lc"], *(arrays["lc"] * 0 + k for k in (11, 22, 33))], -1)
            if dem:
                arrays["dem"] = g.uniform(0, 900, (side, side)).astype(np.float32)
            for kind, x in arrays.items():
                path = root / season / f"{kind}_{scene}" / f"{season}_{kind}_{scene}_p{number}.tif"
                write_raster(path, x, crs="EPSG:32632", origin=(5e5, 5e6), pixel=10.0)
            written[f"{season}_{scene}_p{number}"] = arrays
    return written
