"""TerraMind's five example scenes: Sentinel-2 + Sentinel-1 + elevation, any of which may be missing.

    dis2 data prepare terramind_mini --source ../shared/data/terramind_examples --out data_out/terramind_mini
    dis2 train --config configs/terramind_mini.py --workdir runs/terramind_mini

Twelve training tiles teach nothing that would hold elsewhere: a check of three modalities, 12 + 2 + 1 bands in
physical units, from files to report.
"""

from typing import Any

from dis2_jax.recipes import base


def get_config(recipe: str = "ours") -> Any:
    c = base(recipe)
    c.data.dir = "data_out/terramind_mini"
    c.data.batch_size = 4
    c.model.width = 8
    c.model.students = "single"
    c.train.steps, c.train.eval_every, c.train.log_every = 60, 30, 5
    if recipe == "ours":
        c.loss.distill_ramp = 1.0
        c.train.scenarios = "all"
        c.optimizer.learning_rate = 3e-3
        c.optimizer.warmup_steps = 5
        c.optimizer.clip_norm = 5.0
    return c
