"""``vaihingen``: the ISPRS Vaihingen benchmark as published, 33 areas of different sizes at 9 cm.

Labels have the names of the orthophotos (``top_mosaic_09cm_area1.tif``): what lies in ``top`` is an image, the rest
labels. Normalised heights are a publication of their own (M. Gerke, "Normalized DSM - heights encoded in dm").
"""

from __future__ import annotations

from dis2_jax.data.builders.isprs import Benchmark, Image
from dis2_jax.data.builders.published import Product

_COMPLETE = "ISPRS_semantic_labeling_Vaihingen_ground_truth_COMPLETE"
_ERODED = "ISPRS_semantic_labeling_Vaihingen_ground_truth_eroded"

VAIHINGEN = Benchmark(
    name="vaihingen",
    train=("1", "3", "5", "7", "11", "13", "15", "17", "21", "23", "26", "28", "30", "32", "34", "37"),
    test=(
        *("2", "4", "6", "8", "10", "12", "14", "16", "20", "22", "24", "27", "29", "31", "33", "35", "38"),
    ),
    prefix="area",
    images={
        "irrg": Image(
            Product(
                "orthophoto",
                r"top_mosaic_09cm_area(\d+)\.tif",
                "top_mosaic_09cm_area1.tif",
                ("top",),
                strict=True,
            ),
            ("infrared", "red", "green"),
        )
    },
    dsm=Product("height model", r"dsm_09cm_matching_area(\d+)\.tif", "dsm_09cm_matching_area1.tif", ("dsm",)),
    ndsm={
        "gerke": Product(
            "normalised height model",
            r"dsm_09cm_matching_area(\d+)_normalized\.jpg",
            "dsm_09cm_matching_area1_normalized.jpg",
            ("ndsm", "nDSM"),
        )
    },
    labels={
        "full": Product(
            "label",
            r"top_mosaic_09cm_area(\d+)\.tif",
            "top_mosaic_09cm_area1.tif",
            (_COMPLETE, "gts_for_participants"),
            not_in=("top",),
        ),
        "eroded": Product(
            "label with eroded boundaries",
            r"top_mosaic_09cm_area(\d+)_noBoundary\.tif",
            "top_mosaic_09cm_area1_noBoundary.tif",
            (f"{_ERODED}_COMPLETE", f"{_ERODED}_for_participants", "gts_eroded_for_participants"),
        ),
    },
    ground_sampling_distance=0.09,
    source=(
        "ISPRS 2D semantic labelling benchmark, Vaihingen (isprs.org/education/benchmarks/UrbanSemLab); "
        "data of the German Society for Photogrammetry, Remote Sensing and Geoinformation (DGPF; Cramer, 2010)"
    ),
    licence="for research, not to be passed on; publications must cite Cramer (2010) and thank the DGPF",
)
VALIDATION = ("5", "15", "21", "30")
