"""ISPRS Potsdam (5 cm, 512-px tiles): rgb + ndsm, each of which may be missing.

    dis2 data prepare potsdam --source Potsdam --stray-colors nearest --out data_out/potsdam
    dis2 train --config configs/potsdam.py --workdir runs/potsdam
    dis2 evaluate --workdir runs/potsdam

`--config.recipe=released` is the published recipe, switch by switch (dis2_jax/recipes.py): raw 0-255 inputs,
SGD with restarts every 15 optimiser steps, 2 batches accumulated, rgb missing in 60 % of the batches. Ours
normalises by the data card, anneals AdamW once, trains both students in every step. Not run yet: no data here.

The published model knows five classes: `dis2 data prepare potsdam --clutter ignore ...` makes them.

Another `--image`, `--height` or `--tile` of the preparation goes with `--config.data.modalities=irrg,dsm` and the like.
Scores without the sixth class: `dis2 evaluate --exclude clutter`, with eroded boundaries as ISPRS has them.
"""

from typing import Any

from dis2_jax.recipes import base


def get_config(recipe: str = "ours") -> Any:
    c = base(recipe)
    c.data.dir = "data_out/potsdam"
    c.data.modalities = ("rgb", "ndsm")
    c.model.students = "rgb,ndsm"
    c.train.log_every = 20
    if recipe == "released":
        c.data.samples_per_epoch = 1200  # of about 3100 tiles, drawn afresh
        c.train.scenario_weights = (0.4, 0.6)  # rgb alone, ndsm alone
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
