"""OMBRIA floods from both dates: 4 modalities, S1 and S2 before and after the flood.

    dis2 data prepare ombria --source ../shared/data/ombria --out data_out/ombria
    dis2 train --config configs/ombria4.py --workdir runs/ombria4
    dis2 evaluate --workdir runs/ombria4

Students: one sensor alone, with both dates. More: --config.model.students=s1_before+s2_before+s1_after,...

Seed 0, on one CPU core, 1.5 to 2 s per step: test flood IoU 0.767 all, 0.610 S1, 0.684 S2 (best checkpoint: step 2800).
Other seeds, runs in a row, and runs without distillation come to 0.76 to 0.77, 0.59 to 0.63, 0.67 to 0.69: README.
For use: `prepare ombria --holdout 1`, 4800 steps, the last checkpoint: 0.771, 0.634, 0.696 (README).
"""

from typing import Any

from dis2_jax.recipes import base

STUDENTS = ("s1_before+s1_after", "s2_before+s2_after")


def get_config(recipe: str = "ours") -> Any:
    c = base(recipe)
    c.data.dir = "data_out/ombria"
    c.data.modalities = ("s1_before", "s2_before", "s1_after", "s2_after")
    c.data.crop = (128, 128)
    c.data.batch_size = 4
    c.model.width = 16
    c.model.students = ",".join(STUDENTS)
    c.train.steps, c.train.eval_every, c.train.log_every = 3200, 400, 10
    if recipe == "ours":
        c.data.scale = (0.8, 1.25)
        c.data.photometric = 0.1
        c.loss.cross_entropy = "balanced"  # IoU of a doubtful flood is best above a threshold below one half
        c.loss.distill_ramp = 5.0
        c.optimizer.learning_rate = 2e-3
        c.optimizer.warmup_steps = 100
        c.optimizer.clip_norm = 5.0
        c.optimizer.ema = 0.995
        c.train.scenarios = "all"
    else:  # position tables know one tile size: whole chips, as many pixels per step
        c.data.crop, c.data.batch_size = (0, 0), 1
    return c
