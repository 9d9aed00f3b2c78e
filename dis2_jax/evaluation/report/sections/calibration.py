"""Whether a probability of 0.8 is right 80 times in 100."""

from __future__ import annotations

from dis2_jax.evaluation.report.blocks import Block, FigureBlock, MissingBlock, Section
from dis2_jax.evaluation.report.drawing.reliability import draw_reliability
from dis2_jax.evaluation.report.drawing.render import render
from dis2_jax.evaluation.report.inputs import Inputs
from dis2_jax.evaluation.report.sections.text import order, ratio
from dis2_jax.evaluation.results import ScenarioResult


def calibration(inputs: Inputs) -> Section:
    """One reliability diagram per scenario."""
    known = [s for s in inputs.evaluation.real if s.calibration and s.calibration.ece is not None]
    blocks: list[Block] = [_diagram(inputs, s) for s in known]
    if not blocks:
        blocks.append(MissingBlock("Calibration is not measured.", inputs.command("evaluate")))
    intro = (
        "Pixels by the probability of their predicted class. Above the diagonal the model is better than it says,"
        " below it is overconfident. ECE: mean distance from the diagonal, weighted by pixels."
    )
    return Section("calibration", "Calibration", tuple(blocks), intro if known else "")


def _diagram(inputs: Inputs, s: ScenarioResult) -> FigureBlock:
    assert s.calibration is not None
    name = f"calibration-{order(inputs.evaluation, s)}-{s.name.replace('+', '-')}"
    bins = [b for b in s.calibration.bins if b.confidence is not None and b.accuracy is not None]
    lean = sum(b.count * ((b.confidence or 0) - (b.accuracy or 0)) for b in bins)
    total = sum(b.count for b in bins)
    word = "overconfident" if lean > 0 else "underconfident"
    told = f"ECE {ratio(s.calibration.ece)}; {word} by {ratio(abs(lean) / total)} on average."
    return FigureBlock(
        name=name,
        title=s.name,
        alt=f"Reliability diagram of {s.name}. {told}",
        drawn=render(draw_reliability(s.calibration, series=order(inputs.evaluation, s)), name=name),
        caption=told,
    )
