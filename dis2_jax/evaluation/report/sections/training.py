"""Loss terms, scores and other signals over the steps of the training."""

from __future__ import annotations

from dis2_jax.evaluation.report.blocks import Block, FigureBlock, MissingBlock, Section
from dis2_jax.evaluation.report.drawing.curves import (
    Series,
    brief,
    draw_multiples,
    draw_scores_over_steps,
)
from dis2_jax.evaluation.report.drawing.render import render
from dis2_jax.evaluation.report.inputs import Inputs
from dis2_jax.evaluation.report.sections.text import ratio

_OTHER = {
    "learning_rate": "learning rate",
    "norm/gradients": "gradient norm",
    "norm/updates": "update norm",
    "norm/parameters": "parameter norm",
    "tiles_per_second": "tiles per second",
}


def training(inputs: Inputs) -> Section:
    """Curves from ``metrics.jsonl``."""
    train = {s.name: s for s in inputs.history.curves("train")}
    resumes = _resumes(inputs)
    blocks: list[Block] = []
    if not train:
        blocks.append(MissingBlock("No training was logged here.", f"dis2 train --workdir {inputs.workdir}"))
    losses = [_named(s, s.name.removeprefix("loss/")) for s in train.values() if s.name.startswith("loss")]
    if losses:
        blocks.append(
            _multiples(
                "losses", "Loss terms", losses, resumes, "Terms before their weights; the total is weighted."
            )
        )
    scores = _scenario_scores(inputs)
    if scores:
        blocks.append(_scores(inputs, scores, resumes))
    elif train:
        blocks.append(MissingBlock("No validation yet.", f"dis2 train --workdir {inputs.workdir}"))
    others = [_named(train[name], shown) for name, shown in _OTHER.items() if name in train]
    if others:
        blocks.append(_multiples("signals", "Optimiser and speed", others, resumes, ""))
    return Section("training", "Training", tuple(blocks))


def _named(series: Series, name: str) -> Series:
    return Series("total loss" if name == "loss" else name.replace("_", " "), series.steps, series.values)


def _multiples(
    name: str, title: str, series: list[Series], resumes: tuple[int, ...], caption: str
) -> FigureBlock:
    ends = "; ".join(f"{s.name} from {brief(s.values[0])} to {brief(s.values[-1])}" for s in series)
    told = [caption] if caption else []
    told += [f"Dotted lines: resumed at step {', '.join(map(str, resumes))}."] if resumes else []
    return FigureBlock(
        name=name,
        title=title,
        alt=f"Curves over steps {series[0].steps[0]:.0f} to {series[0].steps[-1]:.0f}: {ends}.",
        drawn=render(draw_multiples(series, resumes=resumes), name=name),
        caption=" ".join(told),
    )


def _scenario_scores(inputs: Inputs) -> list[Series]:
    curves = {s.name.removeprefix("miou/"): s for s in inputs.history.curves("validation")}
    names = [s.name for s in inputs.evaluation.real if s.name in curves]
    return [Series(n, curves[n].steps, curves[n].values) for n in names]


def _scores(inputs: Inputs, scores: list[Series], resumes: tuple[int, ...]) -> FigureBlock:
    best = inputs.history.best_step
    last = "; ".join(f"{s.name} {ratio(float(s.values[-1]))}" for s in scores)
    caption = "" if best is None else f"Best mean over the scenarios at step {best}."
    return FigureBlock(
        name="validation",
        title="Validation mIoU",
        alt=f"Validation mIoU of every scenario over steps. At the last validation: {last}.",
        drawn=render(draw_scores_over_steps(scores, best=best, resumes=resumes), name="validation"),
        caption=caption,
    )


def _resumes(inputs: Inputs) -> tuple[int, ...]:
    return tuple(s.first_step for s in inputs.sessions.value or () if s.first_step)
