"""Synthetic city, small: shows the method on a laptop in minutes.

    dis2 data prepare synthetic_city --out data_out/synthetic_city
    dis2 train --config configs/demo.py --workdir runs/demo
    dis2 evaluate --workdir runs/demo
"""

from typing import Any

from dis2_jax.recipes import base


def get_config(recipe: str = "ours") -> Any:
    c = base(recipe)
    c.data.dir = "data_out/synthetic_city"
    c.model.width = 8
    c.train.seed = 0
    if recipe == "ours":
        c.data.batch_size = 8
        c.data.rotate90 = True
        c.optimizer.learning_rate = 3e-3
        c.optimizer.warmup_steps = 20
        c.optimizer.ema = 0.98
        c.train.scenarios = "all"
    c.train.steps = 400
    c.train.eval_every = 200
    c.train.log_every = 10
    return c
