"""ISPRS Vaihingen (9 cm, 512-px tiles): irrg + ndsm, each of which may be missing.

    dis2 data prepare vaihingen --source Vaihingen --out data_out/vaihingen
    dis2 train --config configs/vaihingen.py --workdir runs/vaihingen
    dis2 evaluate --workdir runs/vaihingen

`--config.recipe=released` is the published recipe, switch by switch (dis2_jax/recipes.py): raw 0-255 inputs,
SGD with restarts every 15 optimiser steps, 2 batches accumulated, irrg missing in 60 % of the batches. Ours
normalises by the data card, anneals AdamW once, trains both students in every step. Not run yet: no data here.

Without the separate publication of normalised heights: `--height dsm` and `--config.data.modalities=irrg,dsm`.
"""

from typing import Any

from dis2_jax.recipes import base


def get_config(recipe: str = "ours") -> Any:
    c = base(recipe)
    c.data.dir = "data_out/vaihingen"
    c.data.modalities = ("irrg", "ndsm")
    c.model.students = "irrg,ndsm"
    c.train.log_every = 20
    if recipe == "released":
        c.train.scenario_weights = (0.4, 0.6)  # irrg alone, ndsm alone
        c.train.steps, c.train.eval_every = 60_000, 600
    else:
        c.data.crop = (256, 256)
        c.data.batch_size = 16
        c.data.scale = (0.67, 1.5)
        c.data.photometric = 0.1
        c.loss.distill_ramp = 5.0
        c.optimizer.warmup_steps = 500
        c.optimizer.clip_norm = 5.0
        c.optimizer.ema = 0.999
        c.train.scenarios = "all"
        c.train.steps, c.train.eval_every = 40_000, 2000
    return c
