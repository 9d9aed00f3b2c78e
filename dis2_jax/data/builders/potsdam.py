"""``potsdam``: the ISPRS Potsdam benchmark as published, 38 scenes of 6000 x 6000 pixels at 5 cm.

Names as in the publication: orthophotos and labels without leading zeros (``top_potsdam_2_10_RGB.tif``), heights with
(``dsm_potsdam_02_10.tif``). The archives ``5_Labels_*.zip`` have no folder inside. Heights of 3_13 lack a column.
"""

from __future__ import annotations

from dis2_jax.data.builders.isprs import Benchmark, Image
from dis2_jax.data.builders.published import Product

_SCENE = r"(\d+)_(\d+)"


def _image(name: str, folder: str, bands: tuple[str, ...]) -> Image:
    product = Product(
        f"{name} orthophoto",
        rf"top_potsdam_{_SCENE}_{name}\.tif",
        f"top_potsdam_2_10_{name}.tif",
        (folder,),
    )
    return Image(product, bands)


def _ndsm(variant: str) -> Product:
    return Product(
        f"normalised height model ({variant})",
        rf"dsm_potsdam_{_SCENE}_normalized_{variant}\.jpg",
        f"dsm_potsdam_02_10_normalized_{variant}.jpg",
        ("1_DSM_normalisation",),
    )


POTSDAM = Benchmark(
    name="potsdam",
    train=tuple(
        f"{row}_{col}"
        for row, cols in ((2, range(10, 13)), (3, range(10, 13)), (4, range(10, 13)), (5, range(10, 13)))
        for col in cols
    )
    + tuple(f"{row}_{col}" for row in (6, 7) for col in range(7, 13)),
    test=(
        *("2_13", "2_14", "3_13", "3_14", "4_13", "4_14", "4_15"),
        *("5_13", "5_14", "5_15", "6_13", "6_14", "6_15", "7_13"),
    ),
    prefix="",
    images={
        "rgb": _image("RGB", "2_Ortho_RGB", ("red", "green", "blue")),
        "irrg": _image("IRRG", "3_Ortho_IRRG", ("infrared", "red", "green")),
        "rgbir": _image("RGBIR", "4_Ortho_RGBIR", ("red", "green", "blue", "infrared")),
    },
    dsm=Product("height model", rf"dsm_potsdam_{_SCENE}\.tif", "dsm_potsdam_02_10.tif", ("1_DSM",)),
    ndsm={variant: _ndsm(variant) for variant in ("lastools", "ownapproach")},
    labels={
        "full": Product(
            "label",
            rf"top_potsdam_{_SCENE}_label\.tif",
            "top_potsdam_2_10_label.tif",
            ("5_Labels_all", "5_Labels_for_participants"),
        ),
        "eroded": Product(
            "label with eroded boundaries",
            rf"top_potsdam_{_SCENE}_label_noBoundary\.tif",
            "top_potsdam_2_10_label_noBoundary.tif",
            ("5_Labels_all_noBoundary", "5_Labels_for_participants_no_Boundary"),
        ),
    },
    ground_sampling_distance=0.05,
    source="ISPRS 2D semantic labelling benchmark, Potsdam (isprs.org/education/benchmarks/UrbanSemLab)",
    licence="for research; conditions on the benchmark's page",
)
VALIDATION = ("2_11", "4_10", "6_11")
