"""Plots of the report, as SVG text that stands in a page by itself."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import matplotlib
from cycler import cycler
from matplotlib.figure import Figure

if TYPE_CHECKING:
    from wmtoolkit.benchmarks.report import Result, Run

_STYLE: Any = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#888888",
    "axes.labelcolor": "#888888",
    "xtick.color": "#888888",
    "ytick.color": "#888888",
    "text.color": "#888888",
    "axes.prop_cycle": cycler(color=["#3b7dd8", "#e07b39", "#3a9d5d", "#9b59b6", "#c0392b"]),
}
"""Grey text and no background: readable on a light page and on a dark one."""


def loss_curve(runs: Sequence[Run]) -> str:
    """Training loss and validation NLL of runs against the step."""
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(9, 3.2), layout="constrained")
        left, right = figure.subplots(1, 2)
        for run in runs:
            train = [(line["step"], line["loss"]) for line in run.metrics if "loss" in line]
            held_out = [
                (line["step"], line["validation_nll_per_step"])
                for line in run.metrics
                if "validation_nll_per_step" in line
            ]
            if train:
                left.plot(*zip(*train, strict=True), label=run.path.name, linewidth=1)
            if held_out:
                right.plot(*zip(*held_out, strict=True), label=run.path.name, marker="o", markersize=3, linewidth=1)
        left.set(xlabel="step", ylabel="training loss (weighted nats a token)", yscale="log")
        right.set(xlabel="step", ylabel="validation NLL bound (nats a step)", yscale="log")
        if len(runs) > 1:
            left.legend(frameon=False)
        return _svg(figure)


def success_chart(rollouts: Sequence[Result]) -> str:
    """Success rates with their 95 % intervals."""
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(9, 0.45 * len(rollouts) + 0.9), layout="constrained")
        axes = figure.subplots()
        for place, item in enumerate(reversed(rollouts)):
            rate = item.document["metrics"]["success_rate"]
            low, high = rate["ci95"]
            axes.barh(place, rate["value"], color="#3b7dd8", alpha=0.75, height=0.6)
            axes.plot([low, high], [place, place], color="#888888", linewidth=2, solid_capstyle="butt")
        axes.set_yticks(range(len(rollouts)), [item.name for item in reversed(rollouts)])
        axes.set(xlim=(0, 1.02), xlabel="success rate, with 95 % Wilson interval")
        return _svg(figure)


def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]
