"""OMBRIA floods from the after-images alone: Sentinel-1 + Sentinel-2, each of which may be missing.

    dis2 data prepare ombria --source ../shared/data/ombria --out data_out/ombria
    dis2 train --config configs/ombria.py --workdir runs/ombria
    dis2 evaluate --workdir runs/ombria

`--config.recipe=released` trains with every switch as published, for comparison - but for the width (16, not 32)
and the batch (one whole chip: as many pixels per step as ours), so that both cost about the same.

Ours, 450 steps, one CPU core, about 5 minutes of steps, seeds 0, 1, 2: test flood IoU 0.659 0.673 0.672 both,
0.453 0.461 0.464 S1, 0.586 0.585 0.585 S2. Released, 450 steps, seed 0: 0.548, 0.425, 0.559; its distillation begins
at epoch 6, step 1632. With 900 steps and distillation from step 90 on: 0.510, 0.432, 0.521.
"""

from typing import Any

from dis2_jax.recipes import base


def get_config(recipe: str = "ours") -> Any:
    c = base(recipe)
    c.data.dir = "data_out/ombria"
    c.data.modalities = ("s1_after", "s2_after")
    c.data.crop = (128, 128)
    c.data.batch_size = 4
    c.model.width = 16
    c.train.steps, c.train.eval_every, c.train.log_every = 450, 225, 10
    if recipe == "ours":
        c.data.scale = (0.8, 1.25)
        c.data.photometric = 0.1
        c.loss.distill_ramp = 5.0
        c.optimizer.learning_rate = 1.5e-3
        c.optimizer.warmup_steps = 40
        c.optimizer.clip_norm = 5.0
        c.optimizer.ema = 0.99
        c.train.scenarios = "all"
    else:  # position tables know one tile size: whole chips, as many pixels per step
        c.data.crop, c.data.batch_size = (0, 0), 1
    return c
