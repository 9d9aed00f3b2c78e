"""OMBRIA floods from both dates: 4 modalities, S1 and S2 before and after the flood.

    dis2 data prepare ombria --source ../shared/data/ombria --out data_out/ombria
    dis2 train --config configs/ombria4.py --workdir runs/ombria4
    dis2 evaluate --workdir runs/ombria4

Students: one sensor alone with both dates, and each after-image lost while the rest is there.
"""

from typing import Any

from dis2_jax.recipes import base

STUDENTS = (
    "s1_before+s1_after",
    "s2_before+s2_after",
    "s1_before+s2_before+s1_after",
    "s1_before+s2_before+s2_after",
)


def get_config(recipe: str = "ours") -> Any:
    c = base(recipe)
    c.data.dir = "data_out/ombria"
    c.data.modalities = ("s1_before", "s2_before", "s1_after", "s2_after")
    c.data.crop = (128, 128)
    c.data.batch_size = 8
    c.model.students = ",".join(STUDENTS)
    c.train.steps, c.train.eval_every, c.train.log_every = 2000, 250, 10
    if recipe == "ours":
        c.data.scale = (0.8, 1.25)
        c.data.photometric = 0.1
        c.model.width = 16
        c.loss.distill_ramp = 5.0
        c.optimizer.warmup_steps = 100
        c.optimizer.clip_norm = 5.0
        c.optimizer.ema = 0.99
        c.train.scenario_weights = (0.3, 0.3, 0.2, 0.2)
    return c
