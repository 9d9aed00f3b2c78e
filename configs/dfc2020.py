"""Data fusion contest 2020 (10 m, 256-px patches): Sentinel-1 + Sentinel-2, each of which may be missing.

    dis2 data prepare dfc2020 --source DFC_Public_Dataset.zip --out data_out/dfc2020
    dis2 train --config configs/dfc2020.py --workdir runs/dfc2020
    dis2 evaluate --workdir runs/dfc2020

Eight scored classes. Not run yet: no data here. The same recipe serves SEN12MS (`dis2 data prepare sen12ms`,
`--config.data.dir=data_out/sen12ms`, more steps), and fine-tunes from it with `--config.train.init_from`.
"""

from typing import Any

from dis2_jax.recipes import base


def get_config(recipe: str = "ours") -> Any:
    c = base(recipe)
    c.data.dir = "data_out/dfc2020"
    c.data.modalities = ("s1", "s2")
    c.model.students = "s1,s2"
    c.train.log_every = 20
    c.train.steps, c.train.eval_every = 20_000, 1000
    if recipe == "ours":
        c.data.batch_size = 16
        c.loss.distill_ramp = 5.0
        c.optimizer.warmup_steps = 500
        c.optimizer.clip_norm = 5.0
        c.optimizer.ema = 0.999
        c.train.scenarios = "all"
    return c
